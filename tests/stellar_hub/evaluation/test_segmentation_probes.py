"""Linear probes of dense features."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.data.segmentation_folders import UNLABELLED
from stellar_hub.evaluation.dice import dice_loss
from stellar_hub.evaluation.segmentation_metrics import mean_iou
from stellar_hub.evaluation.segmentation_probes import count_all, predict_masks, probe_loss, train_probes

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
    counts = count_all(probe, *data, 3, 4)
    assert counts.sum() == (data[1] != UNLABELLED).sum()
    assert mean_iou(counts) > 0.7
    assert predict_masks(probe, *data).shape == data[1].shape


def test_loss__of_a_batch_with_nothing_labelled_is_0(data: tuple[Tensor, Tensor]) -> None:
    (probe,) = train_probes(*data, 3, (1e-3,), **OPTIONS)  # type: ignore[arg-type]
    assert probe_loss(probe, data[0], torch.full_like(data[1], UNLABELLED)).item() == 0
