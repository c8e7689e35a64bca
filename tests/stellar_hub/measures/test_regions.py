"""Regions of tokens and their overlap with objects."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from stellar_hub.measures import (
    UNLABELLED,
    argmax_regions,
    best_iou,
    best_patches_iou,
    class_iou,
    count_confusion,
    hungarian_iou,
    mean_iou,
    pixel_accuracy,
    threshold_regions,
    to_pixels,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class TestRegions:
    @given(seed=st.integers(0, 1000), height=st.integers(1, 4), width=st.integers(1, 4), tokens=st.integers(1, 6))
    def test_argmax__shares_the_grid_out(self, seed: int, height: int, width: int, tokens: int) -> None:
        localization = draw(height * width, tokens, seed=seed).softmax(dim=-1)
        regions = argmax_regions(localization, (height, width))
        assert regions.shape == (tokens, height, width)
        assert torch.equal(regions.sum(dim=0), torch.ones(height, width, dtype=torch.long))

    def test_argmax__is_row_major(self) -> None:
        localization = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0.9, 0.1]])
        owned_by_the_second = argmax_regions(localization, (2, 3))[1]
        assert owned_by_the_second.tolist() == [[False, True, False], [True, False, False]]

    def test_threshold__takes_each_map_by_its_own_maximum(self) -> None:
        localization = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.85, 0.15]])
        regions = threshold_regions(localization, (2, 2), fraction=0.75)
        assert regions.tolist() == [[[True, True], [False, True]], [[False, False], [True, False]]]

    @pytest.mark.parametrize("fraction", [0.0, 1.5])
    def test_threshold__refuses_fractions_out_of_range(self, fraction: float) -> None:
        with pytest.raises(ValueError, match=rf"fraction .* got {fraction}"):
            threshold_regions(draw(4, 2), (2, 2), fraction)

    @pytest.mark.parametrize("read", [argmax_regions, threshold_regions])
    def test_regions__refuse_other_grids_and_batches(self, read: Callable[..., Tensor]) -> None:
        for localization in (draw(5, 3), draw(1, 4, 3)):
            with pytest.raises(ValueError, match=r"\(n, r\) with n = 2 x 2"):
                read(localization, (2, 2))

    def test_to_pixels__repeats_patches(self) -> None:
        regions = torch.tensor([[[True, False]], [[False, True]]])  # a grid of 1 x 2
        pixels = to_pixels(regions, 2, 4)
        assert pixels[0].tolist() == [[True, True, False, False]] * 2
        assert torch.equal(pixels[1], ~pixels[0])

    def test_to_pixels__refuses_other_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"\(2, 2\) .* 4 x 5"):
            to_pixels(torch.ones(1, 2, 2, dtype=torch.bool), 4, 5)


class TestBestIou:
    def test_best_iou__of_known_overlaps(self) -> None:
        mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        mask[0, :2, :2] = True  # 4 pixels
        regions = torch.zeros(3, 4, 4, dtype=torch.bool)
        regions[0, :2] = True  # 8 pixels, 4 of them shared: 4 / 8
        regions[1, 0, :2] = True  # 2 pixels, both shared: 2 / 4
        regions[2, :3, :2] = True  # 6 pixels, 4 shared: 4 / 6
        torch.testing.assert_close(best_iou(regions, mask), torch.tensor([2 / 3]), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(best_iou(regions[:2], mask), torch.tensor([0.5]), rtol=1e-6, atol=1e-6)

    def test_best_iou__of_the_masks_themselves_is_one(self) -> None:
        masks = torch.eye(4, dtype=torch.bool).view(4, 2, 2)
        torch.testing.assert_close(best_iou(masks.flip(0), masks), torch.ones(4), rtol=1e-6, atol=1e-6)

    def test_best_iou__of_empty_regions_is_zero(self) -> None:
        nothing = torch.zeros(2, 3, 3, dtype=torch.bool)
        torch.testing.assert_close(best_iou(nothing, ~nothing), torch.zeros(2), rtol=1e-6, atol=1e-6)

    def test_best_iou__refuses_empty_masks_and_other_shapes(self) -> None:
        regions = torch.ones(1, 2, 2, dtype=torch.bool)
        with pytest.raises(ValueError, match="mask is empty"):
            best_iou(regions, ~regions)
        with pytest.raises(ValueError, match=r"got \(1, 2, 2\) and \(1, 2, 3\)"):
            best_iou(regions, torch.ones(1, 2, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match="r at least 1"):
            best_iou(regions[:0], regions)


class TestBestPatchesIou:
    @given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.95))
    def test_bound__is_the_best_of_all_unions(self, seed: int, share: float) -> None:
        mask = draw(1, 4, 6, seed=seed) < share
        mask[0, 0, 0] = True
        patches = torch.eye(6, dtype=torch.bool).view(6, 2, 3)
        unions = [
            patches[list(chosen)].any(0) for size in range(1, 7) for chosen in itertools.combinations(range(6), size)
        ]
        searched = best_iou(to_pixels(torch.stack(unions), 4, 6), mask)
        torch.testing.assert_close(best_patches_iou(mask, (2, 3)), searched, rtol=1e-6, atol=1e-6)

    def test_bound__of_whole_patches_is_one(self) -> None:
        mask = to_pixels(torch.tensor([[[True, False], [True, True]]]), 8, 8)
        torch.testing.assert_close(best_patches_iou(mask, (2, 2)), torch.ones(1), rtol=1e-6, atol=1e-6)

    def test_bound__refuses_empty_masks_and_grids_that_do_not_divide(self) -> None:
        mask = torch.ones(1, 4, 4, dtype=torch.bool)
        with pytest.raises(ValueError, match="mask is empty"):
            best_patches_iou(~mask, (2, 2))
        with pytest.raises(ValueError, match=r"\(3, 2\) .* 4 x 4"):
            best_patches_iou(mask, (3, 2))


class TestHungarianIou:
    @given(seed=st.integers(0, 300), num_regions=st.integers(1, 5), num_masks=st.integers(1, 4))
    def test_matching__has_the_highest_sum_of_all(self, seed: int, num_regions: int, num_masks: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        regions = torch.rand(num_regions, 4, 5, generator=generator) < 0.4
        masks = torch.rand(num_masks, 4, 5, generator=generator) < 0.4
        masks[:, 0, 0] = True
        table = [[float((r & m).sum() / (r | m).sum()) for r in regions] for m in masks]
        padded = [row + [0.0] * num_masks for row in table]  # objects may stay without a region
        highest = max(
            sum(padded[i][j] for i, j in enumerate(order))
            for order in itertools.permutations(range(num_regions + num_masks), num_masks)
        )
        found = hungarian_iou(regions, masks)
        assert found.shape == (num_masks,)
        assert found.sum().item() == pytest.approx(highest, abs=1e-5)
        assert (found <= best_iou(regions, masks) + 1e-6).all()

    def test_matching__refuses_other_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"got \(2, 3, 3\) and \(2, 4, 3\)"):
            hungarian_iou(torch.ones(2, 3, 3).bool(), torch.ones(2, 4, 3).bool())


@given(seed=st.integers(0, 200), num_classes=st.integers(2, 6), unlabelled=st.booleans())
def test_measures__are_those_of_torchmetrics(seed: int, num_classes: int, unlabelled: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, num_classes, (3, 5, 7), generator=generator)
    masks = torch.randint(0, max(1, num_classes - 1), (3, 5, 7), generator=generator)  # the last class is never true
    if unlabelled:
        masks[torch.rand(masks.shape, generator=generator) < 0.3] = UNLABELLED
    options = {"num_classes": num_classes, "ignore_index": UNLABELLED}
    counts = count_confusion(predictions.to(torch.uint8), masks.to(torch.uint8), num_classes, UNLABELLED)
    assert mean_iou(counts) == pytest.approx(MulticlassJaccardIndex(**options)(predictions, masks).item(), abs=1e-6)
    accuracy = MulticlassAccuracy(average="micro", **options)(predictions, masks).item()
    assert pixel_accuracy(counts) == pytest.approx(accuracy, abs=1e-6)


def test_confusion__counts_rows_of_true_and_columns_of_predicted_classes() -> None:
    labels, predictions = torch.tensor([0, 0, 1, 3, 3]), torch.tensor([0, 1, 1, 0, 3])
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert count_confusion(predictions, labels, 4).tolist() == expected
    assert count_confusion(predictions, labels, 4, ignored=3).sum() == 3


def test_iou__of_counts_by_hand() -> None:
    counts = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    expected = torch.tensor([3 / 6, 4 / 7, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(class_iou(counts), expected, equal_nan=True)
    assert mean_iou(counts) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_unlabelled_pixels_alone__count_for_nothing() -> None:
    counts = count_confusion(torch.zeros(1, 2, 2), torch.full((1, 2, 2), UNLABELLED), 3, UNLABELLED)
    assert counts.sum() == 0
    assert pixel_accuracy(counts) == 0
