"""Views cut on the device: antialiased bicubic resampling as two matrix products, for images of any size.

A worker then only decodes, and hands over the image once in place of all its views.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stellar_hub.data.views.crops import View

CUBIC = -0.5  # of the kernel (Keys 1981), as torchvision and Pillow antialias
SUPPORT = 2.0  # of the kernel, to each side


def as_boxes(views: Sequence[View]) -> Tensor:
    """Views as numbers: top, left, height, width, and 1 for mirrored; `(len(views), 5)` int64."""
    return torch.tensor([[*view.box, view.flipped] for view in views], dtype=torch.int64).view(-1, 5)


def cut_views(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut views of one size out of an image.

    They are those of `render_views` up to rounding, at most two of 255 levels apart, but for sharp edges between black
    and white: there overshoot is cut once here, and after each axis there.

    Args:
        image: `(3, H, W)` uint8.
        boxes: From `as_boxes`, within the image, on the same device.
        size: Side of the views in pixels.

    Returns:
        `(len(boxes), 3, size, size)` uint8.
    """
    top, left, height, width, mirrored = boxes.unbind(dim=1)
    rows = resampling_weights(top, height, size, image.shape[1])
    columns = resampling_weights(left, width, size, image.shape[2])
    columns = torch.where(mirrored[:, None, None] != 0, columns.flip(1), columns)
    # (V, 1, size, H) @ (3, H, W) @ (V, 1, W, size)
    views = rows[:, None] @ image.float() @ columns[:, None].transpose(-1, -2)
    return views.round_().clamp_(0, 255).to(torch.uint8)


def resampling_weights(starts: Tensor, lengths: Tensor, size: int, extent: int) -> Tensor:
    """How much each pixel of an axis counts for each pixel of the views.

    Where a view shrinks its part, the kernel is widened by as much, which is what antialiasing means. Pixels outside
    of the part do not count, as if it had been cut out before.

    Args:
        starts: First pixel of each part, `(V,)`.
        lengths: Pixels of each part, `(V,)`.
        size: Pixels of the views.
        extent: Pixels of the axis.

    Returns:
        `(V, size, extent)` float32; rows sum to 1.
    """
    scale = (lengths.float() / size)[:, None, None]  # (V, 1, 1)
    place = torch.arange(size, device=starts.device)[None, :, None]
    pixel = torch.arange(extent, device=starts.device)[None, None, :]
    center = starts[:, None, None] + (place + 0.5) * scale
    weights = cubic((pixel + 0.5 - center) / scale.clamp(min=1))
    inside = (pixel >= starts[:, None, None]) & (pixel < (starts + lengths)[:, None, None])
    weights = weights * inside
    return weights / weights.sum(dim=2, keepdim=True)


def cubic(distance: Tensor) -> Tensor:
    """The cubic convolution kernel."""
    x = distance.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC - 4 * CUBIC
    return torch.where(x < 1, near, torch.where(x < SUPPORT, far, 0))
