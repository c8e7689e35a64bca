"""Dice loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.data.segmentation_folders import UNLABELLED
from stellar_hub.evaluation.dice import dice_loss


def dice_slowly(logits: Tensor, masks: Tensor, smoothing: float) -> float:
    """The formula, class by class and pixel by pixel, in float64."""
    shares = logits.double().softmax(dim=1)
    losses = []
    for label in range(logits.shape[1]):
        both = true = guessed = 0.0
        for image, row, column in torch.ones(masks.shape).nonzero().tolist():
            if masks[image, row, column] == UNLABELLED:
                continue
            share = float(shares[image, label, row, column])
            here = float(masks[image, row, column] == label)
            both, true, guessed = both + share * here, true + here, guessed + share
        if true:
            losses.append(1 - (2 * both + smoothing) / (true + guessed + smoothing))
    return sum(losses) / len(losses) if losses else 0.0


@given(seed=st.integers(0, 100), smoothing=st.sampled_from([0.1, 1.0]), hidden=st.floats(0, 0.9))
def test_loss__is_the_formula(seed: int, smoothing: float, hidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 3, 2, generator=generator)
    masks = torch.randint(0, 3, (2, 3, 2), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < hidden] = UNLABELLED
    assert dice_loss(logits, masks, smoothing).item() == pytest.approx(dice_slowly(logits, masks, smoothing), abs=1e-5)


def test_loss__is_0_for_a_sure_and_right_answer_and_has_a_gradient_otherwise() -> None:
    masks = torch.tensor([[[0, 1], [1, 2]]])
    right = 100 * torch.nn.functional.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    assert dice_loss(right, masks).item() == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    dice_loss(logits, masks).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_loss__of_nothing_labelled_is_0_with_finite_gradient() -> None:
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = dice_loss(logits, torch.full((1, 2, 2), UNLABELLED))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
