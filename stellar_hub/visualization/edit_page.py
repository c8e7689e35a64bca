"""A page about one edit: the image, its decoding before and after, the difference, and the maps of the tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stellar_hub.measures import psnr
from stellar_hub.modeling.localization_maps import to_pil, token_colors
from stellar_hub.visualization.canvas import FAINT, Canvas, draw_token, resize_panel, size_in_box

MARGIN = 28
GAP = 18
LARGE = 320
HEADING = 66
CAPTION = 32
TEXT, SMALL_TEXT = 17, 14
PAIR_GAP = 6
PAIR_CAPTION = 58
MAX_PAIRS = 8  # tokens whose maps a page shows


@dataclass(frozen=True)
class EditedImage:
    """One state of an image, before or after an edit.

    Attributes:
        decoded: The image that the encoding decodes to, `(3, H', W')` in [0, 1].
        localization: `L` of the image, `(n, r)`. After an edit there may be more tokens; the first have their numbers.
    """

    decoded: Tensor
    localization: Tensor


@dataclass(frozen=True)
class EditFacts:
    """How much an edit changes the decoded image. This is no measure of quality.

    Attributes:
        mean: Mean absolute difference of the values before and after, in [0, 1].
        largest: Largest absolute difference of a pixel, as the mean over its channels, in [0, 1].
    """

    mean: float
    largest: float


def draw_edit(
    before: EditedImage,
    after: EditedImage,
    grid_size: tuple[int, int],
    tokens: Mapping[int, str],
    title: str,
    pixel_values: Tensor | None = None,
) -> tuple[Image.Image, EditFacts]:
    """Draws an edit as one page.

    Args:
        before: The image before the edit, on the CPU.
        after: The image after it.
        grid_size: Rows and columns of patches, `(h, w)`.
        tokens: What was done to each token that was touched, such as "dropped", by its number. Of more than eight the
            page shows those whose maps changed most.
        title: Heading of the page.
        pixel_values: The image as the model sees it, `(3, H, W)` in [0, 1]. None if only its code is known.

    Returns:
        The page, an RGB image 1390 or about 1050 pixels wide, and its numbers.
    """
    after = EditedImage(after.decoded.float().cpu(), after.localization.float().cpu())
    maps = F.pad(before.localization.float().cpu(), (0, after.localization.shape[1] - before.localization.shape[1]))
    before = EditedImage(before.decoded.float().cpu(), maps)
    change = (after.decoded - before.decoded).abs().mean(dim=0)  # (H', W')
    facts = EditFacts(float(change.mean()), float(change.max()))
    panels = _large_panels(before, after, change, facts, pixel_values)
    aspect = before.decoded.shape[2] / before.decoded.shape[1]
    small_side = (LARGE - PAIR_GAP) // 2
    large, small = size_in_box(aspect, LARGE, 2 * LARGE), size_in_box(aspect, small_side, 2 * small_side)
    shown = _most_changed(before, after, tokens)
    width = 2 * MARGIN + len(panels) * (LARGE + GAP) - GAP
    bottom = HEADING + CAPTION + large[1]
    pairs_top = bottom + GAP + CAPTION
    num_rows = math.ceil(len(shown) / len(panels))
    height = pairs_top + num_rows * (small[1] + PAIR_CAPTION) if shown else bottom
    canvas = Canvas(width, height + MARGIN)
    canvas.text(MARGIN, MARGIN - 8, canvas.fit(title, 26, width - 2 * MARGIN), 26)
    for index, (label, panel) in enumerate(panels):
        left = MARGIN + index * (LARGE + GAP)
        canvas.text(left, HEADING, canvas.fit(label, TEXT, LARGE), TEXT)
        canvas.paste(left, HEADING + CAPTION - 6, resize_panel(panel, large))
    if shown:
        canvas.text(MARGIN, pairs_top - CAPTION + 2, _explanation(shown, tokens), TEXT)
    for index, token in enumerate(shown):
        row, column = divmod(index, len(panels))
        place = (MARGIN + column * (LARGE + GAP), pairs_top + row * (small[1] + PAIR_CAPTION))
        _draw_pair(canvas, place, small, (before, after), grid_size, token, tokens[token])
    return canvas.image, facts


def _large_panels(
    before: EditedImage, after: EditedImage, change: Tensor, facts: EditFacts, pixel_values: Tensor | None
) -> list[tuple[str, Image.Image]]:
    """Returns the label and the image of each large panel."""
    quality, panels = "", []
    if pixel_values is not None:
        height, width = pixel_values.shape[-2:]
        panels.append((f"input, {height} x {width} pixels", to_pil(pixel_values)))
        quality = f": PSNR {psnr(before.decoded[None], pixel_values[None]):.1f} dB"
    panels.append((f"decoded before{quality}", to_pil(before.decoded)))
    panels.append(("decoded after the edit", to_pil(after.decoded)))
    scale = f"mean {facts.mean:.2f}, white is {facts.largest:.2f}" if facts.largest else "there is none"
    shown = change / facts.largest if facts.largest else change
    panels.append((f"difference: {scale}", to_pil(shown.expand(3, -1, -1))))
    return panels


def _most_changed(before: EditedImage, after: EditedImage, tokens: Mapping[int, str]) -> list[int]:
    """Returns the tokens that the page shows, in the order in which they are given."""
    if len(tokens) <= MAX_PAIRS:
        return list(tokens)
    change = (after.localization - before.localization).abs().sum(dim=0)
    chosen = sorted(tokens, key=lambda token: -float(change[token]))[:MAX_PAIRS]
    return [token for token in tokens if token in chosen]


def _explanation(shown: list[int], tokens: Mapping[int, str]) -> str:
    """Explains the small panels."""
    count = f"; {len(shown)} of {len(tokens)} touched tokens" if len(shown) < len(tokens) else ""
    return f"maps of the touched tokens, before and after: dim at 0, bright at the pair's peak{count}"


def _draw_pair(
    canvas: Canvas,
    place: tuple[int, int],
    size: tuple[int, int],
    sides: tuple[EditedImage, EditedImage],
    grid_size: tuple[int, int],
    token: int,
    caption: str,
) -> None:
    """Draws the map of a token before and after, over what the image decodes to, and below what was done."""
    left, top = place
    peak = max(1e-6, *(float(side.localization[:, token].max()) for side in sides))
    for index, side in enumerate(sides):
        panel = resize_panel(to_pil(side.decoded), size)
        map_ = draw_token(panel, side.localization, token, grid_size, (0.0, peak))
        canvas.paste(left + index * (LARGE + PAIR_GAP) // 2, top, map_)
    color = (token_colors(sides[1].localization.shape[1])[token] * 255).round().int().tolist()
    areas = " -> ".join(f"{float(side.localization[:, token].mean()):.1%}" for side in sides)
    top += size[1] + 8
    canvas.swatch(left, top + 3, 13, tuple(color))
    canvas.text(left + 19, top, canvas.fit(f"token {token} {caption}", SMALL_TEXT, LARGE - 19), SMALL_TEXT)
    canvas.text(left + 19, top + 19, f"{areas} of the area, peak {peak:.2f}", SMALL_TEXT, FAINT)
