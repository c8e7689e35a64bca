"""Baselines without a network, which `evaluate_stellar_tiny.py` compares with the model."""

import warnings

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

PIXELS_FOR_COLORS = 50_000
RAW_SIDE = 16
SEED = 0


def raw_pixels(images: Tensor) -> Tensor:
    """Returns images averaged down to 16 x 16 pixels: uint8 `(N, 3, H, W)` to `(N, 3 * 16 * 16)` in [0, 1]."""
    return F.adaptive_avg_pool2d(images.float() / 255, RAW_SIDE).flatten(1)


def fit_colors(images: Tensor, num_colors: int) -> KMeans:
    """Fits k-means to the colours of 50,000 pixels, drawn from images `(N, 3, H, W)` uint8."""
    pixels = images.permute(0, 2, 3, 1).reshape(-1, 3)
    chosen = torch.randint(len(pixels), (PIXELS_FOR_COLORS,), generator=torch.Generator().manual_seed(SEED))
    return _fit(pixels[chosen].float() / 255, num_colors, num_starts=4)


def color_histograms(images: Tensor, colors: KMeans) -> Tensor:
    """Returns the share of each colour in each image: uint8 `(N, 3, H, W)` to `(N, num_colors)`; rows sum to 1."""
    centers = torch.from_numpy(colors.cluster_centers_).float()
    histograms = []
    for image in images:  # one at a time, because the distances of all pixels need much memory
        nearest = torch.cdist(image.flatten(1).T.float() / 255, centers).argmin(dim=1)
        histograms.append(torch.bincount(nearest, minlength=len(centers)) / len(nearest))
    return torch.stack(histograms)


def cropped_masks(masks: list[Tensor]) -> Tensor:
    """Returns the true mask of each image's largest object, cropped to the object: a perfect segmentation's features.

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
        crops.append(F.interpolate(box[None, None], (RAW_SIDE, RAW_SIDE), mode="bilinear", antialias=True).flatten())
    return torch.stack(crops)


def patch_regions(image: Tensor, patch_size: int, num_regions: int, mean_color: bool) -> Tensor:
    """Clusters the patches of one image with k-means, by their mean colour or by all of their pixels.

    Args:
        image: `(3, H, W)` uint8.
        patch_size: Side of a patch in pixels.
        num_regions: Number of clusters. If there are fewer patches, each is a cluster.
        mean_color: Whether patches are compared by their mean colour. False: by all of their pixels.

    Returns:
        Regions, `(num_regions, h, w)` bool. They are disjoint and cover the grid.
    """
    patches = F.pixel_unshuffle(image[None].float() / 255, patch_size)[0]  # (3 * p * p, h, w), channels outermost
    height, width = patches.shape[1:]
    features = patches.unflatten(0, (3, -1)).mean(dim=1) if mean_color else patches
    features = features.flatten(1).T  # (n, 3) or (n, 3 * p * p)
    clusters = _fit(features, min(num_regions, len(features)), num_starts=1).labels_
    owner = torch.from_numpy(clusters).view(height, width)
    return owner == torch.arange(num_regions)[:, None, None]


def _fit(points: Tensor, num_clusters: int, num_starts: int) -> KMeans:
    """Fits k-means to points `(N, D)` and returns the best of `num_starts` runs."""
    with warnings.catch_warnings():
        # Fewer distinct points than clusters, as in an image of one colour, leave clusters empty, as they should.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(num_clusters, n_init=num_starts, random_state=SEED).fit(points.numpy())
