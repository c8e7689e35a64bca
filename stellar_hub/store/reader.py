"""Reading a store: features, records of images, and whether what is read is what was written."""

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stellar_hub.features.names import in_table_order
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import did_you_mean
from stellar_hub.progress import track
from stellar_hub.store.files import ShardHeader, check_shard, header_of, open_shard, open_shard_of
from stellar_hub.store.manifest import spell_rows
from stellar_hub.store.parts import StorePart, open_parts, remedy_of_damage
from stellar_hub.store.resume import MANY_ROWS
from stellar_hub.store.row_selection import Rows, runs_of, select_rows
from stellar_hub.store.tensor_format import SCALE, from_stored

ROW, LABEL = COLUMNS = ("row", "label")  # names of numbers that are known for each row, beside the features
MAX_OPEN = 32  # shards; each is an open file


class StoreReader:
    """The part of `FeatureStore` that reads files: those that a store was begun with, and those of its segments.

    Args:
        path: Folder of the store.
        check: Whether to read each shard once when it is first used, and to compare it with its SHA-256.

    Raises:
        FileNotFoundError: if the folder is not a store.
        ImportError: if pyarrow is not installed.
        ValueError: if the manifest or the index is damaged, or the store is not complete.
    """

    def __init__(self, path: str | os.PathLike[str], check: bool = True):
        self._open(path, check)

    def _open(self, path: str | os.PathLike[str], check: bool, num_segments: int | None = None) -> None:
        """Opens the first segments of a store; None opens all."""
        self.path = Path(path)
        self.check = check
        if not self.path.is_dir():
            raise FileNotFoundError(f"no such folder: {one_line(self.path)}; a feature store is a folder")
        self._store_parts = open_parts(self.path, num_segments)
        self.manifest, *segments = (part.manifest for part in self._store_parts)
        self.segments = tuple(segments)
        self._first_rows = [part.manifest.rows.start for part in self._store_parts]
        self._first_shards = list(accumulate((part.manifest.num_shards for part in self._store_parts), initial=0))
        self._shards: OrderedDict[int, Any] = OrderedDict()
        self._records: tuple[range, list[ImageRecord]] = (range(0), [])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "check": self.check, "num_segments": len(self.segments)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(**state)  # what an append has added since stays outside

    def __len__(self) -> int:
        return self._store_parts[-1].manifest.rows.stop

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by status, "ok" and "error", over all segments."""
        counts = [part.manifest.counts or {} for part in self._store_parts]
        return {status: sum(each[status] for each in counts) for status in ("ok", "error")}

    @property
    def num_shards(self) -> int:
        """Number of shards, over all segments."""
        return self._first_shards[-1]

    @property
    def _remedy(self) -> str:
        return remedy_of_damage(bool(self.segments))

    def rows_of_shard(self, number: int) -> range:
        """Returns the rows of a shard; shards are numbered over all segments.

        Raises:
            IndexError: if the shard does not exist.
        """
        part, place = self._place_of_shard(number)
        return part.manifest.rows_of_shard(place)

    def shard_path(self, number: int) -> Path:
        """Returns the file of a shard; shards are numbered over all segments.

        Raises:
            IndexError: if the shard does not exist.
        """
        part, place = self._place_of_shard(number)
        return part.shard_path(place)

    def _place_of_shard(self, number: int) -> tuple[StorePart, int]:
        """Returns the part that a shard belongs to, and the number of the shard in this part."""
        if not 0 <= number < self.num_shards:
            raise IndexError(f"shard {number} of {self.num_shards}")
        place = bisect_right(self._first_shards, number) - 1
        return self._store_parts[place], number - self._first_shards[place]

    def _shard_of_row(self, row: int) -> int:
        place = bisect_right(self._first_rows, row) - 1
        return (
            self._first_shards[place] + (row - self._first_rows[place]) // self._store_parts[place].manifest.shard_rows
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the features in the store, in the order of the table of features."""
        return in_table_order(self.manifest.features["shapes"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content of the store: of the digests in the headers of its shards, in their order.

        Raises:
            ValueError: if a shard is missing or damaged; the message names its rows.
        """
        digest = hashlib.sha256()
        for number in range(self.num_shards):
            digest.update(self._header(number).sha256.encode())
        return digest.hexdigest()

    def _header(self, number: int) -> ShardHeader:
        """Returns the header of a shard whose content nobody has compared.

        Raises:
            ValueError: if the shard is missing, damaged, or not that of the index; the message names its rows.
        """
        part, place = self._place_of_shard(number)
        file = open_shard(part.shard_path(place), part.manifest.rows_of_shard(place), part.plan)
        self._check_tie(file, number)
        return header_of(file)

    def _check_shard(self, number: int) -> None:
        """Reads a shard and its rows of the index, and compares both with what was written.

        Raises:
            ValueError: if they differ; the message names the rows.
        """
        part, place = self._place_of_shard(number)
        check_shard(part.shard_path(place), part.manifest.rows_of_shard(place), part.plan)
        self._header(number)
        part.index.records(place)

    def shape(self, output: str) -> tuple[int, ...]:
        """Returns the shape of a feature for one row.

        Raises:
            KeyError: if the store does not hold the feature.
        """
        if not isinstance(output, str):
            raise TypeError(
                f"output must be the name of one feature of {', '.join(self.outputs)}, got {type(output).__name__}"
            )
        if output not in self.outputs:
            hint = did_you_mean(output, {*self.outputs, *COLUMNS} - {output})
            hint = hint or ("" if output in COLUMNS else ": extract it with --outputs into another folder")
            raise KeyError(f"{self.path} does not hold {one_line(repr(output))}, only {', '.join(self.outputs)}{hint}")
        return tuple(self.manifest.features["shapes"][output])

    def known_outputs(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Returns names of features, all of them for None; one name stands for itself. "row" and "label" are left out.

        Raises:
            KeyError: if the store does not hold one.
        """
        names = self.outputs if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)
        names = tuple(name for name in names if name not in COLUMNS)
        for name in names:
            self.shape(name)
        return names

    def read(self, output: str | None = None, rows: Rows | None = None) -> Tensor:
        """Returns one feature of some rows, `(num_chosen, ...)`, in memory of its own.

        Args:
            output: Name of the feature. It may be left out if the store has only one. Or "row" or "label", which gives
                row numbers, or places in `classes`, int64.
            rows: Rows to read; None takes all. Negative numbers are refused, because searches give -1 for a hit that
                is missing.

        Raises:
            KeyError: if the store does not hold the feature.
            IndexError: if a row does not exist.
            TypeError: if the rows are not whole numbers or booleans.
            ValueError: if a shard is missing or damaged; the message names its rows. Also if a mask has another length
                than the store, or no feature is named and the store has several.
        """
        if output is None:
            if len(self.outputs) > 1:
                raise ValueError(f"name one feature to read: the store holds {', '.join(self.outputs)}")
            (output,) = self.outputs
        if output in COLUMNS:
            chosen = self._select(rows)
            return torch.tensor(chosen if output == ROW else self._class_numbers(chosen), dtype=torch.int64)
        parts = self._parts(output, rows)
        # A part lies in the memory map of its shard: what a caller writes into it would be read again, by searches too.
        return parts[0].clone() if len(parts) == 1 else torch.cat(parts)

    def _view(self, output: str, rows: Rows | None = None) -> Tensor:
        """Returns what `read` returns, without copying a range inside a shard: nothing may be written into it."""
        parts = self._parts(output, rows)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _parts(self, output: str, rows: Rows | None, scaled: bool = True) -> list[Tensor]:
        """Returns one feature of some rows in parts, one for each range inside a shard; without rows, one empty part.

        Without `scaled`, integers are as they are stored, which is enough to compare directions. The errors are those
        of `read`.
        """
        self.shape(output)
        places = [place for run in runs_of(self._select(rows)) for place in self._places(run)]
        return [self._read_part(output, *place, scaled) for place in places or [(0, 0, 0)]]

    def records(self, rows: Rows | None = None) -> list[ImageRecord]:
        """Returns the records of some rows' images; None takes all rows.

        Raises:
            IndexError: if a row does not exist.
            ValueError: if the index is damaged; the message names the rows. Also if a mask has another length than the
                store.
        """
        found = []
        for row in self._select(rows):
            if row not in self._records[0]:
                number = self._shard_of_row(row)
                part, place = self._place_of_shard(number)
                try:
                    self._records = (self.rows_of_shard(number), part.index.records(place))
                except ValueError as error:
                    raise ValueError(f"{error}; {self._remedy}") from error
            found.append(self._records[1][row - self._records[0].start])
        return found

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(len(store),)` bool."""
        return self._ok.clone()

    @cached_property
    def _ok(self) -> Tensor:
        try:
            return torch.cat([part.index.ok() for part in self._store_parts])
        except ValueError as error:
            raise ValueError(f"{error}; {self._remedy}") from error

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """For each row the class of its image: the first folder below the source's, see `ImageRecord.label`."""
        numbers = range(self.num_shards)
        shown = track(numbers, "reading labels", unit="shard", enabled=len(self) >= MANY_ROWS)
        parts = (self.records(self.rows_of_shard(number)) for number in shown)
        return tuple(record.label for records in parts for record in records)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names in `labels`, each once, in alphabetical order; a number for a class is a place in it."""
        return tuple(sorted(set(self.labels)))

    def _class_numbers(self, rows: Sequence[int]) -> list[int]:
        """Returns the place in `classes` of the label of each row."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        return [numbers[self.labels[row]] for row in rows]

    def _select(self, rows: Rows | None) -> Sequence[int]:
        return select_rows(rows, len(self))

    def _places(self, rows: range) -> Iterator[tuple[int, int, int]]:
        """Yields the shard, the first and the last place of each part of a range of rows."""
        row = rows.start
        while row < rows.stop:
            number = self._shard_of_row(row)
            shard = self.rows_of_shard(number)
            last = min(rows.stop, shard.stop)
            yield number, row - shard.start, last - shard.start
            row = last

    def _read_part(self, output: str, number: int, first: int, last: int, scaled: bool = True) -> Tensor:
        shard = self.open_shard(number)
        quantized = scaled and f"{output}{SCALE}" in shard.keys()  # noqa: SIM118  # it is not a mapping
        scale = shard.get_slice(f"{output}{SCALE}")[first:last] if quantized else None
        return from_stored(shard.get_slice(output)[first:last], scale)

    def open_shard(self, number: int) -> Any:
        """Returns a shard as `safetensors.safe_open` gives it; some shards stay open.

        Raises:
            ValueError: if it is missing or damaged; the message names its rows.
        """
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        try:
            part, place = self._place_of_shard(number)
            opened = open_shard_of(part.manifest, part.folder, place, self.check)
            self._check_tie(opened, number)
        except ValueError as error:
            raise ValueError(f"{error}; {self._remedy}") from error
        self._shards[number] = opened
        if len(self._shards) > MAX_OPEN:
            self._shards.popitem(last=False)
        return opened

    def _check_tie(self, file: Any, number: int) -> None:
        """Raises ValueError unless an open shard is the one that the index was made from."""
        part, place = self._place_of_shard(number)
        contents = part.index.contents
        if contents is not None and header_of(file).sha256 != contents[place]:
            rows = spell_rows(part.manifest.rows_of_shard(place))
            raise ValueError(f"{rows} cannot be trusted: {part.shard_path(place)} is not the shard of the index")
