"""Sheets of segmentations and of reconstructions."""

import torch
from torch import Tensor

from stellar_hub.measures import UNLABELLED
from stellar_hub.visualization import SegmentExample, choose_spread, draw_segments, draw_worst
from stellar_hub.visualization.sheets import HEAD, MARGIN, WORST_SIDE, paint_labels


def example(labels: Tensor) -> SegmentExample:
    return SegmentExample(torch.full((3, 8, 8), 0.5), labels, labels.clamp(max=1), torch.arange(4).view(2, 2))


def test_paint_labels__shows_classes_background_and_unlabelled_apart() -> None:
    labels = torch.tensor([[0, 1], [2, UNLABELLED]])
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = paint_labels(torch.full((3, 2, 2), 0.5), labels, colors, background=0)
    assert found[:, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert found[:, 0, 1].argmax() == 1
    assert found[:, 1, 0].argmax() == 2
    assert found[:, 1, 1].tolist() == [0.25, 0.25, 0.25]


def test_segments__have_a_row_for_each_example() -> None:
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    labels[:4] = 1
    one, two = (draw_segments([example(labels)] * count, ("a", "b"), "title", 0) for count in (1, 2))
    assert two.width == one.width
    assert two.height > one.height


def test_worst__has_original_above_and_decoded_below() -> None:
    originals, decoded = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    image = draw_worst(originals, decoded, ["a", "b"], "title")
    assert image.getpixel((MARGIN + WORST_SIDE // 2, HEAD + WORST_SIDE // 2)) == (0, 0, 0)
    assert image.getpixel((MARGIN + WORST_SIDE // 2, HEAD + WORST_SIDE + WORST_SIDE // 2)) == (255, 255, 255)


def test_sheets__keep_the_aspect_of_images() -> None:
    wide = draw_worst(torch.zeros(1, 3, 4, 8), torch.ones(1, 3, 4, 8), ["a"], "title")
    assert wide.getpixel((MARGIN + WORST_SIDE // 2, HEAD + WORST_SIDE // 4)) == (0, 0, 0)
    assert wide.height < draw_worst(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), ["a"], "title").height


def test_choose_spread__shows_every_class_of_a_sorted_data_set() -> None:
    assert choose_spread([{0}, {0}, {0}, {1}, {1}, {2}], 3) == [0, 3, 5]


def test_choose_spread__prefers_images_with_more_classes() -> None:
    assert choose_spread([{0}, {0, 1}, {2}], 2) == [1, 2]


def test_choose_spread__begins_again_when_all_classes_are_shown() -> None:
    assert choose_spread([{0}, {0}, {1}, {1}], 4) == [0, 1, 2, 3]
    assert choose_spread([{0}, {0}, {1}, {1}], 3) == [0, 1, 2]


def test_choose_spread__gives_what_there_is() -> None:
    assert choose_spread([set(), {1}], 6) == [0, 1]
