"""Segmentation: counts, IoU and accuracy are torchmetrics'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from stellar_hub.data.segmentation_folders import UNLABELLED
from stellar_hub.evaluation.segmentation_metrics import class_iou, count_pixels, mean_iou, pixel_accuracy


@given(seed=st.integers(0, 200), num_classes=st.integers(2, 6), unlabelled=st.booleans())
def test_measures__are_those_of_torchmetrics(seed: int, num_classes: int, unlabelled: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, num_classes, (3, 5, 7), generator=generator)
    masks = torch.randint(0, max(1, num_classes - 1), (3, 5, 7), generator=generator)  # the last class is never true
    if unlabelled:
        masks[torch.rand(masks.shape, generator=generator) < 0.3] = UNLABELLED
    options = {"num_classes": num_classes, "ignore_index": UNLABELLED}
    counts = count_pixels(predictions.to(torch.uint8), masks.to(torch.uint8), num_classes)
    assert torch.equal(counts, MulticlassConfusionMatrix(**options)(predictions, masks))
    assert mean_iou(counts) == pytest.approx(MulticlassJaccardIndex(**options)(predictions, masks).item(), abs=1e-6)
    accuracy = MulticlassAccuracy(average="micro", **options)(predictions, masks).item()
    assert pixel_accuracy(counts) == pytest.approx(accuracy, abs=1e-6)


def test_iou__of_counts_by_hand() -> None:
    counts = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    expected = torch.tensor([3 / 6, 4 / 7, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(class_iou(counts), expected, equal_nan=True)
    assert mean_iou(counts) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_unlabelled_pixels_alone__count_for_nothing() -> None:
    counts = count_pixels(torch.zeros(1, 2, 2), torch.full((1, 2, 2), UNLABELLED), 3)
    assert counts.sum() == 0
    assert pixel_accuracy(counts) == 0
