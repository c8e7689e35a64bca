"""From an image of any size to the model's input: reads it, resizes, crops and pads its pixels as planned."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF

from .image_geometry import MAX_ASPECT, Fit, ImageGeometry, fit_geometry
from .image_loading import HUGE_PIXELS, ImageInput, load_reduced, own_name
from .safe_text import escape_control

_BICUBIC_RADIUS = 2


@dataclass(frozen=True)
class FitSettings:
    """The settings of a processor that decide which pixels the model sees.

    Attributes:
        fit: "crop", "aspect" or "pad".
        shortest_edge: Length in pixels of the shortest side before the crop; None crops without resizing.
        output_size: `(height, width)` of the model's input in pixels; None keeps that of the image.
        patch_size: Side of a patch in pixels.
        fill_value: Grey value of the bars, in [0, 1].
        apply_icc_profile: Whether a colour profile in the file is applied.
    """

    fit: Fit
    shortest_edge: int | None
    output_size: tuple[int, int] | None
    patch_size: int
    fill_value: float
    apply_icc_profile: bool

    def plan(self, height: int, width: int) -> ImageGeometry:
        """Returns how an image of this size is resized, cropped or padded."""
        output = self.output_size or (height, width)
        return fit_geometry((height, width), self.fit, self.shortest_edge, output, self.patch_size)

    def reduction(self, height: int, width: int) -> int:
        """Returns how many times smaller an image may be decoded: above 1 only for those of more than `HUGE_PIXELS`."""
        return self.plan(height, width).reduction if height * width > HUGE_PIXELS else 1


def read_fitted(source: ImageInput, settings: FitSettings, name: str | None = None) -> tuple[Tensor, ImageGeometry]:
    """Reads an image and fits it to the model.

    Args:
        source: The image, as `load_rgb` takes it.
        settings: How it is fitted.
        name: Name of the image in errors; None takes the path.

    Returns:
        Its pixels, `(3, h, w)`, uint8 or float32 in [0, 1], and how it was fitted.

    Raises:
        Errors of `load_rgb`, and ValueError if the image does not fit the settings. The message names the image.
    """
    try:
        pixels, (height, width) = load_reduced(source, settings.reduction, name, settings.apply_icc_profile)
        plan = settings.plan(height, width)
        return apply_geometry(pixels, plan, settings.fill_value), plan
    except (ValueError, TypeError) as error:
        shown = escape_control(name or own_name(source) or "")
        if not shown or shown in str(error) or type(error) not in (ValueError, TypeError):
            raise
        raise type(error)(f"{shown}: {error}") from error


def apply_geometry(image: Tensor, plan: ImageGeometry, fill_value: float) -> Tensor:
    """Resizes, crops and pads an image `(3, H, W)` as planned: antialiased bicubic, floats clamped to [0, 1].

    An image that was read at a reduced scale is resized from there. Of an image that is longer than `MAX_ASPECT` times
    its shorter side only the part that stays is resized.
    """
    (top, left), (height, width) = plan.offset, plan.output_size
    if plan.resized_size != tuple(image.shape[1:]):
        if top >= 0 and left >= 0 and max(plan.original_size) > MAX_ASPECT * min(plan.original_size):
            return _resize_part(image, plan)
        image = tvF.resize(image, list(plan.resized_size), interpolation=InterpolationMode.BICUBIC, antialias=True)
        if image.is_floating_point():
            image = image.clamp(0, 1)
    image = tvF.crop(image, max(top, 0), max(left, 0), min(height, image.shape[1]), min(width, image.shape[2]))
    if top < 0 or left < 0 or image.shape[1:] != (height, width):
        above, before = max(-top, 0), max(-left, 0)
        fill = round(255 * fill_value) if image.dtype == torch.uint8 else fill_value
        padding = [before, above, width - image.shape[2] - before, height - image.shape[1] - above]
        image = tvF.pad(image, padding, fill=fill)
    return image


def _resize_part(image: Tensor, plan: ImageGeometry) -> Tensor:
    """Resizes only the part of an image that stays after the crop, with the same filter: a level may differ."""
    spans, starts = [], []
    for side, resized, offset, length in zip(
        image.shape[1:], plan.resized_size, plan.offset, plan.output_size, strict=True
    ):
        first, last = offset * side / resized, min((offset + length) * side / resized, side)
        reach = _BICUBIC_RADIUS * max(side / resized, 1) + 1
        start, stop = max(0, math.floor(first - reach)), min(side, math.ceil(last + reach))
        spans.append(slice(start, stop))
        starts.append((first - start, last - start))
    part = image[:, spans[0], spans[1]]
    box = (starts[1][0], starts[0][0], starts[1][1], starts[0][1])
    size = plan.output_size[::-1]
    channels = [
        np.array(Image.fromarray(channel.contiguous().numpy()).resize(size, Image.Resampling.BICUBIC, box))
        for channel in part
    ]
    resized_part = torch.from_numpy(np.stack(channels))
    return resized_part.clamp(0, 1) if image.is_floating_point() else resized_part
