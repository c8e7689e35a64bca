"""Previews of a run: a few fixed images with their reconstructions and the maps of their tokens."""

import itertools
import logging
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources import ImageSource, JoinedSources, read_image
from stellar_hub.data.sources.image_source import ImageItem
from stellar_hub.data.streams import DamagedShardError, ImageStream
from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.image_loading import is_fault_of_machine
from stellar_hub.modeling.localization_maps import as_float, to_pil, token_colors
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.training.monitoring.undisturbed import undisturbed
from stellar_hub.visualization import FAINT, Canvas, draw_assignment, draw_token, resize_panel, size_in_square

logger = logging.getLogger(__name__)

NUM_FIXED_IMAGES = 6
FIXED_IMAGE_TRIES = 60

MAX_ROWS = 8
NUM_SHARPEST = 4
SIDE = 176  # the rest is in pixels of the preview, too
MARGIN = 24
GAP = 12
TITLE = 40
HEAD = 28
CAPTION = 26
TEXT = 15


def fixed_images(source: JoinedSources | ImageStream, config: StellarConfig) -> Tensor:
    """Reads a few images as the model sees them at evaluation.

    Args:
        source: Source of the run; the images are spread over it. From a stream, it reads the first images.
        config: Configuration of the model.

    Returns:
        At most 6 images, `(N, 3, H, W)` in [0, 1].

    Raises:
        ValueError: if none of the images that were tried can be read.
        OSError: if the machine is full: too many files are open, or no memory is left; or MemoryError.
    """
    processor = StellarImageProcessor.from_config(config)
    images: dict[str, Tensor] = {}
    problems: list[str] = []
    for image in some_images(source, problems):
        try:
            images[str(image)] = processor(read_image(image), return_tensors="pt")["pixel_values"]
        except Exception as error:
            if is_fault_of_machine(error):
                raise
            problems.append(str(error))
        if len(images) == NUM_FIXED_IMAGES:
            break
    if not images:
        first = f"; the first: {one_line(mask_secrets(problems[0]))}" if problems else ""
        raise ValueError(f"none of {len(problems)} images can be read{first}")
    return torch.cat(list(images.values()))


def some_images(
    source: JoinedSources | ImageStream, problems: list[str], count: int = FIXED_IMAGE_TRIES
) -> Iterator[ImageItem]:
    """Yields up to `count` images of a source or stream; why others cannot be had is appended to `problems`."""
    if isinstance(source, JoinedSources):
        return spread_images(source, problems, count)
    return first_images(source, problems, count)


