"""Two ways to segment images by frozen dense features: a linear probe, and regions found without any training."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.extras import require
from stellar_hub.measures import UNLABELLED, best_iou, count_confusion, hungarian_iou, to_pixels


def dice_loss(logits: Tensor, masks: Tensor, smoothing: float = 1.0) -> Tensor:
    """Computes `1 - (2 sum p t + s) / (sum p + sum t + s)`, the mean over the classes that occur in the masks.

    Args:
        logits: Predictions, `(B, C, H, W)`.
        masks: True classes, `(B, H, W)` integers; pixels of 255 do not count.
        smoothing: The term `s`, in pixels. Sums run over the whole batch.

    Returns:
        A scalar in [0, 1]; 0 if no pixel is labelled.
    """
    labelled = (masks != UNLABELLED)[:, None]
    truth = F.one_hot(masks.long().clamp(max=logits.shape[1] - 1), logits.shape[1]).permute(0, 3, 1, 2) * labelled
    shares = logits.softmax(dim=1) * labelled
    both, sums = (shares * truth).sum(dim=(0, 2, 3)), (shares + truth).sum(dim=(0, 2, 3))
    occurs = truth.sum(dim=(0, 2, 3)) > 0
    loss = 1 - (2 * both + smoothing) / (sums + smoothing)
    return torch.where(occurs, loss, 0).sum() / occurs.sum().clamp(min=1)


def train_probes(
    features: Tensor,
    masks: Tensor,
    num_classes: int,
    learning_rates: Sequence[float],
    num_epochs: int,
    batch_size: int,
    weight_decay: float,
    seed: int,
    on_epoch: Callable[[], object] = lambda: None,
) -> nn.ModuleList:
    """Trains one probe per learning rate: BatchNorm and a 1 x 1 convolution, cross-entropy plus Dice, AdamW, cosine.

    Args:
        features: Dense features, `(N, d, h, w)`.
        masks: True classes, `(N, H, W)` uint8, 255 where unlabelled; predictions are resized to them.
        num_classes: Number of classes.
        learning_rates: Highest learning rate of each probe, above 0.
        num_epochs: Number of passes over the images, at least 1.
        batch_size: Number of images per step.
        weight_decay: Weight decay of all parameters.
        seed: Seed of initial weights and of the order of batches.
        on_epoch: Function to call after each pass.

    Returns:
        The probes in evaluation mode, in the order of the learning rates.
    """
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    initial = torch.randn(num_classes, width, 1, 1, generator=generator) / math.sqrt(width)
    probes = nn.ModuleList(_make_probe(width, num_classes, initial) for _ in learning_rates).to(features.device)
    optimizer = torch.optim.AdamW(
        [{"params": list(each.parameters()), "lr": rate} for each, rate in zip(probes, learning_rates, strict=True)],
        weight_decay=weight_decay,
    )
    num_steps = num_epochs * math.ceil(len(features) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / num_steps))
    )
    for _ in range(num_epochs):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for index in order.split(batch_size):
            loss = torch.stack([probe_loss(probe, features[index], masks[index]) for probe in probes]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        on_epoch()
    return probes.eval()


def _make_probe(width: int, num_classes: int, initial: Tensor) -> nn.Sequential:
    """Returns BatchNorm, which makes models with features of any scale comparable, and a 1 x 1 convolution."""
    probe = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))
    nn.init.zeros_(probe[1].bias)  # type: ignore[arg-type]  # there is one
    probe[1].weight.data.copy_(initial)  # type: ignore[operator]
    return probe


def probe_loss(probe: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Returns cross-entropy plus Dice at the size of the masks; 0 if no pixel of the batch is labelled."""
    logits = _predict_logits(probe, features, masks)
    labelled = (masks != UNLABELLED).sum().clamp(min=1)
    entropy = F.cross_entropy(logits, masks.long(), ignore_index=UNLABELLED, reduction="sum") / labelled
    return entropy + dice_loss(logits, masks)


