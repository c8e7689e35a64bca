"""Linear segmentation of frozen dense features: one probe for each learning rate, all trained in the same pass."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.measures import UNLABELLED, count_confusion


def dice_loss(logits: Tensor, masks: Tensor, smoothing: float = 1.0) -> Tensor:
    """`1 - (2 sum p t + s) / (sum p + sum t + s)`, mean over the classes that occur in the masks.

    Args:
        logits: `(B, C, H, W)`.
        masks: `(B, H, W)` integers, classes or 255, which does not count.
        smoothing: `s`, in pixels; sums are over the batch.

    Returns:
        A scalar in [0, 1]; 0 where no pixel is labelled.
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
    """Train a probe for each learning rate: BatchNorm and a 1 x 1 convolution, cross-entropy plus Dice, AdamW, cosine.

    Args:
        features: `(N, d, h, w)`.
        masks: `(N, H, W)` uint8, classes or 255; predictions are resized to them.
        num_classes: Number of classes.
        learning_rates: The highest of each probe, above 0.
        num_epochs: Passes over the images, at least 1.
        batch_size: Images of a step.
        weight_decay: Of all parameters.
        seed: Of initial weights and batches.
        on_epoch: Called after each pass.

    Returns:
        The probes, in the order of learning rates, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    width = features.shape[1]
    initial = torch.randn(num_classes, width, 1, 1, generator=generator) / math.sqrt(width)
    probes = nn.ModuleList(make_probe(width, num_classes, initial) for _ in learning_rates).to(features.device)
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


def make_probe(width: int, num_classes: int, initial: Tensor) -> nn.Sequential:
    """BatchNorm, which makes models of any scale comparable, and a 1 x 1 convolution."""
    probe = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))
    nn.init.zeros_(probe[1].bias)  # type: ignore[arg-type]  # there is one
    probe[1].weight.data.copy_(initial)  # type: ignore[operator]
    return probe


def probe_loss(probe: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus Dice of predictions in the masks' size; 0 where no pixel of the batch is labelled."""
    logits = resized(probe(features), masks)
    labelled = (masks != UNLABELLED).sum().clamp(min=1)
    entropy = F.cross_entropy(logits, masks.long(), ignore_index=UNLABELLED, reduction="sum") / labelled
    return entropy + dice_loss(logits, masks)


def resized(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits `(B, C, h, w)` in the size of masks `(B, H, W)`, bilinear."""
    return F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False)


@torch.no_grad()
def predict_masks(probe: nn.Module, features: Tensor, masks: Tensor) -> Tensor:
    """Predicted classes in the size of the masks, `(B, H, W)` uint8."""
    return resized(probe(features), masks).argmax(dim=1).to(torch.uint8)


def count_all(probe: nn.Module, features: Tensor, masks: Tensor, num_classes: int, batch_size: int) -> Tensor:
    """`count_confusion` over all images, a batch at a time."""
    pairs = zip(features.split(batch_size), masks.split(batch_size), strict=True)
    return torch.stack(
        [count_confusion(predict_masks(probe, each, mask), mask, num_classes, UNLABELLED).cpu() for each, mask in pairs]
    ).sum(dim=0)