def spread_images(source: ImageSource, problems: list[str], count: int = FIXED_IMAGE_TRIES) -> Iterator[ImageItem]:
    """Yields up to `count` images spread over a source, in an order in which the first few are spread, too."""
    step = (len(source) - 1) / (count - 1)
    tries = dict.fromkeys(round(index * step) for index in range(count))
    seen: set[ImageItem] = set()
    for index in dict.fromkeys([*list(tries)[:: max(1, len(tries) // NUM_FIXED_IMAGES)], *tries]):
        try:
            image = source[index]
        except Exception as error:
            if is_fault_of_machine(error):
                raise
            problems.append(str(error))
            continue
        if image not in seen:
            seen.add(image)
            yield image


def first_images(stream: ImageStream, problems: list[str], count: int = FIXED_IMAGE_TRIES) -> Iterator[ImageItem]:
    """Yields up to `count` images of the first shard of a stream that has images."""
    for shard in range(min(len(stream.shards), FIXED_IMAGE_TRIES)):
        found = False
        try:
            for image in itertools.islice(stream.read(shard), count):
                found = True
                yield image
        except (DamagedShardError, OSError) as error:
            if is_fault_of_machine(error):
                raise
            problems.append(str(error))
            logger.warning("a shard cannot be read: %s", one_line(mask_secrets(str(error))))
        if found:
            return


def draw_preview(model: StellarModel, images: Tensor, title: str | None = None) -> Image.Image:
    """Draws one row per image: the image, its reconstruction, the strongest token of each place, the sharpest maps.

    A token's map is sharp if its peak is high above its mean. A model that cannot decode has no reconstructions. The
    model runs in evaluation mode; afterwards each module has the mode that it had before.

    Args:
        model: Model on any device.
        images: `(B, 3, H, W)` in [0, 1] or uint8, sides multiples of the patch; the first 8 are drawn.
        title: Title, such as "step 200"; None for none.

    Returns:
        An RGB image.

    Raises:
        ValueError: if shape or values of the images do not fit the model.
    """
    images = images[:MAX_ROWS].detach()
    grid = model.grid_size(*images.shape[-2:])
    with undisturbed(model):
        encoding = model.encode(images.to(model.device))
        # A run that went wrong should still be seen, and `decode` refuses values that are not finite.
        finite = [tensor.nan_to_num(0) for tensor in encoding]
        # We do not call `reconstruct`, because it would encode again.
        decoded = model.decode(*finite, grid_size=grid).float().cpu() if model.can_decode else None
    if decoded is not None:
        decoded = decoded.nan_to_num(0)
    localization = finite[1].float().cpu()
    return _compose(torch.stack([as_float(image) for image in images.cpu()]), decoded, localization, grid, title)


def _compose(
    images: Tensor, decoded: Tensor | None, localization: Tensor, grid: tuple[int, int], title: str | None
) -> Image.Image:
    """Draws all rows; tensors are float32 on the CPU."""
    size = size_in_square(images.shape[3] / images.shape[2], SIDE)
    num_tokens = localization.shape[2]
    heads = ["input", *([] if decoded is None else [f"decoded, {num_tokens} tokens"]), "strongest token"]
    num_columns = len(heads) + min(NUM_SHARPEST, num_tokens)
    top = MARGIN + (TITLE if title else 0)
    row_height = size[1] + CAPTION + GAP
    width = 2 * MARGIN + num_columns * (size[0] + GAP) - GAP
    canvas = Canvas(width, top + HEAD + len(images) * row_height - GAP + MARGIN // 2)
    if title:
        canvas.text(MARGIN, MARGIN - 8, title, 26)
    for column, head in enumerate([*heads, "the sharpest tokens' maps"]):
        canvas.text(MARGIN + column * (size[0] + GAP), top, head, TEXT)
    for row, image in enumerate(images):
        panels = _panels(image, None if decoded is None else decoded[row], localization[row], grid, size)
        _draw_row(canvas, top + HEAD + row * row_height, panels, num_tokens)
    return canvas.image


def _panels(
    image: Tensor, decoded: Tensor | None, localization: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> list[tuple[Image.Image, str, int | None]]:
    """Returns the panels of one image `(3, H, W)`: drawing, caption, and the token that it shows or None."""
    seen = resize_panel(to_pil(image), size)
    panels: list[tuple[Image.Image, str, int | None]] = [(seen, "", None)]
    if decoded is not None:
        panels.append((resize_panel(to_pil(decoded), size), f"PSNR {psnr(decoded, image):.1f} dB", None))
    used = localization.argmax(dim=1).unique().numel()
    panels.append((draw_assignment(seen, localization, grid), f"{used} of {localization.shape[1]} tokens", None))
    for token in _sharpest_tokens(localization):
        caption = f"token {token}, peak {localization[:, token].max():.2f}"
        panels.append((draw_token(seen, localization, token, grid), caption, token))
    return panels


def _draw_row(canvas: Canvas, top: int, panels: list[tuple[Image.Image, str, int | None]], num_tokens: int) -> None:
    colors = (token_colors(num_tokens) * 255).round().int().tolist()
    for column, (panel, caption, token) in enumerate(panels):
        left, below = MARGIN + column * (panel.width + GAP), top + panel.height + 5
        canvas.paste(left, top, panel)
        if token is not None:
            canvas.swatch(left, below + 3, 11, tuple(colors[token]))
        canvas.text(left + (16 if token is not None else 0), below, caption, TEXT, FAINT)


def _sharpest_tokens(localization: Tensor, count: int = NUM_SHARPEST) -> list[int]:
    """Returns the tokens of one image, `L` `(n, r)`, whose peaks are highest above their means; at most `count`."""
    contrast = localization.amax(dim=0) - localization.mean(dim=0)
    return contrast.argsort(descending=True, stable=True)[:count].tolist()
