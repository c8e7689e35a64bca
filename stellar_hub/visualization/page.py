"""A page about one image: input, reconstruction, assignment map, and each token's map with its share of the area."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.image_geometry import ImageGeometry
from stellar_hub.modeling.image_loading import ImageInput, load_rgb
from stellar_hub.modeling.localization_maps import as_float, to_pil, token_colors
from stellar_hub.visualization.canvas import (
    FAINT,
    Canvas,
    draw_assignment,
    draw_token,
    resize_panel,
    shorten,
    size_in_square,
)

MARGIN = 28
GAP = 18
LARGE = 384
COLUMNS = 8
HEADING = 66
CAPTION = 34
SMALL_CAPTION = 44
PADDING = (128, 128, 128)  # the colour that the processor pads with


@dataclass(frozen=True)
class PageFacts:
    """The numbers that a page shows.

    Attributes:
        psnr: PSNR of the reconstruction against the input, in dB. None if the model cannot decode.
        shares: Mean of each token's map, `(r,)`. They sum to 1.
    """

    psnr: float | None
    shares: Tensor


@dataclass(frozen=True)
class _Content:
    """What a page shows of one image. All tensors are on the CPU."""

    title: str
    seen: Image.Image
    pixel_values: Tensor  # (1, 3, H, W)
    reconstruction: Tensor | None  # (1, 3, H', W')
    localization: Tensor  # (n, r)
    grid_size: tuple[int, int]
    facts: PageFacts


def draw_page(
    model: StellarModel, processor: StellarImageProcessor, image: ImageInput, title: str | None = None
) -> tuple[Image.Image, PageFacts]:
    """Encodes an image, decodes it, and draws the result as one page.

    Args:
        model: Model that encodes. If it cannot decode, the page has no reconstruction.
        processor: Image processor of the model.
        image: Path, PIL image, array or tensor.
        title: Heading of the page. None takes the name of the file.

    Returns:
        The page, an RGB image about 1240 pixels wide, and its numbers.
    """
    pixels = load_rgb(image)
    geometry = processor.geometry(pixels)
    pixel_values = processor(pixels, return_tensors="pt")["pixel_values"].to(model.device)
    grid_size = model.grid_size(*pixel_values.shape[-2:])
    with torch.inference_mode():
        encoding = model.encode(pixel_values)
        reconstruction = model.decode(*encoding, grid_size=grid_size).float().cpu() if model.can_decode else None
    pixel_values, localization = pixel_values.cpu(), encoding.localization[0].float().cpu()
    decibels = None if reconstruction is None else psnr(reconstruction, pixel_values)
    facts = PageFacts(decibels, localization.mean(dim=0))
    name = title or (Path(image).name if isinstance(image, str | os.PathLike) else "image")
    seen = _seen_region(pixels, geometry)
    return _compose(_Content(name, seen, pixel_values, reconstruction, localization, grid_size, facts)), facts


def _seen_region(image: Tensor, geometry: ImageGeometry) -> Image.Image:
    """Cuts the part that the model saw out of the original image, in the original's own resolution."""
    top, left, bottom, right = geometry.crop_box
    box = (round(left), round(top), round(right), round(bottom))
    region = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), PADDING)
    region.paste(to_pil(as_float(image)), (-box[0], -box[1]))
    return region


def _compose(content: _Content) -> Image.Image:
    """Places the large panels and, below them, one small panel per token."""
    aspect = content.pixel_values.shape[3] / content.pixel_values.shape[2]
    page_width = 2 * MARGIN + 3 * LARGE + 2 * GAP
    small_side = (page_width - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    large, small = size_in_square(aspect, LARGE), size_in_square(aspect, small_side)
    num_rows = math.ceil(content.localization.shape[1] / COLUMNS)
    tokens_top = HEADING + CAPTION + large[1] + GAP + CAPTION
    canvas = Canvas(page_width, tokens_top + num_rows * (small[1] + SMALL_CAPTION + GAP) + MARGIN - GAP)
    canvas.text(MARGIN, MARGIN - 8, shorten(content.title, 60), 26)
    for index, (label, panel) in enumerate(_large_panels(content, large)):
        left = MARGIN + index * (LARGE + GAP)
        canvas.text(left, HEADING, label, 17)
        canvas.paste(left, HEADING + CAPTION - 6, panel)
    canvas.text(MARGIN, tokens_top - CAPTION + 4, _explanation(content.localization), 17)
    _draw_tokens(canvas, content, resize_panel(content.seen, small), tokens_top, small_side)
    return canvas.image


def _large_panels(content: _Content, size: tuple[int, int]) -> list[tuple[str, Image.Image]]:
    """Returns the label and the image of each large panel."""
    height, width = content.pixel_values.shape[-2:]
    panels = [(f"input, {width} x {height} pixels", resize_panel(to_pil(content.pixel_values[0]), size))]
    if content.reconstruction is not None:
        label = f"decoded from {content.localization.shape[1]} tokens: PSNR {content.facts.psnr:.1f} dB"
        panels.append((label, resize_panel(to_pil(content.reconstruction[0]), size)))
    assignment = draw_assignment(resize_panel(content.seen, size), content.localization, content.grid_size)
    panels.append(("the token each place belongs to most", assignment))
    return panels


def _explanation(localization: Tensor) -> str:
    """Explains the small panels. The height of the peaks tells how sharp the maps are."""
    peaks = localization.max(dim=0).values
    return (
        f"each token's map L, dim where it is lowest, bright at its peak (peaks: {peaks.min():.2f} to "
        f"{peaks.max():.2f}); below, its share of the area: the mean of its map"
    )


def _draw_tokens(canvas: Canvas, content: _Content, panel: Image.Image, top: int, side: int) -> None:
    """Draws a small panel per token, with its number, colour and share of the area, the largest share first."""
    width, height = panel.size
    shares = content.facts.shares
    colors = (token_colors(content.localization.shape[1]) * 255).round().int().tolist()
    largest = float(shares.max())
    for place, token in enumerate(shares.argsort(descending=True).tolist()):
        row, column = divmod(place, COLUMNS)
        left, y = MARGIN + column * (side + GAP), top + row * (height + SMALL_CAPTION + GAP)
        canvas.paste(left, y, draw_token(panel, content.localization, token, content.grid_size))
        color = tuple(colors[token])
        share = float(shares[token])
        canvas.swatch(left, y + height + 9, 13, color)
        canvas.text(left + 19, y + height + 6, f"token {token}", 15)
        label = f"{share:.1%}"
        canvas.text(left + width - canvas.text_width(label, 15), y + height + 6, label, 15, FAINT)
        canvas.bar(left, y + height + 30, width, 5, share / largest, color)
