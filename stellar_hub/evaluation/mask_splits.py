"""Train and test images with masks: both have the same classes, every mask fits its image, and hashes identify them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from stellar_hub.data.labelled import SegmentationImages
from stellar_hub.data.labelled.labelled_images import shortened
from stellar_hub.data.labelled.segmentation_folders import BINARY
from stellar_hub.data.sources import ImageSource
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.digests import count_shared, digests_of, join_digests, name_of, unreadable_shared
from stellar_hub.evaluation.left_out import LeftOut, remaining
from stellar_hub.features.preparation import error_of_row
from stellar_hub.measures import UNLABELLED


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images with masks that were all read once.

    Attributes:
        images: The images and their masks.
        image_digests: SHA-256 of each image.
        mask_digests: SHA-256 of each mask's file.
        labels: Numbers that occur in each mask, as they are stored.
    """

    images: SegmentationImages
    image_digests: Sequence[str]
    mask_digests: Sequence[str]
    labels: Sequence[frozenset[int]]

    def some(self, rows: Sequence[int]) -> "MaskedImages":
        """Returns some of the images."""
        lists = (self.image_digests, self.mask_digests, self.labels)
        return MaskedImages(self.images.some(rows), *([values[row] for row in rows] for values in lists))  # type: ignore[arg-type]

    def occurring(self) -> frozenset[int]:
        """Returns the numbers that occur in the masks."""
        return frozenset().union(*self.labels)


@dataclass(frozen=True, eq=False)
class SegmentationSplits:
    """Images with masks to learn from and to measure on; `prepare_segmentation` makes it.

    Attributes:
        train_part: Images to learn from, with what is known about them.
        test_part: Images to measure on, with what is known about them.
        num_shared: Number of test images that are in train too.
        left_out: Images that cannot be used, because they or their masks cannot be read.
    """

    train_part: MaskedImages
    test_part: MaskedImages
    num_shared: int
    left_out: tuple[LeftOut, ...] = ()

    @property
    def train(self) -> SegmentationImages:
        """Images to learn from."""
        return self.train_part.images

    @property
    def test(self) -> SegmentationImages:
        """Images to measure on."""
        return self.test_part.images

    @cached_property
    def train_hash(self) -> str:
        """SHA-256 of the images and masks of train."""
        return join_digests([*self.train_part.image_digests, *self.train_part.mask_digests])

    @cached_property
    def test_hash(self) -> str:
        """SHA-256 of the images and masks of test."""
        return join_digests([*self.test_part.image_digests, *self.test_part.mask_digests])

    def facts(self) -> dict[str, Any]:
        """Returns names, counts and hashes of the data, for reports."""
        return {
            "classes": list(self.train.classes),
            "train": {"name": self.train.name, "num_images": len(self.train), "sha256": self.train_hash},
            "test": {"name": self.test.name, "num_images": len(self.test), "sha256": self.test_hash},
            "num_shared_files": self.num_shared,
        }

    def notes(self) -> list[str]:
        """Returns remarks on the data: how numbers were read, and what makes the results less reliable."""
        notes = []
        if self.train.binary:
            first, second = self.train.classes
            notes.append(
                f"the masks hold only 0 and {UNLABELLED}, which were read as the classes {first} and {second}; "
                f"beside other numbers, {UNLABELLED} means unlabelled"
            )
        for part, masked in (("train", self.train_part), ("test", self.test_part)):
            absent = [name for number, name in enumerate(self.train.classes) if number not in _classes_in(masked)]
            if absent:
                notes.append(f"classes that occur in no mask of {part}: {shortened(absent)}")
            odd = sum(UNLABELLED in labels and labels <= BINARY for labels in masked.labels)
            if odd and not self.train.binary:
                masks = "1 mask" if odd == 1 else f"{odd} masks"
                notes.append(f"{UNLABELLED} means unlabelled, and {masks} of {part} hold no number but it and 0")
        if self.num_shared:
            notes.append(f"{self.num_shared} test images are in train too: the numbers are too good")
        return notes

    def parts(self) -> dict[str, ImageSource]:
        """Returns the images of train and of test."""
        return {"train": self.train.images, "test": self.test.images}

    def without(self, unreadable: Mapping[str, Mapping[int, str]]) -> "SegmentationSplits":
        """Returns the splits without some images and their masks.

        Args:
            unreadable: By "train" or "test", and by the index of an image: why it cannot be used.

        Raises:
            ValueError: if no image stays, or the masks that stay have only one class.
        """
        lost: list[LeftOut] = []
        kept = {}
        for part, masked in (("train", self.train_part), ("test", self.test_part)):
            reasons = unreadable.get(part, {})
            lost += [LeftOut(part, name_of(masked.images.images, row), reasons[row]) for row in sorted(reasons)]
            kept[part] = masked.some(remaining(masked.images.name, len(masked.images), reasons)) if reasons else masked
            _check_classes(kept[part], part)
        num_shared = count_shared(kept["test"].image_digests, kept["train"].image_digests)
        return SegmentationSplits(kept["train"], kept["test"], num_shared, (*self.left_out, *lost))


