"""Train and test images: the same classes, no file in both, a part held out, and what tells data sets apart."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.data.labelled.labelled_images import shortened
from stellar_hub.data.labelled.segmentation_folders import SegmentationImages
from stellar_hub.data.sources.image_source import ImageSource, image_digest
from stellar_hub.evaluation.computing import RunSettings


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split training samples in two, class by class.

    Args:
        labels: `(N,)` integers from 0.
        share: Of each class to hold out, in (0, 1); rounded, and at least one sample of each class that has two.
        seed: Of the choice.

    Returns:
        Indices to fit on and indices held out, both sorted int64: disjoint, and together all. A class of one sample
        stays among the first.

    Raises:
        ValueError: if the share is out of range, or no class has two samples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share to hold out must be within (0, 1), got {share}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    held = []
    for label in labels.unique():
        members = order[labels[order] == label]
        if len(members) > 1:
            count = min(len(members) - 1, max(1, round(share * len(members))))
            held.append(members[:count])
    if not held:
        raise ValueError("no class has two training images, so that nothing can be held out to choose on: add images")
    chosen = torch.cat(held).sort().values
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[chosen] = True
    return (~is_held).nonzero().flatten(), chosen


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled images to learn from and to measure on; make it with `prepare_splits`.

    Attributes:
        train: To learn from.
        test: To measure on, labels numbered as in train.
        train_hash: SHA-256 of train's images and labels.
        test_hash: SHA-256 of test's.
        num_shared: Test images that are in train too.
    """

    train: LabelledImages
    test: LabelledImages
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
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
        """Sentences on what makes the numbers less sure."""
        single = [name for name, count in zip(self.train.classes, self.train.counts(), strict=True) if count == 1]
        notes = []
        if single:
            notes.append(f"classes with one image in train: {shortened(single)}")
        if self.num_shared:
            notes.append(f"{self.num_shared} of {len(self.test)} test images are in train too: the numbers flatter")
        return notes


def prepare_splits(train: LabelledImages, test: LabelledImages, run: RunSettings, allow_shared: bool = False) -> Splits:
    """Bring two sets of labelled images together.

    Args:
        train: To learn from.
        test: To measure on.
        run: How; processes share the reading.
        allow_shared: Whether files may be in both.

    Raises:
        ValueError: if train has fewer than two classes, test has classes that train has not, or a file is in both.
    """
    present = sum(count > 0 for count in train.counts())
    if present < 2:
        raise ValueError(f"{train.name} holds images of {present} class: at least two are needed")
    test = test.renumbered(train.classes)
    train_digests = digests(train.images, run, f"hashing {train.name}")
    test_digests = digests(test.images, run, f"hashing {test.name}")
    known = set(train_digests)
    shared = [index for index, digest in enumerate(test_digests) if digest in known]
    if shared and not allow_shared:
        raise ValueError(
            f"{len(shared)} of {len(test)} images of {test.name} are in {train.name} too, the first is "
            f"{test.images[shared[0]]}: take them out, or pass --allow-shared"
        )
    return Splits(train, test, data_hash(train, train_digests), data_hash(test, test_digests), len(shared))


def digests(images: ImageSource, run: RunSettings, description: str) -> list[str]:
    """SHA-256 of each image's bytes; each process reads a part.

    Raises:
        ValueError: if one cannot be read, in whichever process.
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
    """SHA-256 over images and the names of their classes, in their order: the same wherever they lie."""
    digest = hashlib.sha256()
    for image, label in zip(image_digests, labelled.labels, strict=True):
        digest.update(f"{image} {labelled.classes[label]}\0".encode())
    return digest.hexdigest()


class SegmentationSplits(NamedTuple):
    """Images with masks to learn from and to measure on; make it with `prepare_segmentation`."""

    train: SegmentationImages
    test: SegmentationImages
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {
            "classes": list(self.train.classes),
            "train": {"name": self.train.name, "num_images": len(self.train), "sha256": self.train_hash},
            "test": {"name": self.test.name, "num_images": len(self.test), "sha256": self.test_hash},
            "num_shared_files": self.num_shared,
        }


def prepare_segmentation(
    train: SegmentationImages, test: SegmentationImages, run: RunSettings, allow_shared: bool = False
) -> SegmentationSplits:
    """Bring two sets of images with masks together, every mask checked.

    Raises:
        ValueError: if the classes differ, a mask does not fit its image or has an unknown label, or an image is in
            both.
    """
    if train.classes != test.classes:
        raise ValueError(
            f"{train.name} has {len(train.classes)} classes and {test.name} {len(test.classes)}, or other names: "
            "they must be the same"
        )
    hashes = []
    for images in (train, test):
        failure, mine = None, run.processes.share(len(images))
        try:
            for index in run.progress(mine, f"checking masks of {images.name}", len(mine), "mask"):
                images.mask(index)
        except ValueError as error:
            failure = error
        run.processes.raise_together(failure)
        digests_of_images = digests(images.images, run, f"hashing {images.name}")
        masks = digests(images.masks, run, f"hashing masks of {images.name}")
        hashes.append((digests_of_images, hashlib.sha256("\0".join(digests_of_images + masks).encode()).hexdigest()))
    (train_images, train_hash), (test_images, test_hash) = hashes
    shared = [index for index, digest in enumerate(test_images) if digest in set(train_images)]
    if shared and not allow_shared:
        raise ValueError(
            f"{len(shared)} of {len(test)} images of {test.name} are in {train.name} too, the first is "
            f"{test.images[shared[0]]}: take them out, or pass --allow-shared"
        )
    return SegmentationSplits(train, test, train_hash, test_hash, len(shared))
