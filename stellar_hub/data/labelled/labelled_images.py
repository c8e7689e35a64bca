"""Images, and which class each one shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from stellar_hub.data.sources.image_source import ImageSource

MAX_NAMED = 5  # names in a message


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A source of images with one label for each.

    Attributes:
        name: What to call it in messages and reports.
        images: The images, by index.
        labels: For each an index into `classes`.
        classes: Names of the classes.

    Raises:
        ValueError: if there is no image, not one label for each, or a label is out of range.
    """

    name: str
    images: ImageSource
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError(f"{self.name} is empty: it has no labelled images")
        if len(self.labels) != len(self.images):
            raise ValueError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels")
        if not 0 <= min(self.labels) <= max(self.labels) < len(self.classes):
            raise ValueError(
                f"labels of {self.name} must lie in [0, {len(self.classes) - 1}], as there are {len(self.classes)} "
                f"classes, got {min(self.labels)} to {max(self.labels)}"
            )

    @classmethod
    def from_names(cls, name: str, images: ImageSource, class_names: Sequence[str]) -> Self:
        """From the name of each image's class; classes are numbered in the order of their names."""
        classes = tuple(sorted(set(class_names)))
        number = {each: index for index, each in enumerate(classes)}
        return cls(name, images, tuple(number[each] for each in class_names), classes)

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> list[int]:
        """How many images each class has."""
        counts = [0] * len(self.classes)
        for label in self.labels:
            counts[label] += 1
        return counts

    def renumbered(self, classes: Sequence[str]) -> Self:
        """The same images, labels being indices into the given classes.

        Raises:
            ValueError: if a class that has images here is not among them.
        """
        number = {each: index for index, each in enumerate(classes)}
        present = {self.classes[label] for label in self.labels}
        unseen = sorted(present - number.keys())
        if unseen:
            raise ValueError(
                f"{self.name} holds classes that train does not: {shortened(unseen)}; "
                "give train images of them, or take them out"
            )
        return replace(self, labels=tuple(number[self.classes[label]] for label in self.labels), classes=tuple(classes))


def shortened(names: Iterable[str]) -> str:
    """Names for a message: the first few, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
