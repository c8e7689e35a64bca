"""Train and test pictures: the same classes, no file in both, and what tells them from others."""

import hashlib
from dataclasses import dataclass
from typing import Any

from stellar_hub.data.labelled import LabelledPictures
from stellar_hub.data.labelled.labelled_pictures import shortened
from stellar_hub.data.picture_digest import picture_digest
from stellar_hub.data.sources.picture_source import PictureSource
from stellar_hub.evaluation.features.extraction import RunSettings


@dataclass(frozen=True, eq=False)
class Splits:
    """Labelled pictures to learn from and to measure on; make it with `prepare_splits`.

    Attributes:
        train: To learn from.
        test: To measure on, labels numbered as in train.
        train_hash: SHA-256 of train's pictures and labels.
        test_hash: SHA-256 of test's.
        num_shared: Test pictures that are in train too.
    """

    train: LabelledPictures
    test: LabelledPictures
    train_hash: str
    test_hash: str
    num_shared: int

    def facts(self) -> dict[str, Any]:
        """What a report says of the data."""
        counts = self.train.counts()
        return {
            "classes": list(self.train.classes),
            "train": {"name": self.train.name, "num_pictures": len(self.train), "sha256": self.train_hash},
            "test": {"name": self.test.name, "num_pictures": len(self.test), "sha256": self.test_hash},
            "num_shared_files": self.num_shared,
            "smallest_class": min(counts),
            "largest_class": max(counts),
        }

    def notes(self) -> list[str]:
        """Sentences on what makes the numbers less sure."""
        single = [name for name, count in zip(self.train.classes, self.train.counts(), strict=True) if count == 1]
        notes = []
        if single:
            notes.append(f"classes with one picture in train: {shortened(single)}")
        if self.num_shared:
            notes.append(f"{self.num_shared} of {len(self.test)} test pictures are in train too: the numbers flatter")
        return notes


def prepare_splits(
    train: LabelledPictures, test: LabelledPictures, run: RunSettings, allow_shared: bool = False
) -> Splits:
    """Bring two sets of labelled pictures together.

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
        raise ValueError(f"{train.name} holds pictures of {present} class: at least two are needed")
    test = test.renumbered(train.classes)
    train_digests = digests(train.pictures, run, f"hashing {train.name}")
    test_digests = digests(test.pictures, run, f"hashing {test.name}")
    known = set(train_digests)
    shared = [index for index, digest in enumerate(test_digests) if digest in known]
    if shared and not allow_shared:
        raise ValueError(
            f"{len(shared)} of {len(test)} pictures of {test.name} are in {train.name} too, the first is "
            f"{test.pictures[shared[0]]}: take them out, or pass --allow-shared"
        )
    return Splits(train, test, data_hash(train, train_digests), data_hash(test, test_digests), len(shared))


def digests(pictures: PictureSource, run: RunSettings, description: str) -> list[str]:
    """SHA-256 of each picture's bytes; each process reads a part.

    Raises:
        ValueError: if one cannot be read, in whichever process.
    """
    mine, failure = [], None
    try:
        share = run.processes.share(len(pictures))
        for index in run.progress(share, description, len(share), "picture"):
            mine.append(picture_digest(pictures[index]))
    except OSError as error:
        failure = error
    run.processes.raise_together(failure)
    return run.processes.gather(mine)


def data_hash(labelled: LabelledPictures, picture_digests: list[str]) -> str:
    """SHA-256 over pictures and the names of their classes, in their order: the same wherever they lie."""
    digest = hashlib.sha256()
    for picture, label in zip(picture_digests, labelled.labels, strict=True):
        digest.update(f"{picture} {labelled.classes[label]}\0".encode())
    return digest.hexdigest()
