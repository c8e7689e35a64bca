"""A store as parquet: one file, or a folder of files, of ids, the columns of the index and the features."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellar_hub.modeling.atomic_write import replaced_folder
from stellar_hub.progress import Progress
from stellar_hub.store.databases.identity import KEY
from stellar_hub.store.databases.outgoing import Export, ExportReport, columns_schema, plan_export
from stellar_hub.store.databases.places import check_outside, content_of, is_written, replaced_file
from stellar_hub.store.files import pyarrow

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore

_BYTES_PER_GROUP = 64 * 2**20
MAX_GROUP = 4096  # rows


def to_parquet(
    store: "FeatureStore",
    path: str | os.PathLike[str],
    outputs: Sequence[str] | None,
    dtype: str,
    source: str | None,
    rows_per_file: int | None,
    overwrite: bool,
    show_progress: bool,
) -> ExportReport:
    """Writes a store as parquet, as `FeatureStore.to_parquet` describes it."""
    if rows_per_file is not None and rows_per_file < 1:
        raise ValueError(f"rows_per_file must be at least 1, got {rows_per_file}")
    export, target = plan_export(store, outputs, dtype, source, to_search=False), Path(path)
    check_outside(target, store)
    content = content_of(export, format="parquet", rows_per_file=rows_per_file)
    if is_written(target, content, overwrite):
        return export.report(target, is_there=True)
    if rows_per_file is None and target.is_dir():
        raise FileExistsError(f"{target} is a folder: name a file, or pass rows_per_file for a folder of files")
    schema = parquet_schema(export, content)
    with Progress(len(store), "row", target.name, enabled=show_progress) as progress:
        if rows_per_file is None:
            with replaced_file(target) as file:
                _write(file, _groups(export, progress), schema)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_folder(target) as folder:
                _write_parts(folder, _groups(export, progress), schema, rows_per_file)
    return export.report(target)


def parquet_schema(export: Export, content: dict[str, Any], with_features: bool = True) -> Any:
    """Returns the columns of a file; its metadata say what made the features."""
    pa = pyarrow()
    fields = list(columns_schema())
    value = pa.float16() if export.dtype == "float16" else pa.float32()
    for name in export.outputs if with_features else ():
        kind = value
        for length in reversed(export.store.shape(name)):
            kind = pa.list_(kind, length)
        fields.append(pa.field(name, kind))
    return pa.schema(fields, metadata={KEY: json.dumps(content, sort_keys=True)})


def group_size(export: Export) -> int:
    """Returns the number of rows that are read and written at a time."""
    return min(max(1, _BYTES_PER_GROUP // (4 * export.row_size)), MAX_GROUP)


def _groups(export: Export, progress: Progress) -> Iterator[Any]:
    """Yields tables of rows, and counts them."""
    for rows in export.batches(group_size(export)):
        if len(rows):
            yield rows.to_table()
        progress.update(rows.num_read)


def parquet_writer(file: Any, schema: Any) -> Any:
    """Returns the writer of a file; features, which never repeat, get no dictionaries."""
    texts = [field.name for field in columns_schema() if field.type == pyarrow().string()]
    return pyarrow().parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=texts)


def _write(file: Any, tables: Iterator[Any], schema: Any) -> None:
    with parquet_writer(file, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _write_parts(folder: Path, tables: Iterator[Any], schema: Any, rows_per_file: int) -> None:
    """Writes files of so many rows each; the last one may be shorter."""
    for number, pieces in itertools.groupby(_pieces(tables, rows_per_file), key=lambda piece: piece[0]):
        with open(folder / f"part-{number:05d}.parquet", "xb") as file:
            _write(file, (table for _, table in pieces), schema)


def _pieces(tables: Iterator[Any], rows_per_file: int) -> Iterator[tuple[int, Any]]:
    """Yields parts of tables, each with the number of the file that it belongs to."""
    done = 0
    for table in tables:
        while table.num_rows:
            number, place = divmod(done, rows_per_file)
            piece = table.slice(0, rows_per_file - place)
            yield number, piece
            done += piece.num_rows
            table = table.slice(piece.num_rows)
