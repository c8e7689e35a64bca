"""The rows that the pipeline hands out: the record of an image, and its features."""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, overload

import torch
from torch import Tensor

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.sources.files import class_of_folder
from stellar_hub.modeling.safe_text import escape_control, one_line
from stellar_hub.old_names import did_you_mean

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
        roots: Folders that hold class folders, as `roots_of` writes them; `label` looks for them in `image`.
    """

    row: int
    image: str
    original_size: tuple[int, int] | None = None
    crop_box: tuple[float, float, float, float] | None = None
    error: str | None = None
    roots: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def status(self) -> str:
        """Either "ok" or "error"."""
        return "ok" if self.error is None else "error"

    @property
    def label(self) -> str:
        """Class of the image: the first folder below the one that was named as source, as torchvision has it.

        An image directly in that folder has the folder's name, and one of a list, a tar or a table the name of the
        folder that it lies in; "" without a folder.
        """
        return class_of_folder(_with_slashes(self.image).rpartition("/")[0], self.roots)


@dataclass(frozen=True, eq=False, repr=False)
class FeatureRow:
    """One row: the record of an image, and its features.

    `row["S"]` is `row.features["S"]`, and `record, features = row` unpacks it.

    Attributes:
        record: What is known about the image.
        features: Tensors by name, without a batch dimension.
        weights: SHA-256 of the weights that made the features, if they are of a store.
    """

    record: ImageRecord
    features: dict[str, Tensor]
    weights: str | None = None

    def __getitem__(self, name: str) -> Tensor:
        return feature_of("row", self.features, name)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.record, self.features))

    def __repr__(self) -> str:
        error = "" if self.record.error is None else ", an error"
        image = one_line(repr(self.record.image))
        return f"FeatureRow(row {self.record.row}, {image}{error}; {describe_features(self.features)})"


@dataclass(frozen=True, eq=False, repr=False)
class FeatureBatch:
    """Some rows.

    `batch["S"]` is `batch.features["S"]`, `batch[0]` is the first row, and iteration gives the rows.

    Attributes:
        records: One record for each row, in the order of rows.
        features: Tensors `(B, ...)` by name. Rows with an error are NaN, so that a mean over them shows the error.
        weights: SHA-256 of the weights that made the features, if they are of a store.
    """

    records: Sequence[ImageRecord]
    features: dict[str, Tensor]
    weights: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, key: str) -> Tensor: ...
    @overload
    def __getitem__(self, key: int) -> FeatureRow: ...
    def __getitem__(self, key: str | int) -> Tensor | FeatureRow:
        if isinstance(key, str):
            return feature_of("batch", self.features, key)
        if not -len(self) <= key < len(self):
            raise IndexError(f"row {key} of a batch of {len(self)}")
        features = {name: tensor[key] for name, tensor in self.features.items()}
        return FeatureRow(self.records[key], features, self.weights)

    def __iter__(self) -> Iterator[FeatureRow]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        rows, errors = len(self), sum(record.error is not None for record in self.records)
        count = "1 row" if rows == 1 else f"{rows} rows"
        return f"FeatureBatch({count}, {errors} with an error; {describe_features(self.features)})"

    @property
    def row_ids(self) -> Tensor:
        """Indices of the images in their source, `(B,)` int64."""
        return torch.tensor([record.row for record in self.records], dtype=torch.int64)

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(B,)` bool."""
        return torch.tensor([record.error is None for record in self.records], dtype=torch.bool)


def feature_of(what: str, features: Mapping[str, Tensor], name: str) -> Tensor:
    """Returns a feature of a row or a batch.

    Args:
        what: What has the features, "row" or "batch".
        features: The features by name.
        name: Name of the feature.

    Raises:
        KeyError: if it is not there; the message has the names of those that are.
    """
    if name not in features:
        if name == "label":
            raise KeyError(f"the {what} has {', '.join(features)}; its label is in the record of a row: record.label")
        hint = did_you_mean(str(name), features) or ": name it in outputs"
        raise KeyError(f"the {what} has {', '.join(features)}, not {one_line(repr(name))}{hint}")
    return features[name]


def describe_features(features: Mapping[str, Tensor]) -> str:
    """Returns the name, the shape and the dtype of each feature, as in "S (16, 192) float16"."""
    parts = (
        f"{name} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in features.items()
    )
    return ", ".join(parts) or "no features"


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


@lru_cache(maxsize=64)  # many records have the same
def roots_of(*names: str) -> tuple[str, ...]:
    """Returns names of sources as `ImageRecord.roots` has them; a name that is no folder is the root of no image."""
    return tuple(posixpath.normpath(_with_slashes(printable(name))) for name in names if name)


def _with_slashes(name: str) -> str:
    """Returns a name as `printable` writes it, with the separator of other systems where Windows has its own."""
    return name.replace("\\\\", "/")


def named_once(line: str, name: str) -> str:
    """Returns an error, on one line, that names an image once; the line may spell the name in another way.

    Args:
        line: The error.
        name: Name of the image, as `printable` writes it.
    """
    raw = file_name(name)
    for spelling in (name, one_line(escape_control(raw)), one_line(raw), one_line(name)):
        if spelling in line:
            return line.replace(spelling, name)
    return f"{name}: {line}"


def printable_line(error: BaseException) -> str:
    """Returns the message of an error on one line, with names as `printable` writes them."""
    return one_line(error) or type(error).__name__
