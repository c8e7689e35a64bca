"""Segments of an image that nobody labelled: those of tokens or, for other models, clusters of its patches."""

import warnings

import torch
from torch import Tensor

from stellar_hub.measures import UNLABELLED, best_iou, hungarian_iou, to_pixels

INSTALL = "clusters and one-to-one matching are scikit-learn's and scipy's: pip install 'stellar_hub[eval]'"


def cluster_regions(patches: Tensor, grid_size: tuple[int, int], num_regions: int, seed: int) -> Tensor:
    """k-means of one image's patches.

    Args:
        patches: `(n, d)`.
        grid_size: `(h, w)` with `h w = n`.
        num_regions: Number of clusters; fewer patches than that are a cluster each.
        seed: Of the first centres.

    Returns:
        `(num_regions, h, w)` bool: disjoint, and together the whole grid.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer distinct patches than clusters, as in an image of one colour, leave clusters empty, which is right.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(min(num_regions, len(patches)), n_init=1, random_state=seed).fit(patches.numpy())
    owner = torch.from_numpy(means.labels_).view(grid_size)
    return owner == torch.arange(num_regions)[:, None, None]


def objects_of(mask: Tensor, left_out: int | None) -> Tensor:
    """The region of each class that a mask `(H, W)` shows, `(m, H, W)` bool.

    Args:
        mask: Classes, or 255, which is no object.
        left_out: A class that is no object either, such as the background.
    """
    labels = [label for label in mask.unique().tolist() if label not in (UNLABELLED, left_out)]
    return torch.stack([mask == label for label in labels]) if labels else mask.new_zeros(0, *mask.shape).bool()


def overlap(regions: list[Tensor], masks: Tensor, left_out: int | None) -> tuple[list[float], list[float]]:
    """IoU of every object of every image: with the region that fits it best, and where no region counts twice.

    Args:
        regions: For each image `(r, h, w)` bool.
        masks: `(N, H, W)`, sides being multiples of the regions'.
        left_out: See `objects_of`.

    Returns:
        Two lists with a value in [0, 1] for each object.
    """
    best: list[float] = []
    matched: list[float] = []
    for each, mask in zip(regions, masks, strict=True):
        objects = objects_of(mask, left_out)
        if len(objects):
            pixels = to_pixels(each, mask.shape[0], mask.shape[1])
            best += best_iou(pixels, objects).tolist()
            matched += hungarian_iou(pixels, objects).tolist()
    return best, matched


def check_segments() -> dict[str, str]:
    """Versions of what segments need.

    Raises:
        ImportError: if something is not installed.
    """
    try:
        import scipy
        import sklearn
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return {"scikit-learn": str(sklearn.__version__), "scipy": str(scipy.__version__)}
