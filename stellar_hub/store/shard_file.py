"""One shard: a safetensors file with the features of some rows, and what is known of these rows' images.

Its header says which rows it holds, in which extraction, and the SHA-256 of all that is in it: a shard can be checked
without anything else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from stellar_hub.features.identity import tensors_sha256
from stellar_hub.features.image_record import ImageRecord
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.store.layout import remove_unfinished, spell_rows

# One key alone: safetensors writes several in an order that changes from file to file.
HEADER = "stellar_hub"
RECORDS = "records"  # name of the tensor that holds the records, as bytes of JSON


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself.

    Attributes:
        first_row: The first of its rows.
        num_rows: How many there are.
        plan: Identity of the extraction it belongs to.
        sha256: Of all its tensors.
    """

    first_row: int
    num_rows: int
    plan: str
    sha256: str


def write_shard(
    path: Path, rows: range, tensors: Mapping[str, Tensor], records: Sequence[ImageRecord], plan: str
) -> None:
    """Write a shard, whole or not at all.

    Raises:
        OSError: if it cannot be written, for instance because the disk is full.
    """
    remove_unfinished(path)
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    contents[RECORDS] = torch.frombuffer(bytearray(records_to_json(records)), dtype=torch.uint8)
    header = ShardHeader(rows.start, len(rows), plan, tensors_sha256(contents))
    write_atomically(path, serialize(contents, metadata={HEADER: json.dumps(asdict(header), sort_keys=True)}))


def open_shard(path: Path, rows: range, plan: str | None = None) -> Any:
    """Open a shard, memory-mapped; its tensors are not looked at.

    Args:
        path: Its file.
        rows: The rows it should hold.
        plan: The extraction it should belong to; None for any.

    Raises:
        ValueError: if it is missing, damaged, or another one; the rows are named.
    """
    try:
        file = safe_open(path, framework="pt")
        found = ShardHeader(**json.loads((file.metadata() or {})[HEADER]))
    except FileNotFoundError:
        raise ValueError(f"{spell_rows(rows)} cannot be read: there is no {path}") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} is damaged ({error})") from error
    if (found.first_row, found.num_rows) != (rows.start, len(rows)) or plan not in (None, found.plan):
        raise ValueError(f"{spell_rows(rows)} cannot be read: {path} is of another extraction")
    return file


def check_shard(path: Path, rows: range, plan: str) -> None:
    """Read all of a shard and compare it with its SHA-256.

    Raises:
        ValueError: if it is missing, damaged, or another one; the rows are named.
    """
    file = open_shard(path, rows, plan)
    header = json.loads(file.metadata()[HEADER])
    if tensors_sha256({name: file.get_tensor(name) for name in file.keys()}) != header["sha256"]:  # noqa: SIM118
        raise ValueError(f"{spell_rows(rows)} cannot be trusted: {path} is not what was written")


def read_records(file: Any) -> list[ImageRecord]:
    """What an open shard knows of its rows' images."""
    return records_from_json(file.get_tensor(RECORDS).numpy().tobytes())


def records_to_json(records: Sequence[ImageRecord]) -> bytes:
    """Records as JSON; no name is spelled again in each line."""
    lines = [[record.row, record.image, record.original_size, record.crop_box, record.error] for record in records]
    return json.dumps(lines, separators=(",", ":")).encode()


def records_from_json(data: bytes) -> list[ImageRecord]:
    """What `records_to_json` wrote."""
    return [
        ImageRecord(row, image, size and tuple(size), box and tuple(box), error)
        for row, image, size, box, error in json.loads(data)
    ]
