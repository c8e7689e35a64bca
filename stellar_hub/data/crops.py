"""Random resized crops: the global and local views of a picture.

The crop's rule is torchvision's `RandomResizedCrop`, drawn from a generator of ours instead of the global one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

_TRIES = 10  # as in torchvision


@dataclass(frozen=True)
class ViewSettings:
    """How many views are drawn from a picture, and how.

    Raises:
        ValueError: if a value is out of its range.
    """

    image_size: int  # side of the global views, in pixels
    local_size: int  # side of the local views
    num_global_views: int  # at least 1
    num_local_views: int  # 0: none
    global_area: tuple[float, float]  # smallest and largest part of the picture that a view shows, in (0, 1]
    local_area: tuple[float, float]
    flip_probability: float  # of mirroring a view left to right
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
    """Draw the views of a picture: first the global ones, then the local ones, each a crop, then its flip.

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
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
        raise ValueError(f"image must be uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")
    # Channels last, as pictures come from files: resizing is twice as fast.
    image = image[None].contiguous(memory_format=torch.channels_last)[0]

    def draw(count: int, size: int, area: tuple[float, float]) -> Tensor:
        views = torch.empty(count, 3, size, size, dtype=torch.uint8)
        for view in views:
            box = draw_crop_box(image.shape[1], image.shape[2], area, settings.aspect_ratio, generator)
            flipped = torch.rand((), generator=generator).item() < settings.flip_probability
            crop = F.resized_crop(image, *box, size=[size, size], interpolation=InterpolationMode.BICUBIC)
            view.copy_(crop.flip(-1) if flipped else crop)
        return views

    global_views = draw(settings.num_global_views, settings.image_size, settings.global_area)
    if not settings.num_local_views:
        return global_views, None
    return global_views, draw(settings.num_local_views, settings.local_size, settings.local_area)


def draw_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw which part of a picture to show.

    Its area is uniform in `area`, its width by height log-uniform in `ratio`. Where ten draws do not fit into the
    picture, it is the largest part in the middle whose shape is allowed.

    Args:
        height: The picture's, in pixels.
        width: The same.
        area: Smallest and largest area, as parts of the picture's.
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
