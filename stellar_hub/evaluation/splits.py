"""Train and test images with labels: both have the same classes, no file is in both, and hashes identify them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.labelled.labelled_images import shortened
from stellar_hub.data.sources import ImageSource
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.digests import count_shared, digests_of, name_of, unreadable_shared
from stellar_hub.evaluation.left_out import LeftOut, notes_on_damage, remaining


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled images to learn from and to measure on; `prepare_splits` makes it.

    Attributes:
        train: Images to learn from.
        test: Images to measure on; their labels are indices into the classes of train.
        train_digests: SHA-256 of each image of train.
        test_digests: SHA-256 of each image of test.
        num_shared: Number of test images that are in train too.
        left_out: Images that cannot be read; they are in neither train nor test.
    """

    train: LabelledImages
    test: LabelledImages
    train_digests: Sequence[str]
    test_digests: Sequence[str]
    num_shared: int
    left_out: tuple[LeftOut, ...] = ()

    @cached_property
    def train_hash(self) -> str:
        """SHA-256 of the images and labels of train."""
        return data_hash(self.train, self.train_digests)

    @cached_property
    def test_hash(self) -> str:
        """SHA-256 of the images and labels of test."""
        return data_hash(self.test, self.test_digests)

    def facts(self) -> dict[str, Any]:
        """Returns names, counts and hashes of the data, for reports."""
        counts = self.train.counts()
        return {
            "classes": list(self.train.classes),
            "train": {"name": self.train.name, "num_images": len(self.train), "sha256": self.train_hash},
            "test": {"name": self.test.name, "num_images": len(self.test), "sha256": self.test_hash},
            "num_shared_files": self.num_shared,
            "smallest_class": min(counts),
            "largest_class": max(counts),
        }

    def notes(self) -> list[str]:
        """Returns remarks on the data that make the numbers less reliable."""
        counts = list(zip(self.train.classes, self.train.counts(), self.test.counts(), strict=True))
        notes = [
            f"classes {what}: {shortened(names)}"
            for what, names in (
                ("with no image in train", [name for name, train, _ in counts if train == 0]),
                ("with one image in train", [name for name, train, _ in counts if train == 1]),
                ("with no image in test", [name for name, train, test in counts if train and test == 0]),
            )
            if names
        ]
        for labelled in (self.train, self.test):
            notes += notes_on_damage(labelled.images, labelled.name)
        if self.num_shared:
            notes.append(
                f"{self.num_shared} of {len(self.test)} test images are in train too: the numbers are too good"
            )
        return notes

    def parts(self) -> dict[str, ImageSource]:
        """Returns the images of train and of test."""
        return {"train": self.train.images, "test": self.test.images}

    def without(self, unreadable: Mapping[str, Mapping[int, str]]) -> "Splits":
        """Returns the splits without some images.

        Args:
            unreadable: By "train" or "test", and by the index of an image: why it cannot be read.

        Raises:
            ValueError: if no image of test stays, or fewer than two classes of train, or none of a class of test.
        """
        train, train_digests, lost = _leave_out(self.train, self.train_digests, "train", unreadable.get("train", {}))
        test, test_digests, more = _leave_out(self.test, self.test_digests, "test", unreadable.get("test", {}))
        train = _without_emptied_classes(train, self.train)
        _check_classes(train)
        test = test.renumbered(train.classes)
        num_shared = count_shared(test_digests, train_digests)
        return Splits(train, test, train_digests, test_digests, num_shared, (*self.left_out, *lost, *more))


def prepare_splits(train: LabelledImages, test: LabelledImages, run: RunSettings, allow_shared: bool = False) -> Splits:
    """Checks that two sets of labelled images fit together, and hashes them.

    Files that cannot be read at all are left out. Images that cannot be decoded are noticed by the evaluation.

    Args:
        train: Images to learn from.
        test: Images to measure on.
        run: Choices that decide how it is computed; processes share the reading.
        allow_shared: Whether a file may be in both sets.

    Raises:
        ValueError: if train has fewer than two classes, test has classes that train lacks, or a file is in both.
    """
    _check_classes(train)
    test = test.renumbered(train.classes)
    digests, unreadable = {}, {}
    for part, labelled in (("train", train), ("test", test)):
        digests[part], unreadable[part] = digests_of(labelled.images, run, f"hashing {labelled.name}")
    splits = Splits(train, test, digests["train"], digests["test"], count_shared(digests["test"], digests["train"]))
    if any(unreadable.values()):
        splits = splits.without(unreadable)
    if splits.num_shared and not allow_shared:
        splits = splits.without(
            unreadable_shared(
                (splits.train.images, splits.train_digests, train.name),
                (splits.test.images, splits.test_digests, test.name),
            )
        )
    return splits


def data_hash(labelled: LabelledImages, image_digests: Sequence[str]) -> str:
    """Returns the SHA-256 of images and the names of their classes in their order; paths do not change it."""
    digest = hashlib.sha256()
    for image, label in zip(image_digests, labelled.labels, strict=True):
        digest.update(f"{image} {labelled.classes[label]}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _check_classes(train: LabelledImages) -> None:
    """Raises ValueError unless there are images of at least two classes."""
    present = sum(count > 0 for count in train.counts())
    if present < 2:
        raise ValueError(f"{train.name} must have images of at least 2 classes, it has {present}")


def _leave_out(
    labelled: LabelledImages, digests: Sequence[str], part: str, reasons: Mapping[int, str]
) -> tuple[LabelledImages, list[str], list[LeftOut]]:
    """Returns the images that stay, their hashes, and what is known about the others."""
    if not reasons:
        return labelled, list(digests), []
    rows = remaining(labelled.name, len(labelled), reasons)
    kept = labelled.select(rows)
    lost = [LeftOut(part, name_of(labelled.images, row), reasons[row]) for row in sorted(reasons)]
    return kept, [digests[row] for row in rows], lost


def _without_emptied_classes(train: LabelledImages, before: LabelledImages) -> LabelledImages:
    """Returns images without the classes that had images before and have none now."""
    emptied = {
        name for name, had, has in zip(train.classes, before.counts(), train.counts(), strict=True) if had and not has
    }
    return train.renumbered([name for name in train.classes if name not in emptied]) if emptied else train
