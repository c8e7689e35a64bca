"""One page about one image: input, reconstruction, assignment map, and each token's map with its share of area."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.measures.image_quality import psnr
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.image_geometry import ImageGeometry
from stellar_hub.modeling.image_loading import ImageInput, load_rgb
from stellar_hub.modeling.localization_maps import as_float, overlay_assignment, overlay_token, to_pil, token_colors
from stellar_hub.visualization.canvas import FAINT, Canvas, shorten

MARGIN = 28
GAP = 18
LARGE = 384
COLUMNS = 8
HEADING = 66
CAPTION = 34
BARS = (128, 128, 128)  # what the processor pads with
SMALL_CAPTION = 44


@dataclass(frozen=True)
class PageFacts:
    """What a page shows, as numbers.

    Attributes:
        psnr: Of the reconstruction against the input, in dB; None without a decoder.
        shares: Mean of each token's map, `(r,)`; they sum to 1.
    """

    psnr: float | None
    shares: Tensor


def draw_page(
    model: StellarModel, processor: StellarImageProcessor, image: ImageInput, title: str | None = None
) -> tuple[Image.Image, PageFacts]:
    """Encode an image, decode it, and draw what happened.

    Args:
        model: The model; without a decoder the reconstruction is left out.
        processor: Its image processor.
        image: A path, PIL image, array or tensor.
        title: Heading; None takes the file's name.

    Returns:
        The page, an RGB image about 1240 pixels wide, and its numbers.
    """
    pixels = load_rgb(image)
    plan = processor.geometry(pixels)
    pixel_values = processor(pixels, return_tensors="pt")["pixel_values"].to(model.device)
    grid = model.grid_size(*pixel_values.shape[-2:])
    with torch.inference_mode():
        encoding = model.encode(pixel_values)
        reconstruction = model.decode(*encoding, grid_size=grid).cpu() if can_decode(model) else None
    localization = encoding.localization[0].float().cpu()
    facts = PageFacts(reconstruction_psnr(reconstruction, pixel_values.cpu()), localization.mean(dim=0))
    name = title or (Path(image).name if isinstance(image, str | os.PathLike) else "image")
    page = compose(seen_region(pixels, plan), pixel_values.cpu(), reconstruction, localization, grid, facts, name)
    return page, facts


def can_decode(model: StellarModel) -> bool:
    """Whether the model has all that `decode` needs."""
    return model.decoder is not None and (model.tokenizer is not None or model.config.reconstruction_head == "pixel")


def reconstruction_psnr(reconstruction: Tensor | None, pixel_values: Tensor) -> float | None:
    """PSNR against the input, which is resized where the tokenizer decodes to another size; None without one."""
    if reconstruction is None:
        return None
    if reconstruction.shape != pixel_values.shape:
        pixel_values = torch.nn.functional.interpolate(
            pixel_values, size=reconstruction.shape[-2:], mode="bicubic", align_corners=False
        ).clamp(0, 1)
    return psnr(reconstruction, pixel_values)


def seen_region(image: Tensor, plan: ImageGeometry) -> Image.Image:
    """The part of the original that the model saw, in the original's own resolution up to the panel's."""
    top, left, bottom, right = plan.crop_box
    box = (round(left), round(top), round(right), round(bottom))
    original = to_pil(as_float(image))
    region = Image.new("RGB", (box[2] - box[0], box[3] - box[1]), BARS)
    region.paste(original, (-box[0], -box[1]))
    return region


def panel_size(aspect: float, side: int) -> tuple[int, int]:
    """`(width, height)` of an image of this width-to-height ratio in a square of `side` pixels."""
    return (side, max(1, round(side / aspect))) if aspect >= 1 else (max(1, round(side * aspect)), side)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resized with Pillow's bicubic, which antialiases."""
    return image.resize(size, Image.Resampling.BICUBIC)


def compose(
    seen: Image.Image,
    pixel_values: Tensor,
    reconstruction: Tensor | None,
    localization: Tensor,
    grid: tuple[int, int],
    facts: PageFacts,
    title: str,
) -> Image.Image:
    """Place the panels; all tensors on the CPU."""
    height, width = pixel_values.shape[-2:]
    aspect = width / height
    page_width = 2 * MARGIN + 3 * LARGE + 2 * GAP
    small_side = (page_width - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    large, small = panel_size(aspect, LARGE), panel_size(aspect, small_side)
    num_tokens = localization.shape[1]
    num_rows = math.ceil(num_tokens / COLUMNS)
    tokens_top = HEADING + CAPTION + large[1] + GAP + CAPTION
    canvas = Canvas(page_width, tokens_top + num_rows * (small[1] + SMALL_CAPTION + GAP) + MARGIN - GAP)
    canvas.text(MARGIN, MARGIN - 8, shorten(title, 60), 26)
    panels = [(f"input, {width} x {height} pixels", resized(to_pil(pixel_values[0]), large))]
    if reconstruction is not None:
        count = localization.shape[1]
        label = f"decoded from {count} tokens: PSNR {facts.psnr:.1f} dB"
        panels.append((label, resized(to_pil(reconstruction[0].float()), large)))
    panels.append(
        (
            "the token each place belongs to most",
            overlay_assignment(as_panel(seen, large), localization, *whole(large, grid)),
        )
    )
    for index, (label, panel) in enumerate(panels):
        left = MARGIN + index * (LARGE + GAP)
        canvas.text(left, HEADING, label, 17)
        canvas.paste(left, HEADING + CAPTION - 6, panel)
    canvas.text(MARGIN, tokens_top - CAPTION + 4, explanation(localization), 17)
    draw_tokens(canvas, as_panel(seen, small), localization, grid, facts, tokens_top, small_side)
    return canvas.image


def explanation(localization: Tensor) -> str:
    """What the small images show; how high the maps rise says how sharp they are."""
    peaks = localization.max(dim=0).values
    return (
        f"each token's map L, dim where it is lowest, bright at its peak (peaks: {peaks.min():.2f} to "
        f"{peaks.max():.2f}); below, its share of the area: the mean of its map"
    )


def as_panel(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A PIL image at a panel's size, `(3, height, width)` uint8."""
    return load_rgb(resized(image, size))


def whole(size: tuple[int, int], grid: tuple[int, int]) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """Crop box of a panel that shows just what the model saw, and the grid over it."""
    return (0.0, 0.0, float(size[1]), float(size[0])), grid


def draw_tokens(
    canvas: Canvas,
    panel: Tensor,
    localization: Tensor,
    grid: tuple[int, int],
    facts: PageFacts,
    top: int,
    side: int,
) -> None:
    """The small multiples: one image per token, with its number, colour and share of the area."""
    height, width = panel.shape[1:]
    colors = (token_colors(localization.shape[1]) * 255).round().int().tolist()
    largest = float(facts.shares.max())
    for place, token in enumerate(facts.shares.argsort(descending=True).tolist()):
        row, column = divmod(place, COLUMNS)
        left, y = MARGIN + column * (side + GAP), top + row * (height + SMALL_CAPTION + GAP)
        canvas.paste(left, y, overlay_token(panel, localization, token, *whole((width, height), grid)))
        color = tuple(colors[token])
        share = float(facts.shares[token])
        canvas.swatch(left, y + height + 9, 13, color)
        canvas.text(left + 19, y + height + 6, f"token {token}", 15)
        label = f"{share:.1%}"
        canvas.text(left + width - canvas.text_width(label, 15), y + height + 6, label, 15, FAINT)
        canvas.bar(left, y + height + 30, width, 5, share / largest, color)
