"""Dice loss: overlap of soft predictions with masks, which small objects count in as much as large ones.

Milletari et al. 2016, V-Net (arXiv 1606.04797), with sums in the place of sums of squares, as in Sudre et al. 2017
(arXiv 1707.03237).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.segmentation_folders import UNLABELLED


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
