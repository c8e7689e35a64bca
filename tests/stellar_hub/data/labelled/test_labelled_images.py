"""Labelled images."""

from pathlib import Path

import pytest

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.labelled.labelled_images import shortened

PATHS = [Path(f"{number}.png") for number in range(4)]


def test_classes__are_numbered_in_the_order_of_their_names() -> None:
    labelled = LabelledImages.from_names("mine", PATHS, ["dog", "cat", "dog", "ant"])
    assert labelled.classes == ("ant", "cat", "dog")
    assert labelled.labels == (2, 1, 2, 0)
    assert labelled.counts() == [1, 1, 2]
    assert len(labelled) == 4


def test_renumbered__keeps_what_each_image_shows() -> None:
    labelled = LabelledImages.from_names("test", PATHS[:2], ["dog", "ant"]).renumbered(("ant", "cat", "dog"))
    assert labelled.labels == (2, 0)
    assert labelled.counts() == [1, 0, 1]


def test_classes_that_train_does_not_have__are_refused_by_name() -> None:
    labelled = LabelledImages.from_names("test", PATHS, ["dog", "cat", "dog", "ant"])
    with pytest.raises(ValueError, match=r"test .*: ant, dog \(train has bird, cat\);"):
        labelled.renumbered(("cat", "bird"))
    with pytest.raises(ValueError, match=r"test has none of .* ant, cat, dog, train has bird;"):
        labelled.renumbered(("bird",))


def test_a_class_without_images__is_not_missed() -> None:
    labelled = LabelledImages("test", PATHS, (0, 0, 0, 0), ("cat", "never seen"))
    assert labelled.renumbered(("cat",)).labels == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ((), ("a",), "mine"),
        ((0, 1), ("a", "b"), "4 images and 2 labels"),
        ((0, 1, 2, 0), ("a", "b"), "got 0 to 2"),
        ((0, -1, 0, 0), ("a", "b"), "got -1 to 0"),
    ],
)
def test_what_does_not_fit__is_refused(labels: tuple[int, ...], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledImages("mine", PATHS, labels, classes)


def test_shortened__says_how_many_more() -> None:
    assert shortened("abc") == "a, b, c"
    assert shortened("abcdefgh") == "a, b, c, d, e and 3 more"
