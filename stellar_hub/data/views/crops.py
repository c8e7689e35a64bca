"""Random resized crops: the global and local views of an image, cut by a worker or on the device.

The rule of a crop is torchvision's `RandomResizedCrop`, drawn from a generator that is passed in. Workers cut views
with torchvision. `cut_views` cuts the same views on the device, by antialiased bicubic resampling as two matrix
products; a worker then decodes the image only and hands it over once instead of all its views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

_MAX_TRIES = 10  # as in torchvision
_CUBIC_COEFFICIENT = -0.5  # of the kernel (Keys 1981), as torchvision and Pillow antialias
_KERNEL_RADIUS = 2.0
_MOST_WEIGHTS = 2**26  # of the resampling of one image's views, on the device


@dataclass(frozen=True)
class ViewSettings:
    """How many views are drawn from an image, and how.

    Attributes:
        image_size: Side of the global views in pixels.
        local_size: Side of the local views in pixels.
        num_global_views: Number of global views, at least 1.
        num_local_views: Number of local views, at least 0.
        global_area: Smallest and largest part of the image's area that a global view shows, in (0, 1].
        local_area: Smallest and largest part of the image's area that a local view shows, in (0, 1].
        flip_probability: Probability that a view is mirrored left to right.
        reduced_decoding: Whether JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where that is enough.
        device_crops: Whether the device cuts the views. Samples then hold the image and the views' boxes.
        aspect_ratio: Smallest and largest width divided by height of the part that a view shows.

    Raises:
        ValueError: if a value is out of its range.
    """

    image_size: int
    local_size: int
    num_global_views: int
    num_local_views: int
    global_area: tuple[float, float]
    local_area: tuple[float, float]
    flip_probability: float
    reduced_decoding: bool = False
    device_crops: bool = False
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, minimum in (("image_size", 1), ("local_size", 1), ("num_global_views", 1), ("num_local_views", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)}")
        for name in ("global_area", "local_area"):
            area = getattr(self, name)
            if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
                raise ValueError(f"{name} must be (smallest, largest) within (0, 1], got {area}")
        if len(self.aspect_ratio) != 2 or not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1] < math.inf:
            raise ValueError(f"aspect_ratio must be (smallest, largest), above 0, got {self.aspect_ratio}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability must be within [0, 1], got {self.flip_probability}")


@dataclass(frozen=True)
class View:
    """The part of an image that a view shows.

    Attributes:
        box: Top, left, height and width of the part, in pixels of the image.
        flipped: Whether the view is mirrored left to right after the crop.
        size: Side of the view in pixels.
    """

    box: tuple[int, int, int, int]
    flipped: bool
    size: int

    def scaled(self, down: float, right: float, height: int, width: int) -> "View":
        """Returns the view of the same part of a resized image.

        Args:
            down: Factor of vertical lengths.
            right: Factor of horizontal lengths.
            height: Height of the resized image in pixels; the box stays within it.
            width: Width of the resized image in pixels; the box stays within it.
        """
        top, left = min(round(self.box[0] * down), height - 1), min(round(self.box[1] * right), width - 1)
        box_height = min(max(1, round(self.box[2] * down)), height - top)
        box_width = min(max(1, round(self.box[3] * right)), width - left)
        return View((top, left, box_height, box_width), self.flipped, self.size)


def draw_views(image: Tensor, settings: ViewSettings, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Draws the views of an image: first the global ones, then the local ones, each a crop, then its flip.

    Args:
        image: `(3, H, W)` uint8, of any size.
        settings: Number, size and range of the views.
        generator: Generator of all draws.

    Returns:
        Global views `(num_global_views, 3, image_size, image_size)` and local views
        `(num_local_views, 3, local_size, local_size)`, uint8. The second is None if there are no local views.

    Raises:
        ValueError: if the image has another dtype or shape.
    """
    _check_image(image)
    global_views, local_views = plan_views(image.shape[1], image.shape[2], settings, generator)
    return render_views(image, global_views), render_views(image, local_views) if local_views else None


def plan_views(
    height: int, width: int, settings: ViewSettings, generator: torch.Generator
) -> tuple[list[View], list[View]]:
    """Draws which parts of an image its global and its local views show.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        settings: Number, size and range of the views.
        generator: Generator of all draws.
    """

    def draw(count: int, size: int, area: tuple[float, float]) -> list[View]:
        views = []
        for _ in range(count):
            box = draw_crop_box(height, width, area, settings.aspect_ratio, generator)
            views.append(View(box, torch.rand((), generator=generator).item() < settings.flip_probability, size))
        return views

    global_views = draw(settings.num_global_views, settings.image_size, settings.global_area)
    return global_views, draw(settings.num_local_views, settings.local_size, settings.local_area)


