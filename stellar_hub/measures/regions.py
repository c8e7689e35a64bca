"""How well regions and masks agree: intersection over union, accuracy of pixels."""

import torch
from torch import Tensor

UNLABELLED = 255  # in masks: pixels that count nowhere


def argmax_regions(localization: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """The patches that each token owns: those whose row of `L` is largest at that token.

    Args:
        localization: `L`, `(n, r)`.
        grid_size: `(h, w)` with `h w = n`.

    Returns:
        `(r, h, w)` bool: disjoint, and together the whole grid.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check_localization(localization, grid_size)
    owner = localization.argmax(dim=-1)  # (n,)
    tokens = owner.new_tensor(range(localization.shape[1]))
    return (owner == tokens[:, None]).unflatten(1, grid_size)


def threshold_regions(localization: Tensor, grid_size: tuple[int, int], fraction: float = 0.5) -> Tensor:
    """The patches where each token's map reaches a fraction of its maximum.

    Args:
        localization: `L`, `(n, r)`.
        grid_size: `(h, w)` with `h w = n`.
        fraction: In (0, 1].

    Returns:
        `(r, h, w)` bool: regions may overlap, and none is empty.

    Raises:
        ValueError: if the shapes do not fit, or the fraction is out of range.
    """
    _check_localization(localization, grid_size)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    high = localization >= fraction * localization.amax(dim=0)
    return high.T.unflatten(1, grid_size)


def to_pixels(regions: Tensor, height: int, width: int) -> Tensor:
    """Regions of patches, `(r, h, w)`, as regions of pixels, `(r, height, width)`.

    Raises:
        ValueError: if the sides in pixels are no multiples of those in patches.
    """
    rows, columns = _cell(height, width, (regions.shape[1], regions.shape[2]))
    return regions.repeat_interleave(rows, dim=1).repeat_interleave(columns, dim=2)


def best_iou(regions: Tensor, masks: Tensor) -> Tensor:
    """For each object the IoU with the region that fits it best.

    Args:
        regions: `(r, H, W)` bool; empty regions are allowed, and fit nothing.
        masks: `(m, H, W)` bool, none of them empty.

    Returns:
        `(m,)` in [0, 1], float32.

    Raises:
        ValueError: if shapes do not fit, or a mask is empty.
    """
    _check_regions(regions, masks)
    return _all_ious(regions, masks).amax(dim=1)


def hungarian_iou(regions: Tensor, masks: Tensor) -> Tensor:
    """For each object the IoU with its region where each region serves one object, and the sum is the highest possible.

    Args:
        regions: `(r, H, W)` bool.
        masks: `(m, H, W)` bool, none of them empty.

    Returns:
        `(m,)` in [0, 1], float32; 0 for objects that no region is left for.

    Raises:
        ValueError: if shapes do not fit, or a mask is empty.
    """
    from scipy.optimize import linear_sum_assignment

    _check_regions(regions, masks)
    table = _all_ious(regions, masks)
    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    found = table.new_zeros(len(masks))
    found[rows] = table[rows, columns]
    return found


def _all_ious(regions: Tensor, masks: Tensor) -> Tensor:
    """IoU of each object with each region, `(m, r)`."""
    flat_regions, flat_masks = regions.flatten(1).float(), _flat_masks(masks)
    shared = flat_masks @ flat_regions.T  # (m, r)
    union = flat_masks.sum(dim=1)[:, None] + flat_regions.sum(dim=1) - shared
    return shared / union


def _check_regions(regions: Tensor, masks: Tensor) -> None:
    if regions.ndim != 3 or masks.ndim != 3 or regions.shape[1:] != masks.shape[1:] or len(regions) == 0:
        raise ValueError(
            "regions and masks must have shapes (r, H, W) and (m, H, W) with r at least 1, "
            f"got {tuple(regions.shape)} and {tuple(masks.shape)}"
        )


def best_patches_iou(masks: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """For each object the largest IoU that any union of whole patches has with it.

    All patches being equally large, taking them in the order of their overlap with the mask passes through the best
    union, so that no search is needed.

    Args:
        masks: `(m, H, W)` bool, none of them empty.
        grid_size: `(h, w)`, dividing `(H, W)`.

    Returns:
        `(m,)` in (0, 1], float32.

    Raises:
        ValueError: if a mask is empty, or the grid does not divide the image.
    """
    area = _flat_masks(masks).sum(dim=1, keepdim=True)  # (m, 1)
    rows, columns = _cell(masks.shape[1], masks.shape[2], grid_size)
    cells = masks.float().unflatten(2, (grid_size[1], columns)).unflatten(1, (grid_size[0], rows))  # (m, h, p, w, p)
    overlap = cells.sum(dim=(2, 4)).flatten(1).sort(dim=1, descending=True).values  # (m, n)
    shared = overlap.cumsum(dim=1)
    outside = (rows * columns - overlap).cumsum(dim=1)
    return (shared / (area + outside)).amax(dim=1)


def _check_localization(localization: Tensor, grid_size: tuple[int, int]) -> None:
    if localization.ndim != 2 or localization.shape[0] != grid_size[0] * grid_size[1]:
        raise ValueError(
            f"localization must be of one image, (n, r) with n = {grid_size[0]} x {grid_size[1]} patches, "
            f"got {tuple(localization.shape)}"
        )


def _flat_masks(masks: Tensor) -> Tensor:
    flat = masks.flatten(1).float()
    if not flat.any(dim=1).all():
        raise ValueError("a mask is empty: leave out objects of which nothing is to be seen")
    return flat


def _cell(height: int, width: int, grid_size: tuple[int, int]) -> tuple[int, int]:
    """Pixels `(height, width)` of a patch."""
    if height % grid_size[0] or width % grid_size[1]:
        raise ValueError(f"a grid of {grid_size} patches does not divide an image of {height} x {width} pixels")
    return height // grid_size[0], width // grid_size[1]


def count_pixels(predictions: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each class (row) were taken for each (column).

    Args:
        predictions: Any shape, integers in [0, num_classes).
        masks: The same shape, classes or 255, which does not count.
        num_classes: Number of classes.

    Returns:
        `(num_classes, num_classes)` int64.
    """
    labelled = masks != UNLABELLED
    pairs = masks[labelled].long() * num_classes + predictions[labelled].long()
    return pairs.bincount(minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class over all pixels.

    Args:
        counts: From `count_pixels`, of a whole data set.

    Returns:
        `(num_classes,)` float64 in [0, 1]; NaN for a class that is neither true nor predicted anywhere.
    """
    shared = counts.diagonal().double()
    union = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return torch.where(union > 0, shared / union, torch.nan)


def mean_iou(counts: Tensor) -> float:
    """Mean of `class_iou` over the classes that occur, in [0, 1]."""
    return class_iou(counts).nanmean().item()


def pixel_accuracy(counts: Tensor) -> float:
    """Share of labelled pixels whose class is right, in [0, 1]."""
    return (counts.diagonal().sum().double() / counts.sum().clamp(min=1)).item()
