"""Random resized crops: the global and local views of an image.

The crop's rule is torchvision's `RandomResizedCrop`, drawn from a generator of ours instead of the global one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

_TRIES = 10  # as in torchvision


@dataclass(frozen=True)
class ViewSettings:
    """How many views are drawn from an image, and how.

    Raises:
        ValueError: if a value is out of its range.
    """

    image_size: int  # side of the global views, in pixels
    local_size: int  # side of the local views
    num_global_views: int  # at least 1
    num_local_views: int  # 0: none
    global_area: tuple[float, float]  # smallest and largest part of the image that a view shows, in (0, 1]
    local_area: tuple[float, float]
    flip_probability: float  # of mirroring a view left to right
    reduced_decoding: bool = False  # whether JPEGs are decoded at a half, ... of their size where that is enough
    device_crops: bool = False  # whether views are left to the device to cut, which gets the image and their places
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width by height of the part shown

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("local_size", 1), ("num_global_views", 1), ("num_local_views", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("global_area", "local_area"):
            area = getattr(self, name)
            if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
                raise ValueError(f"{name} must be (smallest, largest) within (0, 1], got {area}")
        if len(self.aspect_ratio) != 2 or not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1] < math.inf:
            raise ValueError(f"aspect_ratio must be (smallest, largest), above 0, got {self.aspect_ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must be within [0, 1], got {self.flip_probability}")


def draw_views(image: Tensor, settings: ViewSettings, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Draw the views of an image: first the global ones, then the local ones, each a crop, then its flip.

    Args:
        image: `(3, H, W)` uint8, of any size.
        settings: What to draw.
        generator: Source of all draws.

    Returns:
        Global views `(num_global_views, 3, image_size, image_size)` and local views
        `(num_local_views, 3, local_size, local_size)`, uint8; None instead of the latter if there are none.

    Raises:
        ValueError: if the image is of another type or shape.
    """
    check_image(image)
    global_views, local_views = plan_views(image.shape[1], image.shape[2], settings, generator)
    return render_views(image, global_views), render_views(image, local_views) if local_views else None


@dataclass(frozen=True)
class View:
    """Which part of an image a view shows, and how."""

    box: tuple[int, int, int, int]  # top, left, height, width, in pixels of the image
    flipped: bool  # left to right, after the crop
    size: int  # the view's side, in pixels

    def scaled(self, down: float, right: float, height: int, width: int) -> "View":
        """The same part of the image at another size: lengths times `down` and `right`, whole and within it."""
        top, left = min(round(self.box[0] * down), height - 1), min(round(self.box[1] * right), width - 1)
        box_height = min(max(1, round(self.box[2] * down)), height - top)
        box_width = min(max(1, round(self.box[3] * right)), width - left)
        return View((top, left, box_height, box_width), self.flipped, self.size)


def plan_views(
    height: int, width: int, settings: ViewSettings, generator: torch.Generator
) -> tuple[list[View], list[View]]:
    """Draw what the views of an image of this size show: the global and the local ones."""

    def draw(count: int, size: int, area: tuple[float, float]) -> list[View]:
        views = []
        for _ in range(count):
            box = draw_crop_box(height, width, area, settings.aspect_ratio, generator)
            views.append(View(box, torch.rand((), generator=generator).item() < settings.flip_probability, size))
        return views

    global_views = draw(settings.num_global_views, settings.image_size, settings.global_area)
    return global_views, draw(settings.num_local_views, settings.local_size, settings.local_area)


def render_views(image: Tensor, views: Sequence[View]) -> Tensor:
    """Cut views of one size out of an image `(3, H, W)` uint8: `(len(views), 3, size, size)` uint8."""
    # Channels last, as images come from files: resizing is twice as fast.
    image = image[None].contiguous(memory_format=torch.channels_last)[0]
    size = views[0].size
    rendered = torch.empty(len(views), 3, size, size, dtype=torch.uint8)
    for view, place in zip(views, rendered, strict=True):
        crop = F.resized_crop(image, *view.box, size=[size, size], interpolation=InterpolationMode.BICUBIC)
        place.copy_(crop.flip(-1) if view.flipped else crop)
    return rendered


def check_image(image: Tensor) -> None:
    """Raise ValueError unless an image is `(3, H, W)` uint8, with pixels."""
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
        raise ValueError(f"image must be uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")


def draw_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw which part of an image to show.

    Its area is uniform in `area`, its width by height log-uniform in `ratio`. Where ten draws do not fit into the
    image, it is the largest part in the middle whose shape is allowed.

    Args:
        height: The image's, in pixels.
        width: The same.
        area: Smallest and largest area, as parts of the image's.
        ratio: Smallest and largest width by height.
        generator: Source of all draws.

    Returns:
        Top, left, height and width, in pixels; height and width are at least 1.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        # All four are drawn at once, used or not: small draws cost more than what is drawn.
        size, shape, down, right = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        pixels = height * width * (area[0] + size * (area[1] - area[0]))
        aspect = math.exp(low + shape * (high - low))
        box_height, box_width = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            return int(down * (height - box_height + 1)), int(right * (width - box_width + 1)), box_height, box_width
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
