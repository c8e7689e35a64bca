"""Features of drawn scenes that need no network: baselines for `evaluate_stellar_tiny.py`."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

PIXELS_FOR_COLORS = 50_000
CROP_SIDE = 16
SEED = 0


def fit_colors(images: Tensor, num_colors: int) -> KMeans:
    """Clusters the colours of a sample of all pixels of images `(N, 3, H, W)`, uint8, by k-means."""
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    chosen = torch.randint(len(pixels), (PIXELS_FOR_COLORS,), generator=torch.Generator().manual_seed(SEED))
    points = pixels[chosen].float() / 255
    with warnings.catch_warnings():
        # Images with fewer distinct colours than clusters leave clusters empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(num_colors, n_init=4, random_state=SEED).fit(points.numpy())


def color_histograms(images: Tensor, colors: KMeans) -> Tensor:
    """Returns the share of each colour in images `(N, 3, H, W)`, uint8: `(N, num_colors)`, rows sum to 1."""
    centers = torch.from_numpy(colors.cluster_centers_).float()
    histograms = []
    for image in images:  # one at a time: the distances of all pixels together would not fit a small memory
        nearest = torch.cdist(image.flatten(1).T.float() / 255, centers).argmin(dim=1)
        histograms.append(torch.bincount(nearest, minlength=len(centers)) / len(nearest))
    return torch.stack(histograms)


def cropped_masks(masks: Sequence[Tensor]) -> Tensor:
    """Returns the true mask of the largest object, cropped and resized: what a perfect segmentation would give.

    Args:
        masks: Masks of each image's objects, `(num_objects, H, W)` bool.

    Returns:
        `(N, 16 * 16)` in [0, 1].
    """
    crops = []
    for each in masks:
        mask = each[each.flatten(1).sum(dim=1).argmax()]
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].float()
        crops.append(F.interpolate(box[None, None], (CROP_SIDE, CROP_SIDE), mode="bilinear", antialias=True).flatten())
    return torch.stack(crops)
