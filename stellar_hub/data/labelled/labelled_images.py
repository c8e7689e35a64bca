"""Images with one class each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from stellar_hub.data.sources.combined import SampledImages
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

    def select(self, rows: Sequence[int]) -> Self:
        """Returns some of the images with their labels, by their numbers; the classes stay."""
        images = SampledImages(self.images, rows)
        return replace(self, images=images, labels=tuple(self.labels[row] for row in rows))

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


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Splits training samples in two, class by class.

    Args:
        labels: Classes, `(N,)` integers from 0.
        share: Share of each class to hold out, in (0, 1). The number is rounded, and at least one sample of each class
            with two or more is held out.
        seed: Seed of the choice.

    Returns:
        Indices to fit on and held-out indices, both sorted int64. They are disjoint and together all indices. The
        sample of a class that has only one is among the indices to fit on.

    Raises:
        ValueError: if the share is out of range, or no class has two samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be in (0, 1), got {share}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held = []
    for label in labels.unique():
        members = order[labels[order] == label]
        if len(members) > 1:
            count = min(len(members) - 1, max(1, round(share * len(members))))
            held.append(members[:count])
    if not held:
        raise ValueError("no class has two training images, so none can be held out to choose on: add images")
    chosen = torch.cat(held).sort().values
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[chosen] = True
    return (~is_held).nonzero().flatten(), chosen


def shortened(names: Iterable[str]) -> str:
    """Returns the first five names for a message, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return one_line(", ".join(names[:MAX_NAMED])) + more
