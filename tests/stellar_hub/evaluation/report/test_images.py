"""Images of reports: what is where."""

import pytest
import torch
from torch import Tensor

from stellar_hub.measures.regions import UNLABELLED
from stellar_hub.visualization.figures import DEEP, HEAD, count_confusion, depth, draw_confusion, draw_spectra, tint
from stellar_hub.visualization.overlays import HEAD as WORST_HEAD
from stellar_hub.visualization.overlays import MARGIN, SIDE, SegmentExample, draw_segments, draw_worst, painted


def test_confusion__counts_rows_of_true_and_columns_of_predicted_classes() -> None:
    from sklearn.metrics import confusion_matrix

    labels, predictions = torch.tensor([0, 0, 1, 3, 3]), torch.tensor([0, 1, 1, 0, 3])
    found = count_confusion(predictions, labels, 4)
    assert found.tolist() == confusion_matrix(labels, predictions, labels=range(4)).tolist()


@pytest.mark.parametrize("number", [2, 30, 120])
def test_confusion__is_dark_where_answers_are(number: int) -> None:
    counts = 2 * torch.eye(number, dtype=torch.long)
    names = tuple(f"a class with the name {each}" for each in range(number))
    image = draw_confusion(counts, names, "title")
    colors = {color for _, color in image.getcolors(1 << 20)}  # type: ignore[union-attr]
    assert DEEP in colors
    assert tint(0.0) in colors
    assert image.height > HEAD
    assert tint(1.0) == DEEP


def example(labels: Tensor) -> SegmentExample:
    return SegmentExample(torch.full((3, 8, 8), 0.5), labels, labels.clamp(max=1), torch.arange(4).view(2, 2))


def test_painted__shows_classes_background_and_unlabelled_apart() -> None:
    labels = torch.tensor([[0, 1], [2, UNLABELLED]])
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = painted(torch.full((3, 2, 2), 0.5), labels, colors, background=0)
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
    assert image.getpixel((MARGIN + SIDE // 2, WORST_HEAD + SIDE // 2)) == (0, 0, 0)
    assert image.getpixel((MARGIN + SIDE // 2, WORST_HEAD + SIDE + SIDE // 2)) == (255, 255, 255)


def test_spectra__fall_by_decades() -> None:
    assert depth(1.0) == 0
    assert depth(1e-5) == pytest.approx(1)
    assert depth(0.0) == 1.1
    image = draw_spectra({"a": torch.tensor([2.0, 1.0, 0.0]), "b": torch.zeros(1)})
    assert image.width > image.height