def render_views(image: Tensor, views: Sequence[View]) -> Tensor:
    """Cuts views of one size out of an image `(3, H, W)` uint8.

    Returns:
        `(len(views), 3, size, size)` uint8.
    """
    # Channels last, as images come from files: resizing is twice as fast.
    image = image[None].contiguous(memory_format=torch.channels_last)[0]
    size = views[0].size
    rendered = torch.empty(len(views), 3, size, size, dtype=torch.uint8)
    for view, target in zip(views, rendered, strict=True):
        crop = F.resized_crop(image, *view.box, size=[size, size], interpolation=InterpolationMode.BICUBIC)
        target.copy_(crop.flip(-1) if view.flipped else crop)
    return rendered


def _check_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
        raise ValueError(f"image must be uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")


def draw_crop_box(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draws a part of an image.

    Its area is uniform in `area`, its width divided by height log-uniform in `ratio`. If ten draws do not fit into the
    image, the part is the largest one in the middle whose ratio is allowed.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        area: Smallest and largest area, as parts of the image's area.
        ratio: Smallest and largest width divided by height.
        generator: Generator of all draws.

    Returns:
        Top, left, height and width in pixels. Height and width are at least 1.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_MAX_TRIES):
        # All four are drawn at once, used or not: a small draw costs more than the numbers it returns.
        size, shape, down, right = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        pixels = height * width * (area[0] + size * (area[1] - area[0]))
        aspect = math.exp(low + shape * (high - low))
        box_height, box_width = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            return int(down * (height - box_height + 1)), int(right * (width - box_width + 1)), box_height, box_width
    box_height = min(height, max(1, round(width / ratio[0])))
    box_width = min(width, max(1, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def boxes_of_views(views: Sequence[View]) -> Tensor:
    """Returns views as `(len(views), 5)` int64: top, left, height, width, and 1 for mirrored or 0."""
    return torch.tensor([[*view.box, view.flipped] for view in views], dtype=torch.int64).view(-1, 5)


def cut_views(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cuts views of one size out of an image on its device.

    The result differs from `render_views` by at most two of 255 levels, except at sharp edges between black and white:
    `render_views` clips overshoot after each axis, this function once.

    Args:
        image: `(3, H, W)` uint8.
        boxes: `(num_views, 5)` from `boxes_of_views`, within the image, on the same device.
        size: Side of the views in pixels.

    Returns:
        `(num_views, 3, size, size)` uint8.
    """
    if len(boxes) * size * (image.shape[1] + image.shape[2]) > _MOST_WEIGHTS:  # a huge image, or a long one
        return torch.cat([_cut_alone(image, box, size) for box in boxes])
    top, left, height, width, mirrored = boxes.unbind(dim=1)
    rows = resampling_weights(top, height, size, image.shape[1])
    columns = resampling_weights(left, width, size, image.shape[2])
    columns = torch.where(mirrored[:, None, None] != 0, columns.flip(1), columns)
    # (V, 1, size, H) @ (3, H, W) @ (V, 1, W, size)
    views = rows[:, None] @ image.float() @ columns[:, None].transpose(-1, -2)
    return views.round_().clamp_(0, 255).to(torch.uint8)


def _cut_alone(image: Tensor, box: Tensor, size: int) -> Tensor:
    """Cuts one view out of its part of an image; the weights of the whole image would not fit into memory."""
    top, left, height, width, mirrored = box.tolist()
    part = image[:, top : top + height, left : left + width]
    at_origin = torch.tensor([[0, 0, height, width, mirrored]], device=image.device)
    rows = resampling_weights(at_origin[:, 0], at_origin[:, 2], size, height)
    columns = resampling_weights(at_origin[:, 1], at_origin[:, 3], size, width)
    columns = columns.flip(1) if mirrored else columns
    views = rows[:, None] @ part.float() @ columns[:, None].transpose(-1, -2)
    return views.round_().clamp_(0, 255).to(torch.uint8)


def resampling_weights(starts: Tensor, lengths: Tensor, size: int, extent: int) -> Tensor:
    """Returns the weight of each pixel of an image's axis for each pixel of the views.

    Where a view is smaller than its part of the image, the kernel is widened by the same factor, which antialiases.
    Pixels outside the part have no weight, as if the part had been cut out before.

    Args:
        starts: First pixel of each part, `(V,)`.
        lengths: Number of pixels of each part, `(V,)`.
        size: Number of pixels of the views along the axis.
        extent: Number of pixels of the image along the axis.

    Returns:
        `(V, size, extent)` float32; rows sum to 1.
    """
    scale = (lengths.float() / size)[:, None, None]  # (V, 1, 1)
    target = torch.arange(size, device=starts.device)[None, :, None]
    pixel = torch.arange(extent, device=starts.device)[None, None, :]
    center = starts[:, None, None] + (target + 0.5) * scale
    weights = _cubic_kernel((pixel + 0.5 - center) / scale.clamp(min=1))
    inside = (pixel >= starts[:, None, None]) & (pixel < (starts + lengths)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic_kernel(distance: Tensor) -> Tensor:
    """Returns the cubic convolution kernel (Keys 1981) at each distance in pixels."""
    x, a = distance.abs(), _CUBIC_COEFFICIENT
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, inner, torch.where(x < _KERNEL_RADIUS, outer, 0))
