"""Train and test images: both have the same classes, no file is in both, and hashes identify them."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages, SegmentationImages
from stellar_hub.data.labelled.labelled_images import shortened
from stellar_hub.data.sources.image_source import ImageSource, image_digest
from stellar_hub.evaluation.cached_features import RunSettings


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


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled images to learn from and to measure on; `prepare_splits` makes it.

    Attributes:
        train: Images to learn from.
        test: Images to measure on; their labels are indices into the classes of train.
        train_hash: SHA-256 of the images and labels of train.
        test_hash: SHA-256 of the images and labels of test.
        num_shared: Number of test images that are in train too.
    """

    train: LabelledImages
    test: LabelledImages
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """Returns names, counts and hashes of the data, for reports."""
        counts = self.train.counts()
        return {
            **_facts_of_splits(self),
            "smallest_class": min(counts),
            "largest_class": max(counts),
        }

    def notes(self) -> list[str]:
        """Returns remarks on the data that make the numbers less reliable."""
        single = [name for name, count in zip(self.train.classes, self.train.counts(), strict=True) if count == 1]
        notes = []
        if single:
            notes.append(f"classes with one image in train: {shortened(single)}")
        if self.num_shared:
            notes.append(
                f"{self.num_shared} of {len(self.test)} test images are in train too: the numbers are too good"
            )
        return notes


def prepare_splits(train: LabelledImages, test: LabelledImages, run: RunSettings, allow_shared: bool = False) -> Splits:
    """Checks that two sets of labelled images fit together, and hashes them.

    Args:
        train: Images to learn from.
        test: Images to measure on.
        run: Choices that decide how it is computed; processes share the reading.
        allow_shared: Whether a file may be in both sets.

    Raises:
        ValueError: if train has fewer than two classes, test has classes that train lacks, or a file is in both.
    """
    present = sum(count > 0 for count in train.counts())
    if present < 2:
        raise ValueError(f"{train.name} must have images of at least 2 classes, it has {present}")
    test = test.renumbered(train.classes)
    train_digests = digests(train.images, run, f"hashing {train.name}")
    test_digests = digests(test.images, run, f"hashing {test.name}")
    num_shared = _count_shared(train_digests, test_digests, train.name, test, allow_shared)
    return Splits(train, test, data_hash(train, train_digests), data_hash(test, test_digests), num_shared)


def hash_images(images: ImageSource, run: RunSettings, name: str) -> str:
    """Returns the SHA-256 of the images of a source in their order.

    Raises:
        ValueError: if one of the processes cannot read an image.
    """
    return _join(digests(images, run, f"hashing {name}"))


def digests(images: ImageSource, run: RunSettings, description: str) -> list[str]:
    """Returns the SHA-256 of each image's bytes; each process reads a part of the images.

    Raises:
        ValueError: if one of the processes cannot read an image.
    """
    mine, failure = [], None
    try:
        share = run.processes.share(len(images))
        for index in run.progress(share, description, len(share), "image"):
            mine.append(image_digest(images[index]))
    except OSError as error:
        failure = error
    run.processes.raise_together(failure)
    return run.processes.gather(mine)


def data_hash(labelled: LabelledImages, image_digests: list[str]) -> str:
    """Returns the SHA-256 of images and the names of their classes in their order; paths do not change it."""
    digest = hashlib.sha256()
    for image, label in zip(image_digests, labelled.labels, strict=True):
        digest.update(f"{image} {labelled.classes[label]}\0".encode())
    return digest.hexdigest()


class SegmentationSplits(NamedTuple):
    """Images with masks to learn from and to measure on; `prepare_segmentation` makes it.

    Attributes:
        train: Images to learn from.
        test: Images to measure on.
        train_hash: SHA-256 of the images and masks of train.
        test_hash: SHA-256 of the images and masks of test.
        num_shared: Number of test images that are in train too.
    """

    train: SegmentationImages
    test: SegmentationImages
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """Returns names, counts and hashes of the data, for reports."""
        return _facts_of_splits(self)


def prepare_segmentation(
    train: SegmentationImages, test: SegmentationImages, run: RunSettings, allow_shared: bool = False
) -> SegmentationSplits:
    """Checks that two sets of images with masks fit together, reads every mask, and hashes them.

    Args:
        train: Images to learn from.
        test: Images to measure on.
        run: Choices that decide how it is computed; processes share the reading.
        allow_shared: Whether an image may be in both sets.

    Raises:
        ValueError: if the classes differ, a mask does not fit its image or has an unknown label, or an image is in
            both sets.
    """
    if train.classes != test.classes:
        raise ValueError(
            f"train and test must have the same classes: {train.name} has {shortened(train.classes)}, "
            f"{test.name} has {shortened(test.classes)}"
        )
    train_images, train_hash = _check_and_hash_masks(train, run)
    test_images, test_hash = _check_and_hash_masks(test, run)
    num_shared = _count_shared(train_images, test_images, train.name, test, allow_shared)
    return SegmentationSplits(train, test, train_hash, test_hash, num_shared)


def _check_and_hash_masks(images: SegmentationImages, run: RunSettings) -> tuple[list[str], str]:
    """Reads every mask; returns the SHA-256 of each image, and that of all images and masks together."""
    failure, mine = None, run.processes.share(len(images))
    try:
        for index in run.progress(mine, f"checking masks of {images.name}", len(mine), "mask"):
            images.mask(index)
    except ValueError as error:
        failure = error
    run.processes.raise_together(failure)
    image_digests = digests(images.images, run, f"hashing {images.name}")
    mask_digests = digests(images.masks, run, f"hashing masks of {images.name}")
    return image_digests, _join(image_digests + mask_digests)


def _join(digests_: list[str]) -> str:
    return hashlib.sha256("\0".join(digests_).encode()).hexdigest()


def _count_shared(
    train_digests: list[str],
    test_digests: list[str],
    train_name: str,
    test: LabelledImages | SegmentationImages,
    allow_shared: bool,
) -> int:
    """Counts the test images that are in train too; raises ValueError for any unless `allow_shared` is True."""
    known = set(train_digests)
    shared = [index for index, digest in enumerate(test_digests) if digest in known]
    if shared and not allow_shared:
        raise ValueError(
            f"{len(shared)} of {len(test)} images of {test.name} are in {train_name} too, the first is "
            f"{test.images[shared[0]]}: remove them, or pass --allow-shared"
        )
    return len(shared)


def _facts_of_splits(splits: Splits | SegmentationSplits) -> dict[str, Any]:
    return {
        "classes": list(splits.train.classes),
        "train": {"name": splits.train.name, "num_images": len(splits.train), "sha256": splits.train_hash},
        "test": {"name": splits.test.name, "num_images": len(splits.test), "sha256": splits.test_hash},
        "num_shared_files": splits.num_shared,
    }
