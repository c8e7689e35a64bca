"""Train and test pictures with masks: every mask checked, no picture in both, and what tells them from others."""

import hashlib
from typing import Any, NamedTuple

from stellar_hub.data.segmentation_folders import SegmentationPictures
from stellar_hub.evaluation.features.extraction import RunSettings
from stellar_hub.evaluation.splits import digests


class SegmentationSplits(NamedTuple):
    """Pictures with masks to learn from and to measure on; make it with `prepare_segmentation`."""

    train: SegmentationPictures
    test: SegmentationPictures
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        return {
            "classes": list(self.train.classes),
            "train": {"name": self.train.name, "num_pictures": len(self.train), "sha256": self.train_hash},
            "test": {"name": self.test.name, "num_pictures": len(self.test), "sha256": self.test_hash},
            "num_shared_files": self.num_shared,
        }


def prepare_segmentation(
    train: SegmentationPictures, test: SegmentationPictures, run: RunSettings, allow_shared: bool = False
) -> SegmentationSplits:
    """Bring two sets of pictures with masks together, every mask checked.

    Raises:
        ValueError: if the classes differ, a mask does not fit its picture or has an unknown label, or a picture is in
            both.
    """
    if train.classes != test.classes:
        raise ValueError(
            f"{train.name} has {len(train.classes)} classes and {test.name} {len(test.classes)}, or other names: "
            "they must be the same"
        )
    hashes = []
    for pictures in (train, test):
        failure, mine = None, run.processes.share(len(pictures))
        try:
            for index in run.progress(mine, f"checking masks of {pictures.name}", len(mine), "mask"):
                pictures.mask(index)
        except ValueError as error:
            failure = error
        run.processes.raise_together(failure)
        images = digests(pictures.pictures, run, f"hashing {pictures.name}")
        masks = digests(pictures.masks, run, f"hashing masks of {pictures.name}")
        hashes.append((images, hashlib.sha256("\0".join(images + masks).encode()).hexdigest()))
    (train_images, train_hash), (test_images, test_hash) = hashes
    shared = [index for index, digest in enumerate(test_images) if digest in set(train_images)]
    if shared and not allow_shared:
        raise ValueError(
            f"{len(shared)} of {len(test)} pictures of {test.name} are in {train.name} too, the first is "
            f"{test.pictures[shared[0]]}: take them out, or pass --allow-shared"
        )
    return SegmentationSplits(train, test, train_hash, test_hash, len(shared))
