"""Sheets of segmentations and of reconstructions."""

import torch
from torch import Tensor

from stellar_hub.measures import UNLABELLED
from stellar_hub.visualization import SegmentExample, draw_segments, draw_worst
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
