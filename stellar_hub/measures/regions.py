"""How well regions and masks agree: regions from maps, intersection over union, confusion of classes."""

import torch
from torch import Tensor

from stellar_hub.extras import require

UNLABELLED = 255  # class of the pixels of a mask that do not count


def argmax_regions(localization: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Returns the patches of each token: those where its value in `L` is the largest of the row.

    Args:
        localization: `L` of one image, `(n, r)`.
        grid_size: Rows and columns of patches, `(h, w)` with `h w = n`.

    Returns:
        Regions of shape `(r, h, w)`, bool. They do not overlap, and together they cover the grid.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check_localization(localization, grid_size)
    owner = localization.argmax(dim=-1)  # (n,)
    tokens = owner.new_tensor(range(localization.shape[1]))
    return (owner == tokens[:, None]).unflatten(1, grid_size)


def threshold_regions(localization: Tensor, grid_size: tuple[int, int], fraction: float = 0.5) -> Tensor:
    """Returns the patches where each token's map reaches a fraction of its maximum.

    Args:
        localization: `L` of one image, `(n, r)`.
        grid_size: Rows and columns of patches, `(h, w)` with `h w = n`.
        fraction: Fraction of the maximum, in (0, 1].

    Returns:
        Regions of shape `(r, h, w)`, bool. They may overlap, and each has at least one patch.

    Raises:
        ValueError: if the shapes do not fit, or the fraction is out of range.
    """
    _check_localization(localization, grid_size)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    high = localization >= fraction * localization.amax(dim=0)
    return high.T.unflatten(1, grid_size)


def to_pixels(regions: Tensor, height: int, width: int) -> Tensor:
    """Turns regions of patches `(r, h, w)` into regions of pixels `(r, height, width)`.

    Raises:
        ValueError: if height and width are not multiples of the grid's rows and columns.
    """
    rows, columns = _patch_size(height, width, (regions.shape[1], regions.shape[2]))
    return regions.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2)


def best_iou(regions: Tensor, masks: Tensor) -> Tensor:
    """Computes for each object the highest IoU that a region has with it.

    Args:
        regions: Regions of shape `(r, H, W)`, bool. An empty region has an IoU of 0.
        masks: Masks of the objects, `(m, H, W)`, bool. None may be empty.

    Returns:
        IoU of shape `(m,)`, float32, in [0, 1].

    Raises:
        ValueError: if shapes do not fit, or a mask is empty.
    """
    return _all_ious(regions, masks).amax(dim=1)


def hungarian_iou(regions: Tensor, masks: Tensor) -> Tensor:
    """Computes for each object the IoU with its own region: each region serves one object, and the sum is maximal.

    Args:
        regions: Regions of shape `(r, H, W)`, bool.
        masks: Masks of the objects, `(m, H, W)`, bool. None may be empty.

    Returns:
        IoU of shape `(m,)`, float32, in [0, 1]. It is 0 for objects that get no region.

    Raises:
        ImportError: if scipy is not installed.
        ValueError: if shapes do not fit, or a mask is empty.
    """
    scipy = require("scipy.optimize", "eval", "the assignment of regions to objects")
    table = _all_ious(regions, masks)
    rows, columns = scipy.optimize.linear_sum_assignment(table.numpy(), maximize=True)
    found = table.new_zeros(len(masks))
    found[rows] = table[rows, columns]
    return found


def best_patches_iou(masks: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Computes for each object the highest IoU that a union of whole patches can have with it.

    All patches are equally large. Therefore the best union of each size takes the patches with the largest overlap.

    Args:
        masks: Masks of the objects, `(m, H, W)`, bool. None may be empty.
        grid_size: Rows and columns of patches, `(h, w)`, which divide `(H, W)`.

    Returns:
        IoU of shape `(m,)`, float32, in (0, 1].

    Raises:
        ValueError: if a mask is empty, or the grid does not divide the image.
    """
    area = _flat_masks(masks).sum(dim=1, keepdim=True)  # (m, 1)
    rows, columns = _patch_size(masks.shape[1], masks.shape[2], grid_size)
    cells = masks.float().unflatten(2, (grid_size[1], columns)).unflatten(1, (grid_size[0], rows))  # (m, h, p, w, p)
    overlap = cells.sum(dim=(2, 4)).flatten(1).sort(dim=1, descending=True).values  # (m, n)
    shared = overlap.cumsum(dim=1)
    outside = (rows * columns - overlap).cumsum(dim=1)
    return (shared / (area + outside)).amax(dim=1)


def count_confusion(predictions: Tensor, labels: Tensor, num_classes: int, ignored: int | None = None) -> Tensor:
    """Counts how often each class (row) is predicted as each class (column).

    Args:
        predictions: Classes in [0, num_classes), integers of any shape.
        labels: True classes in the same shape.
        num_classes: Number of classes.
        ignored: Label that does not count, such as `UNLABELLED`. None counts all.

    Returns:
        Counts of shape `(num_classes, num_classes)`, int64.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(
        predictions.long(), labels.long(), num_classes, ignore_index=ignored, validate_args=False
    )


def class_iou(counts: Tensor) -> Tensor:
    """Computes the intersection over union of each class over all pixels.

    Args:
        counts: Counts of a whole data set from `count_confusion`.

    Returns:
        IoU of shape `(num_classes,)`, float64, in [0, 1]. It is NaN for a class that is neither true nor predicted at
        any pixel.
    """
    shared = counts.diagonal().double()
    union = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return torch.where(union > 0, shared / union, torch.nan)


def mean_iou(counts: Tensor) -> float:
    """Computes the mean of `class_iou` over the classes that occur, in [0, 1]."""
    return class_iou(counts).nanmean().item()


def pixel_accuracy(counts: Tensor) -> float:
    """Computes the share of labelled pixels whose class is right, in [0, 1]."""
    return (counts.diagonal().sum().double() / counts.sum().clamp(min=1)).item()


def _all_ious(regions: Tensor, masks: Tensor) -> Tensor:
    """Computes the IoU of each object with each region, `(m, r)`."""
    if regions.ndim != 3 or masks.ndim != 3 or regions.shape[1:] != masks.shape[1:] or len(regions) == 0:
        raise ValueError(
            "regions and masks must have shapes (r, H, W) and (m, H, W) with r at least 1, "
            f"got {tuple(regions.shape)} and {tuple(masks.shape)}"
        )
    flat_regions, flat_masks = regions.flatten(1).float(), _flat_masks(masks)
    shared = flat_masks @ flat_regions.T  # (m, r)
    union = flat_masks.sum(dim=1)[:, None] + flat_regions.sum(dim=1) - shared
    return shared / union


def _flat_masks(masks: Tensor) -> Tensor:
    flat = masks.flatten(1).float()
    if not flat.any(dim=1).all():
        raise ValueError("a mask is empty: leave out objects that have no visible pixel")
    return flat


def _check_localization(localization: Tensor, grid_size: tuple[int, int]) -> None:
    if localization.ndim != 2 or localization.shape[0] != grid_size[0] * grid_size[1]:
        raise ValueError(
            f"localization must have shape (n, r) with n = {grid_size[0]} x {grid_size[1]} patches, "
            f"got {tuple(localization.shape)}"
        )


def _patch_size(height: int, width: int, grid_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width of a patch in pixels."""
    if height % grid_size[0] or width % grid_size[1]:
        raise ValueError(f"a grid of {grid_size} patches does not divide an image of {height} x {width} pixels")
    return height // grid_size[0], width // grid_size[1]
