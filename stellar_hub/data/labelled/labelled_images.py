"""Images with one class each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from stellar_hub.data.sources.image_source import ImageSource, stamp_of
from stellar_hub.modeling.safe_text import one_line

MAX_NAMED = 5  # names in a message


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A source of images with one label for each image.

    Attributes:
        name: Name for messages and reports.
        images: Source of the images.
        labels: Index into `classes` for each image.
        classes: Names of the classes.
        notes: What was passed over, counted, one sentence each.

    Raises:
        ValueError: if the list is empty, the numbers of images and labels differ, or a label is out of range.
    """

    name: str
    images: ImageSource
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError(f"{self.name} has no labelled images")
        if len(self.labels) != len(self.images):
            raise ValueError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels")
        if not 0 <= min(self.labels) <= max(self.labels) < len(self.classes):
            raise ValueError(
                f"labels of {self.name} must be within [0, {len(self.classes) - 1}] for {len(self.classes)} classes, "
                f"got {min(self.labels)} to {max(self.labels)}"
            )

    @classmethod
    def from_names(cls, name: str, images: ImageSource, class_names: Sequence[str], notes: Sequence[str] = ()) -> Self:
        """Makes labelled images from the name of each image's class. Classes are numbered in the order of their names.

        Args:
            name: Name for messages and reports.
            images: Source of the images.
            class_names: Name of the class of each image.
            notes: What was passed over, counted.
        """
        classes = tuple(sorted(set(class_names)))
        number = {each: index for index, each in enumerate(classes)}
        return cls(name, images, tuple(number[each] for each in class_names), classes, tuple(notes))

    def __len__(self) -> int:
        return len(self.labels)

    def stamp(self, index: int) -> str:
        """Returns a text that changes when the file of an image changes; "" where that is not known."""
        return stamp_of(self.images, index)

    def counts(self) -> list[int]:
        """Returns the number of images of each class."""
        counts = [0] * len(self.classes)
        for label in self.labels:
            counts[label] += 1
        return counts

    def renumbered(self, classes: Sequence[str]) -> Self:
        """Returns the same images with labels that are indices into the given classes.

        Raises:
            ValueError: if a class that has images here is not among the given ones.
        """
        number = {each: index for index, each in enumerate(classes)}
        present = {self.classes[label] for label in self.labels}
        unseen = sorted(present - number.keys())
        if unseen:
            known = f"train has {shortened(sorted(number))}"
            if len(unseen) == len(present):
                raise ValueError(
                    f"{self.name} has none of the classes of train: it has {shortened(unseen)}, {known}; both need the "
                    "same names"
                )
            raise ValueError(
                f"{self.name} has classes that train does not have: {shortened(unseen)} ({known}); add train images of "
                "them or remove them"
            )
        return replace(self, labels=tuple(number[self.classes[label]] for label in self.labels), classes=tuple(classes))


def shortened(names: Iterable[str]) -> str:
    """Returns the first five names for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return one_line(", ".join(names[:MAX_NAMED])) + more