def prepare_segmentation(
    train: SegmentationImages, test: SegmentationImages, run: RunSettings, allow_shared: bool = False
) -> SegmentationSplits:
    """Checks that two sets of images with masks fit together, reads every mask, and hashes them.

    An image is left out with its mask if one of them cannot be read, the mask is missing, or their sizes differ. If the
    masks of both sets hold only 0 and 255, these are two classes; else 255 means unlabelled.

    Args:
        train: Images to learn from.
        test: Images to measure on.
        run: Choices that decide how it is computed; processes share the reading.
        allow_shared: Whether an image may be in both sets.

    Raises:
        ValueError: if the classes differ, a mask has an unknown label, train or test has one class only, no image
            stays, or an image is in both sets.
    """
    if train.classes != test.classes:
        raise ValueError(
            f"train and test must have the same classes: {train.name} has {shortened(train.classes)}, "
            f"{test.name} has {shortened(test.classes)}"
        )
    read, unreadable = {}, {}
    for part, images in (("train", train), ("test", test)):
        read[part], unreadable[part] = _read_masks(images, run)
        remaining(images.name, len(images), unreadable[part])  # refuses a set of which nothing stays
    binary = _hold_two_numbers(read["train"], read["test"], train.binary)
    for part, masked in read.items():
        images = replace(masked.images, binary=binary)
        read[part] = replace(masked, images=images)
        for row, labels in enumerate(masked.labels):
            images.check_labels(row, labels)
    shared = count_shared(read["test"].image_digests, read["train"].image_digests)
    splits = SegmentationSplits(read["train"], read["test"], shared).without(unreadable)
    if splits.num_shared and not allow_shared:
        splits = splits.without(
            unreadable_shared(
                (splits.train.images, splits.train_part.image_digests, train.name),
                (splits.test.images, splits.test_part.image_digests, test.name),
            )
        )
    return splits


def _read_masks(images: SegmentationImages, run: RunSettings) -> tuple[MaskedImages, dict[int, str]]:
    """Reads every mask; returns what was read, and why images cannot be used, by their index."""
    failure: Exception | None = None
    mine: list[tuple[frozenset[int], str | None]] = []
    try:
        share = run.processes.share(len(images))
        for index in run.progress(share, f"checking masks of {images.name}", len(share), "mask"):
            mine.append(_labels_or_reason(images, index))
    except (OSError, MemoryError) as error:
        failure = error
    run.processes.raise_together(failure)
    found = run.processes.gather(mine)
    image_digests, bad_images = digests_of(images.images, run, f"hashing {images.name}")
    mask_digests, bad_masks = digests_of(images.masks, run, f"hashing masks of {images.name}")
    reasons = {row: reason for row, (_, reason) in enumerate(found) if reason is not None}
    return (
        MaskedImages(images, image_digests, mask_digests, [labels for labels, _ in found]),
        bad_masks | bad_images | reasons,
    )


def _labels_or_reason(images: SegmentationImages, index: int) -> tuple[frozenset[int], str | None]:
    try:
        return frozenset(images.numbers(index).unique().tolist()), None
    except (OSError, ValueError) as error:
        return frozenset(), error_of_row(error, name_of(images.images, index))


def _hold_two_numbers(train: MaskedImages, test: MaskedImages, expected: bool) -> bool:
    """Whether the masks of both sets hold only 0 and 255, for two classes.

    Args:
        train: Images to learn from.
        test: Images to measure on.
        expected: Whether the names of the classes were chosen for such masks.

    Raises:
        ValueError: if that was expected, and the masks of test hold other numbers.
    """
    both = train.occurring() | test.occurring()
    other = min(both - BINARY, default=None)
    if len(train.images.classes) == 2 and other is None and (expected or both == BINARY):
        return True
    if expected:
        raise ValueError(
            f"the masks of {train.images.name} hold only 0 and {UNLABELLED}, and those of {test.images.name} hold "
            f"{other} too, beside which {UNLABELLED} means unlabelled: write the number of its class for each pixel, "
            "from 0, in all masks"
        )
    return False


def _classes_in(masked: MaskedImages) -> frozenset[int]:
    """Returns the classes that occur in the masks."""
    if masked.images.binary:
        return frozenset(int(number == UNLABELLED) for number in masked.occurring())
    return masked.occurring() - {UNLABELLED}


def _check_classes(masked: MaskedImages, part: str) -> None:
    """Raises ValueError unless pixels of at least two classes are labelled."""
    present = sorted(_classes_in(masked))
    if len(present) < 2:
        found = f"only the class {masked.images.classes[present[0]]}" if present else "no labelled pixel"
        hint = f" ({UNLABELLED} means unlabelled here)" if UNLABELLED in masked.occurring() else ""
        raise ValueError(
            f"the masks of {masked.images.name} ({part}) have {found}{hint}: segmentation needs at least 2 classes in "
            "the masks of train and of test, numbered from 0"
        )
