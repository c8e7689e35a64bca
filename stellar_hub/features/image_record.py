"""What is known of an image of a source: which row it is, its name, how it was fitted, or why it was not."""

import os
import re
from dataclasses import dataclass

from stellar_hub.data.sources import EncodedImage

ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


@dataclass(frozen=True)
class ImageRecord:
    """One row.

    Attributes:
        row: The image's index in its source.
        image: Its path, or its name in an archive or a table, as `printable` writes it.
        original_size: `(height, width)` in pixels, EXIF orientation applied; None where it could not be read.
        crop_box: `(top, left, bottom, right)` of what the model saw, in the original's pixels; None likewise.
        error: Why the row has no features; None where it has.
    """

    row: int
    image: str
    original_size: tuple[int, int] | None = None
    crop_box: tuple[float, float, float, float] | None = None
    error: str | None = None

    @property
    def status(self) -> str:
        """Either "ok" or "error"."""
        return "ok" if self.error is None else "error"


def name_of(image: object, row: int) -> str:
    """What to call an image of a source: its path or its name; "image 7" for one that has neither."""
    if isinstance(image, EncodedImage):
        return printable(image.name)
    if isinstance(image, str | os.PathLike):
        return printable(os.fspath(image))
    return f"image {row}"


def printable(name: str) -> str:
    r"""A file name as text that any program can read: bytes that are no UTF-8 as `\xNN`, a backslash as two.

    Python keeps such bytes as lone surrogates, which cannot be written as UTF-8. `file_name` is the way back.
    """
    escaped = name.replace("\\", "\\\\").encode("utf-8", "surrogateescape")
    return escaped.decode("utf-8", "backslashreplace")


def file_name(printed: str) -> str:
    """The file name that `printable` wrote."""

    def unescape(match: re.Match[str]) -> str:
        return "\\" if match[1] == "\\" else chr(0xDC00 + int(match[1][1:], 16))

    return ESCAPED.sub(unescape, printed)