def _predict_logits(probe: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Returns logits `(B, C, H, W)`, resized to masks `(B, H, W)` with bilinear interpolation."""
    return F.interpolate(probe(features), masks.shape[1:], mode="bilinear", align_corners=False)


@torch.no_grad()
def predict_masks(probe: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Predicts classes at the size of the masks, `(B, H, W)` uint8."""
    return _predict_logits(probe, features, masks).argmax(dim=1).to(torch.uint8)


def count_predictions(
    probe: nn.Module,
    features: Tensor,
    masks: Tensor,
    num_classes: int,
    batch_size: int,
    on_images: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Counts how many pixels of each class (row) a probe takes for each class (column), over all images.

    Args:
        probe: The probe.
        features: Dense features, `(N, d, h, w)`.
        masks: True classes, `(N, H, W)`.
        num_classes: Number of classes.
        batch_size: Number of images to predict at a time.
        on_images: Function to call with the number of images after each batch.

    Returns:
        `(num_classes, num_classes)` int64, as from `count_confusion`.
    """
    counts = []
    for each, mask in zip(features.split(batch_size), masks.split(batch_size), strict=True):
        counts.append(count_confusion(predict_masks(probe, each, mask), mask, num_classes, UNLABELLED))
        on_images(len(mask))
    return torch.stack(counts).sum(dim=0).cpu()


def cluster_regions(patches: Tensor, grid_size: tuple[int, int], num_regions: int, seed: int) -> Tensor:
    """Clusters the patches of one image by k-means.

    Args:
        patches: Features of the patches, `(n, d)`.
        grid_size: Patch grid `(h, w)` with `h w = n`.
        num_regions: Number of clusters. With fewer patches than clusters, each patch is a cluster.
        seed: Seed of the first centres.

    Returns:
        `(num_regions, h, w)` bool; the regions are disjoint and cover the grid.

    Raises:
        ImportError: if scikit-learn is not installed.
    """
    require("sklearn", "eval", "k-means")
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # An image with fewer distinct patches than clusters, such as one of a single colour, leaves clusters empty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(min(num_regions, len(patches)), n_init=1, random_state=seed).fit(patches.numpy())
    owner = torch.from_numpy(means.labels_).view(grid_size)
    return owner == torch.arange(num_regions)[:, None, None]


def object_regions(mask: Tensor, background: int | None) -> Tensor:
    """Returns the region of each class in a mask `(H, W)` as one object each, `(m, H, W)` bool.

    Args:
        mask: Class of each pixel; pixels of 255 belong to no object.
        background: A class that is not an object either, or None.
    """
    labels = [label for label in mask.unique().tolist() if label not in (UNLABELLED, background)]
    return torch.stack([mask == label for label in labels]) if labels else mask.new_zeros(0, *mask.shape).bool()


def object_ious(regions: Iterable[Tensor], masks: Tensor, background: int | None) -> tuple[list[float], list[float]]:
    """Compares the objects of all images with regions by intersection over union.

    Args:
        regions: Regions of each image, `(r, h, w)` bool.
        masks: Class of each pixel, `(N, H, W)`; sides are multiples of those of the regions.
        background: A class that is not an object, or None.

    Returns:
        Two lists with a value in [0, 1] per object: the IoU with the region that fits it best, and the IoU with its
        region when regions and objects are matched one to one.
    """
    best: list[float] = []
    matched: list[float] = []
    for each, mask in zip(regions, masks, strict=True):
        objects = object_regions(mask, background)
        if len(objects):
            pixels = to_pixels(each, mask.shape[0], mask.shape[1])
            best += best_iou(pixels, objects).tolist()
            matched += hungarian_iou(pixels, objects).tolist()
    return best, matched


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that find regions and match them.

    Raises:
        ImportError: if one of them is not installed.
    """
    return {
        "scikit-learn": str(require("sklearn", "eval", "k-means").__version__),
        "scipy": str(require("scipy", "eval", "one-to-one matching of regions").__version__),
    }
