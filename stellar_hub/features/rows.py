"""The rows that the pipeline hands out: the record of an image, and its features."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stellar_hub.data.sources import EncodedImage
from stellar_hub.modeling.safe_text import escape_control, one_line

_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


@dataclass(frozen=True)
class ImageRecord:
    """What is known about one image of a source.

    Attributes:
        row: Index of the image in its source.
        image: Path of the image, or its name in an archive or a table, as `printable` writes it.
        original_size: `(height, width)` in pixels, after EXIF orientation; None if the image could not be read.
        crop_box: `(top, left, bottom, right)` of the part that the model saw, in pixels of the original image; None if
            the image could not be read.
        error: Why the row has no features; None if it has features.
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


class FeatureRow(NamedTuple):
    """One row: the record of the image, and its features by name, without a batch dimension."""

    record: ImageRecord
    features: dict[str, Tensor]


@dataclass(frozen=True)
class FeatureBatch:
    """Some rows.

    `batch["S"]` is `batch.features["S"]`.

    Attributes:
        records: One record for each row, in the order of rows.
        features: Tensors `(B, ...)` by name. Rows with an error are NaN, so that a mean over them shows the error.
    """

    records: Sequence[ImageRecord]
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            raise KeyError(f"the batch has {', '.join(self.features)}, not {name!r}: name it in outputs")
        return self.features[name]

    @property
    def row_ids(self) -> Tensor:
        """Indices of the images in their source, `(B,)` int64."""
        return torch.tensor([record.row for record in self.records], dtype=torch.int64)

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(B,)` bool."""
        return torch.tensor([record.error is None for record in self.records], dtype=torch.bool)


def name_of(image: object, row: int) -> str:
    """Returns the name of an image of a source, or "image 7" for an image that has neither a path nor a name."""
    if isinstance(image, EncodedImage):
        return printable(image.name)
    if isinstance(image, str | os.PathLike):
        return printable(os.fspath(image))
    return f"image {row}"


def printable(name: str) -> str:
    r"""Returns a file name as text that any program can read and any terminal can show.

    A byte that is not UTF-8 becomes `\xNN`, because Python keeps such bytes as lone surrogates, which cannot be written
    as UTF-8. A character that steers a terminal or hides text becomes `\uNNNN` or `\UNNNNNNNN`, and a backslash becomes
    two. `file_name` leads back.
    """
    return "".join(_escaped(character) for character in name) if _needs_escapes(name) else name


def _needs_escapes(name: str) -> bool:
    return "\\" in name or escape_control(name) != name


def _escaped(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if escape_control(character) == character:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def file_name(printed: str) -> str:
    """Returns the file name that `printable` wrote."""

    def unescape(match: re.Match[str]) -> str:
        kind, digits = match[1][0], match[1][1:]
        if kind == "\\":
            return kind
        return chr(int(digits, 16) + (0xDC00 if kind == "x" else 0))

    return _ESCAPED.sub(unescape, printed)


def printable_line(error: BaseException) -> str:
    """Returns the message of an error on one line, with names as `printable` writes them."""
    return one_line(error) or type(error).__name__
