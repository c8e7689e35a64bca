"""SHA-256 of the images of an evaluation, and the images that are in train and in test."""

import hashlib
from collections.abc import Sequence

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.sources.image_source import image_digest, read_image
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.features.preparation import error_of_row
from stellar_hub.features.rows import printable

Part = tuple[ImageSource, Sequence[str], str]  # images, the hash of each, and their name


def digests_of(images: ImageSource, run: RunSettings, description: str) -> tuple[list[str], dict[int, str]]:
    """Returns the SHA-256 of each image's bytes; each process reads a part of the images.

    Returns:
        The hashes, in the order of the images, empty for files that cannot be read; and why each of these cannot be
        read, by its index.

    Raises:
        OSError: if the machine is at fault and not the file.
    """
    mine: list[tuple[str, str | None]] = []
    failure: Exception | None = None
    try:
        share = run.processes.share(len(images))
        for index in run.progress(share, description, len(share), "image"):
            mine.append(_digest_or_reason(images, index))
    except (OSError, MemoryError) as error:
        failure = error
    run.processes.raise_together(failure)
    found = run.processes.gather(mine)
    return [digest for digest, _ in found], {row: why for row, (_, why) in enumerate(found) if why is not None}


def _digest_or_reason(images: ImageSource, index: int) -> tuple[str, str | None]:
    try:
        return image_digest(images[index]), None
    except (OSError, ValueError) as error:
        return "", error_of_row(error, name_of(images, index))


def join_digests(digests: Sequence[str]) -> str:
    """Returns one SHA-256 for several."""
    return hashlib.sha256("\0".join(digests).encode()).hexdigest()


def count_shared(test_digests: Sequence[str], train_digests: Sequence[str]) -> int:
    """Counts the test images that are in train too."""
    known = set(train_digests)
    return sum(digest in known for digest in test_digests)


def unreadable_shared(train: Part, test: Part) -> dict[str, dict[int, str]]:
    """Returns the images that are in train and in test, which must not be: all of them cannot be read.

    Empty files and files of an error page are equal to each other, and say nothing about the data.

    Returns:
        By "train" and "test", and by the index of an image: why it cannot be read.

    Raises:
        ValueError: if one of them can be read.
    """
    known = set(train[1])
    shared = [row for row, digest in enumerate(test[1]) if digest in known]
    reasons: dict[str, str] = {}
    for row in shared:
        reason = reasons.get(test[1][row]) or _reason(test[0], row)
        if reason is None:
            raise ValueError(
                f"{len(shared)} of {len(test[1])} images of {test[2]} are in {train[2]} too, the first is "
                f"{name_of(test[0], row)}: remove them, or pass --allow-shared"
            )
        reasons[test[1][row]] = reason
    return {
        part: {row: _reason(images, row) or "" for row, digest in enumerate(digests) if digest in reasons}
        for part, (images, digests, _) in (("train", train), ("test", test))
    }


def name_of(images: ImageSource, row: int) -> str:
    """Returns the name of an image as `printable` writes it, or its number where even the name cannot be read."""
    try:
        return printable(str(images[row]))
    except (OSError, ValueError):
        return f"image {row}"


def _reason(images: ImageSource, row: int) -> str | None:
    """Returns why an image cannot be read; None if it can."""
    try:
        read_image(images[row])
    except (OSError, ValueError) as error:
        return error_of_row(error, name_of(images, row))
    return None
