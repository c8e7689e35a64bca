"""The shards of a store: safetensors files with the features of some rows and the records of these rows' images.

The header of a shard names the rows and the extraction, and holds the SHA-256 of the content: a shard can be checked
without any other file.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from stellar_hub.extras import require
from stellar_hub.features.identity import tensors_sha256
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling.safe_paths import regular_file, utf8_name
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.manifest import Manifest, shard_path, spell_rows, write_whole
from stellar_hub.store.tensor_format import stored_layout

RECORDS = "records"  # name of the tensor that holds the records, as bytes of JSON
_HEADER = "stellar_hub"  # a single key: safetensors writes several keys in an order that changes from file to file
NUM_CHECK_DIGITS = 8
_checked: set[tuple[object, ...]] = set()  # files whose content this process has compared with its SHA-256


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard.

    Attributes:
        first_row: The first row in the shard.
        num_rows: Number of rows in the shard.
        plan: Identity of the extraction that the shard belongs to.
        sha256: SHA-256 of all tensors in the shard.
        stamps: SHA-256 of the stamps of the images' files; None if they were not known, as in stores of earlier
            releases.
    """

    first_row: int
    num_rows: int
    plan: str
    sha256: str
    stamps: str | None = None


def write_shard(
    path: Path,
    rows: range,
    tensors: Mapping[str, Tensor],
    records: Sequence[ImageRecord],
    plan: str,
    stamps: str | None = None,
) -> None:
    """Writes a shard, the whole file or nothing.

    Args:
        path: File of the shard.
        rows: Rows of the shard.
        tensors: Features of these rows, in their stored form.
        records: Records of these rows.
        plan: Identity of the extraction.
        stamps: SHA-256 of the stamps of the images' files; None if they are not known.

    Raises:
        OSError: if it cannot be written, for example because the disk is full.
    """
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    contents[RECORDS] = torch.frombuffer(bytearray(records_to_json(records)), dtype=torch.uint8)
    header = asdict(ShardHeader(rows.start, len(rows), plan, tensors_sha256(contents), stamps))
    kept = {name: value for name, value in header.items() if value is not None}
    if stamps is not None:
        kept["stamps"] = stamps + _check_digits(stamps)
    write_whole(path, serialize(contents, metadata={_HEADER: json.dumps(kept, sort_keys=True)}))


def open_shard(path: Path, rows: range, plan: str | None = None) -> Any:
    """Opens a shard as a memory map; this does not read its tensors.

    Args:
        path: File of the shard.
        rows: Rows that the shard should hold.
        plan: Extraction that the shard should belong to; None accepts any.

    Raises:
        ValueError: if the shard is missing, damaged or another one; the message names the rows.
    """
    try:
        with utf8_name(regular_file(path)) as name:
            file = safe_open(name, framework="pt")
        found = header_of(file)
    except FileNotFoundError:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} does not exist") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} is damaged ({one_line(error)})") from error
    if (found.first_row, found.num_rows) != (rows.start, len(rows)) or plan not in (None, found.plan):
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} belongs to another extraction")
    return file


def header_of(file: Any) -> ShardHeader:
    """Returns the header of an open shard.

    Raises:
        LookupError, TypeError, ValueError: if the file is not a shard.
    """
    header = ShardHeader(**json.loads((file.metadata() or {})[_HEADER]))
    if header.stamps is None:
        return header
    stamps = header.stamps[:-NUM_CHECK_DIGITS]
    if header.stamps != stamps + _check_digits(stamps):
        raise ValueError("the stamps in its header are not what was written")
    return replace(header, stamps=stamps)


def _check_digits(stamps: str) -> str:
    """Returns digits that tell a damaged digest of stamps from one of other images."""
    return hashlib.sha256(stamps.encode()).hexdigest()[:NUM_CHECK_DIGITS]


def open_shard_of(manifest: Manifest, folder: Path, number: int, check: bool = True) -> Any:
    """Opens a shard of a store, and makes sure that it holds what the manifest says.

    Args:
        manifest: Manifest of the store.
        folder: Folder of the store.
        number: Number of the shard.
        check: Whether to read the whole file and compare it with its SHA-256, once for each process and file.

    Raises:
        ValueError: if the shard is missing, damaged or another one; the message names the rows.
    """
    path, rows = shard_path(folder, number), manifest.rows_of_shard(number)
    file = open_shard(path, rows, manifest.plan)
    found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
    layout = stored_layout(manifest.features["shapes"], manifest.features["dtype"])
    for name, (shape, dtype) in layout.items():
        part = found.get(name)
        if part is None or (part.get_shape(), part.get_dtype()) != ([len(rows), *shape], dtype):
            raise ValueError(f"{spell_rows(rows)} cannot be read: {path} lacks {name} as the manifest describes it")
    if check:
        key = _key_of(path)
        if key not in _checked:
            check_content(file, path, rows)
            _checked.add(key)
    return file


def check_shard(path: Path, rows: range, plan: str) -> None:
    """Reads a whole shard and compares it with its SHA-256.

    Raises:
        ValueError: if the shard is missing, damaged or another one; the message names the rows.
    """
    check_content(open_shard(path, rows, plan), path, rows)


def check_content(file: Any, path: Path, rows: range) -> None:
    """Compares an open shard with the SHA-256 in its header.

    Raises:
        ValueError: if it is not what was written; the message names the rows.
    """
    try:
        found = tensors_sha256({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} is damaged ({one_line(error)})") from error
    if found != header_of(file).sha256:
        raise ValueError(f"{spell_rows(rows)} cannot be trusted: {path} is not what was written")


def _key_of(path: Path) -> tuple[object, ...]:
    """Returns what tells one state of a file from others."""
    facts = os.stat(path)
    return os.path.realpath(path), facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def read_records(file: Any) -> list[ImageRecord]:
    """Returns the records in an open shard.

    Raises:
        ValueError: if they are damaged; the message names the rows of the shard.
    """
    header = header_of(file)
    rows = range(header.first_row, header.first_row + header.num_rows)
    try:
        records = records_from_json(file.get_tensor(RECORDS).numpy().tobytes())
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"the records of {spell_rows(rows)} are damaged ({one_line(error)})") from error
    if [record.row for record in records] != list(rows):
        raise ValueError(f"the records of {spell_rows(rows)} are damaged: they are those of other rows")
    return records


def records_to_json(records: Sequence[ImageRecord]) -> bytes:
    """Returns records as JSON, one list of values for each."""
    lines = [[record.row, record.image, record.original_size, record.crop_box, record.error] for record in records]
    return json.dumps(lines, separators=(",", ":")).encode()


def records_from_json(data: bytes) -> list[ImageRecord]:
    """Returns the records that `records_to_json` wrote."""
    return [
        ImageRecord(row, image, size and tuple(size), box and tuple(box), error)
        for row, image, size, box, error in json.loads(data)
    ]


def pyarrow() -> Any:
    """Returns the library that reads and writes parquet.

    Raises:
        ImportError: if it is not installed.
    """
    return require("pyarrow.parquet", "extract", "the index of a feature store")
