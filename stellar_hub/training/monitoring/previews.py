"""How far the model is, as an image: a few fixed images, what is decoded from their tokens, and the tokens' maps."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources import ImageSource, JoinedSources, read_image
from stellar_hub.data.sources.image_source import ImageItem
from stellar_hub.data.streams import DamagedShardError, ImageStream
from stellar_hub.measures import psnr
from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.localization_maps import as_float, to_pil, token_colors
from stellar_hub.visualization import FAINT, Canvas, draw_assignment, draw_token, resize_panel, size_in_square

logger = logging.getLogger(__name__)

NUM_FIXED_IMAGES = 6
FIXED_IMAGE_TRIES = 60


def fixed_images(source: JoinedSources | ImageStream, config: StellarConfig) -> Tensor:
    """A few readable images as the model sees them at evaluation: spread over the source, or a stream's first ones.

    Raises:
        ValueError: if none of those tried can be read.
    """
    processor = StellarImageProcessor.from_config(config)
    images: dict[str, Tensor] = {}
    problems = []
    for image in candidates(source) if isinstance(source, JoinedSources) else first_images(source):
        try:
            images[str(image)] = processor(read_image(image), return_tensors="pt")["pixel_values"]
        except (ValueError, OSError) as error:
            problems.append(str(error))
        if len(images) == NUM_FIXED_IMAGES:
            break
    if not images:
        first = f"; the first: {problems[0]}" if problems else ""
        raise ValueError(f"none of {len(problems)} images tried can be read{first}")
    return torch.cat(list(images.values()))


def candidates(source: ImageSource) -> Iterable[ImageItem]:
    """Images spread over a source, in an order in which the first few are spread as well."""
    step = (len(source) - 1) / (FIXED_IMAGE_TRIES - 1)
    tries = dict.fromkeys(round(index * step) for index in range(FIXED_IMAGE_TRIES))
    spread = [*list(tries)[:: max(1, len(tries) // NUM_FIXED_IMAGES)], *tries]
    return dict.fromkeys(source[index] for index in spread)


def first_images(stream: ImageStream) -> Iterator[ImageItem]:
    """The first images of a stream's first shard that has some."""
    for shard in range(len(stream.shards)):
        found = False
        try:
            for image in itertools.islice(stream.read(shard), FIXED_IMAGE_TRIES):
                found = True
                yield image
        except DamagedShardError as error:
            logger.warning("a shard cannot be read on: %s", error)
        if found:
            return


MAX_ROWS = 8
NUM_SHARPEST = 4
SIDE = 176
MARGIN = 24
GAP = 12
TITLE = 40
HEAD = 28
CAPTION = 26
TEXT = 15


@torch.inference_mode()
def draw_preview(model: StellarModel, images: Tensor, title: str | None = None) -> Image.Image:
    """Draw a row for each image: itself, its reconstruction, the map of all tokens, and the sharpest tokens' maps.

    A map is the sharper the higher its peak rises above its mean. The reconstruction is left out where the model
    cannot decode. The model is put into evaluation mode, and left with each module in the mode it was in.

    Args:
        model: The model, on any device.
        images: `(B, 3, H, W)` in [0, 1] or uint8, sides multiples of the patch; the first 8 are drawn.
        title: Heading, such as "step 200"; None for none.

    Returns:
        An RGB image.

    Raises:
        ValueError: if the images' shape or values do not fit the model.
    """
    images = images[:MAX_ROWS].detach()
    grid = model.grid_size(*images.shape[-2:])
    with evaluating(model):
        encoding = model.encode(images.to(model.device))
        decoded = model.decode(*encoding, grid_size=grid).float().cpu() if model.can_decode else None
    if decoded is not None:
        decoded = decoded.nan_to_num(0)  # of a run gone wrong, which should still be seen
    localization = encoding.localization.float().cpu().nan_to_num(0)
    return compose(torch.stack([as_float(image) for image in images.cpu()]), decoded, localization, grid, title)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; after it each module is in the mode it was in, frozen parts too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def compose(
    images: Tensor, decoded: Tensor | None, localization: Tensor, grid: tuple[int, int], title: str | None
) -> Image.Image:
    """Place the panels of all rows; tensors as float32 on the CPU."""
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
        reconstruction = None if decoded is None else decoded[row]
        draw_row(canvas, top + HEAD + row * row_height, image, reconstruction, localization[row], grid, size)
    return canvas.image


def draw_row(
    canvas: Canvas,
    top: int,
    image: Tensor,
    decoded: Tensor | None,
    localization: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """The panels of one image `(3, H, W)`, each with a word beneath it."""
    seen = resize_panel(to_pil(image), size)
    panels: list[tuple[Image.Image, str, int | None]] = [(seen, "", None)]
    if decoded is not None:
        panels.append((resize_panel(to_pil(decoded), size), f"PSNR {psnr(decoded, image):.1f} dB", None))
    used = localization.argmax(dim=1).unique().numel()
    panels.append((draw_assignment(seen, localization, grid), f"{used} of {localization.shape[1]} tokens", None))
    for token in sharpest_tokens(localization):
        caption = f"token {token}, peak {localization[:, token].max():.2f}"
        panels.append((draw_token(seen, localization, token, grid), caption, token))
    colors = (token_colors(localization.shape[1]) * 255).round().int().tolist()
    for column, (panel, caption, key) in enumerate(panels):
        left, below = MARGIN + column * (size[0] + GAP), top + size[1] + 5
        canvas.paste(left, top, panel)
        if key is not None:
            canvas.swatch(left, below + 3, 11, tuple(colors[key]))
        canvas.text(left + (16 if key is not None else 0), below, caption, TEXT, FAINT)


def sharpest_tokens(localization: Tensor, count: int = NUM_SHARPEST) -> list[int]:
    """The tokens of one image, `L` `(n, r)`, whose maps' peaks rise highest above their means; at most `count`."""
    contrast = localization.amax(dim=0) - localization.mean(dim=0)
    return contrast.argsort(descending=True, stable=True)[:count].tolist()
