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
    is_used,
    resize_panel,
    size_in_box,
)

MARGIN = 28
GAP = 18
LARGE = 384
COLUMNS = 8
HEADING = 66
CAPTION = 34
SMALL_CAPTION = 44
SMALL_TEXT = 14
MAX_TOKENS = 256  # that a page shows
UNUSED = (200, 203, 208)  # the colour of a token that the image does not use
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
    left_inside, top_inside = max(box[0], 0), max(box[1], 0)
    inside = image[:, top_inside : box[3], left_inside : box[2]]  # before floats are made of it, which take memory
    region = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), PADDING)
    region.paste(to_pil(as_float(inside)), (left_inside - box[0], top_inside - box[1]))
    return region


def _compose(content: _Content) -> Image.Image:
    """Places the large panels and, below them, one small panel per token."""
    aspect = content.pixel_values.shape[3] / content.pixel_values.shape[2]
    page_width = 2 * MARGIN + 3 * LARGE + 2 * GAP
    small_side = (page_width - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    large, small = size_in_box(aspect, LARGE, 2 * LARGE), size_in_box(aspect, small_side, 2 * small_side)
    num_rows = math.ceil(min(content.localization.shape[1], MAX_TOKENS) / COLUMNS)
    tokens_top = HEADING + CAPTION + large[1] + GAP + CAPTION
    canvas = Canvas(page_width, tokens_top + num_rows * (small[1] + SMALL_CAPTION + GAP) + MARGIN - GAP)
    canvas.text(MARGIN, MARGIN - 8, canvas.fit(content.title, 26, page_width - 2 * MARGIN), 26)
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
    panels = [(f"input, {height} x {width} pixels", resize_panel(to_pil(content.pixel_values[0]), size))]
    if content.reconstruction is not None:
        num_tokens = content.localization.shape[1]
        noun = "token" if num_tokens == 1 else "tokens"
        label = f"decoded from {num_tokens} {noun}: PSNR {content.facts.psnr:.1f} dB"
        panels.append((label, resize_panel(to_pil(content.reconstruction[0]), size)))
    assignment = draw_assignment(resize_panel(content.seen, size), content.localization, content.grid_size)
    panels.append(("the token each place belongs to most", assignment))
    return panels


def _bright_value(localization: Tensor) -> float:
    """Returns the value of `L` that is drawn bright: half of the used tokens reach it."""
    return float(localization.max(dim=0).values[is_used(localization)].median())


def _explanation(localization: Tensor) -> str:
    """Explains the small panels; the value that is drawn bright tells how sharp the maps are."""
    text = (
        f"each token's map L on one scale: dim at 0, bright from {_bright_value(localization):.2f} on; below, its "
        "share of the area: the mean of its map"
    )
    num_tokens = localization.shape[1]
    return text if num_tokens <= MAX_TOKENS else f"{text}; {MAX_TOKENS} of {num_tokens} tokens"


def _draw_tokens(canvas: Canvas, content: _Content, panel: Image.Image, top: int, side: int) -> None:
    """Draws a small panel per token, with its number, colour and share of the area, the largest share first.

    The brightness has one scale for all tokens, so that a token that the image does not use stays dark.
    """
    localization, shares = content.localization, content.facts.shares
    colors = (token_colors(localization.shape[1]) * 255).round().int().tolist()
    used, value_range = is_used(localization).tolist(), (0.0, _bright_value(localization))
    for place, token in enumerate(shares.argsort(descending=True)[:MAX_TOKENS].tolist()):
        row, column = divmod(place, COLUMNS)
        left, y = MARGIN + column * (side + GAP), top + row * (panel.height + SMALL_CAPTION + GAP)
        canvas.paste(left, y, draw_token(panel, localization, token, content.grid_size, value_range))
        y += panel.height
        color = tuple(colors[token]) if used[token] else UNUSED
        label = f"{shares[token]:.1%}" if used[token] else "unused"
        free = side - 25 - canvas.text_width(label, SMALL_TEXT)
        name = f"token {token}" if canvas.text_width(f"token {token}", SMALL_TEXT) <= free else str(token)
        canvas.swatch(left, y + 9, 13, color)
        canvas.text(left + 19, y + 6, name, SMALL_TEXT)
        canvas.text(left + side - canvas.text_width(label, SMALL_TEXT), y + 6, label, SMALL_TEXT, FAINT)
        canvas.bar(left, y + 30, side, 5, float(shares[token] / shares.max()), color)
