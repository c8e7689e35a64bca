"""Segmentation by probes and by regions without training."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stellar_hub.evaluation.segmenters import (
    cluster_regions,
    count_predictions,
    dice_loss,
    library_versions,
    object_ious,
    object_regions,
    predict_masks,
    probe_loss,
    train_probes,
)
from stellar_hub.measures import UNLABELLED, mean_iou


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


OPTIONS = {"num_epochs": 3, "batch_size": 4, "weight_decay": 0.01, "seed": 5}


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """Features `(10, 6, 4, 4)` that hold their class, and masks `(10, 8, 8)` with some pixels unlabelled."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 3, (10, 4, 4), generator=generator)
    features = 10 * torch.randn(10, 6, 4, 4, generator=generator) + 40 * F.one_hot(small, 6).permute(0, 3, 1, 2)
    masks = small.repeat_interleave(2, 1).repeat_interleave(2, 2).to(torch.uint8)
    masks[:, 0] = UNLABELLED
    return features, masks


def trained_by_hand(features: Tensor, masks: Tensor, rate: float) -> nn.Sequential:
    """One probe, in a loop as a tutorial would write it."""
    generator = torch.Generator().manual_seed(5)
    probe = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1))
    probe[1].weight.data = torch.randn(3, 6, 1, 1, generator=generator) / math.sqrt(6)
    probe[1].bias.data.zero_()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=0.01)
    step = 0
    for _ in range(3):
        order = torch.randperm(10, generator=generator)
        for start in range(0, 10, 4):
            index = order[start : start + 4]
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / 9))
            logits = F.interpolate(probe(features[index]), (8, 8), mode="bilinear")
            entropy = F.cross_entropy(logits, masks[index].long(), ignore_index=UNLABELLED)
            optimizer.zero_grad()
            (entropy + dice_loss(logits, masks[index])).backward()
            optimizer.step()
            step += 1
    return probe.eval()


def test_probes__are_each_what_it_is_by_hand(data: tuple[Tensor, Tensor]) -> None:
    rates = (1e-3, 1e-2)
    probes = train_probes(*data, 3, rates, **OPTIONS)  # type: ignore[arg-type]
    for probe, rate in zip(probes, rates, strict=True):
        expected = trained_by_hand(*data, rate).state_dict()
        for name, tensor in probe.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5)


def test_probes__learn(data: tuple[Tensor, Tensor]) -> None:
    (probe,) = train_probes(*data, 3, (3e-2,), **(OPTIONS | {"num_epochs": 40}))  # type: ignore[arg-type]
    counts = count_predictions(probe, *data, 3, 4)
    assert counts.sum() == (data[1] != UNLABELLED).sum()
    assert mean_iou(counts) > 0.7
    assert predict_masks(probe, *data).shape == data[1].shape


def test_loss__of_a_batch_with_nothing_labelled_is_0(data: tuple[Tensor, Tensor]) -> None:
    (probe,) = train_probes(*data, 3, (1e-3,), **OPTIONS)  # type: ignore[arg-type]
    assert probe_loss(probe, data[0], torch.full_like(data[1], UNLABELLED)).item() == 0


def test_clusters__find_groups_of_patches() -> None:
    patches = torch.zeros(16, 3)
    patches[:8] = 1
    patches += 0.01 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    regions = cluster_regions(patches, (4, 4), 2, seed=0)
    assert regions.shape == (2, 4, 4)
    assert torch.equal(regions.sum(dim=0), torch.ones(4, 4, dtype=torch.long))
    upper = regions[regions[:, 0, 0]][0]
    assert upper[:2].all()
    assert not upper[2:].any()


def test_clusters__of_one_colour_leave_some_empty() -> None:
    regions = cluster_regions(torch.ones(4, 2), (2, 2), 16, seed=0)
    assert regions.shape == (16, 2, 2)
    assert regions.sum() == 4


def test_objects__are_the_classes_that_are_there() -> None:
    mask = torch.tensor([[0, 0, 2], [2, UNLABELLED, 5]])
    assert object_regions(mask, None).shape == (3, 2, 3)
    without_background = object_regions(mask, 0)
    assert torch.equal(without_background[0], mask == 2)
    assert torch.equal(without_background[1], mask == 5)
    assert object_regions(torch.full((2, 2), UNLABELLED), None).shape == (0, 2, 2)


def test_overlap__lets_a_segment_serve_two_objects_or_one() -> None:
    mask = torch.tensor([[1, 1, 1, 2]])
    whole, nothing = torch.ones(1, 1, 4, dtype=torch.bool), torch.zeros(1, 1, 4, dtype=torch.bool)
    best, matched = object_ious([torch.cat([whole, nothing])], mask[None], None)
    assert best == pytest.approx([0.75, 0.25])
    assert matched == pytest.approx([0.75, 0.0])
    assert object_ious([whole], torch.zeros(1, 1, 4, dtype=torch.uint8), 0) == ([], [])


def test_versions__are_said() -> None:
    assert set(library_versions()) == {"scikit-learn", "scipy"}
