"""A store in LanceDB: one line of a table for each row; a set of tokens is a multivector column."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stellar_hub.extras import require
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.store.databases.identity import KEY, check_identity, identity_of
from stellar_hub.store.databases.outgoing import (
    DIGEST,
    ID,
    Export,
    ExportReport,
    OutgoingRows,
    columns_schema,
    plan_export,
)
from stellar_hub.store.databases.places import check_outside
from stellar_hub.store.databases.upsert import upsert
from stellar_hub.store.files import pyarrow

if TYPE_CHECKING:
    from lancedb.db import DBConnection

    from stellar_hub.store.feature_store import FeatureStore

MAX_BATCH = 4096  # rows; each batch is a version of the table
_BYTES_PER_BATCH = 64 * 2**20


def to_lance(
    store: "FeatureStore",
    uri: "str | os.PathLike[str] | DBConnection",
    table: str,
    outputs: Sequence[str] | None,
    dtype: str,
    source: str | None,
    batch_size: int | None,
    show_progress: bool,
) -> ExportReport:
    """Writes a store into a table, as `FeatureStore.to_lance` describes it."""
    library = require("lancedb", "lance", "export to LanceDB")
    export = plan_export(store, outputs, dtype, source, to_search=True)
    fitting = max(1, _BYTES_PER_BATCH // (4 * export.row_size))
    connection = uri if hasattr(uri, "open_table") else _connect(library, uri, store)
    return upsert(export, _Table(connection, table, export), batch_size or min(fitting, MAX_BATCH), show_progress)


def _connect(library: Any, uri: Any, store: "FeatureStore") -> Any:
    if not isinstance(uri, str | os.PathLike):
        raise TypeError(f"uri must be a path, an address or a connection of lancedb, got {type(uri).__name__}")
    name = os.fspath(uri)
    if "://" not in name:
        check_outside(Path(name), store)
    with _plain_errors():
        return library.connect(name)


class _Table:
    """A table of LanceDB that takes the rows of an export.

    Raises:
        ValueError: if the table holds something else.
    """

    def __init__(self, connection: Any, name: str, export: Export):
        self.name = f"the table {one_line(name, 100)}"
        schema = _schema(export)
        with _plain_errors():
            found = _open(connection, name)
            self.is_new = found is None
            self._table = connection.create_table(name, schema=schema) if found is None else found
            kept = self._table.schema
        if not self.is_new:
            check_identity(self.name, _known(kept), export)
            changed = [
                field.name for field in schema if field.name not in kept.names or field != kept.field(field.name)
            ]
            if changed:
                raise ValueError(
                    f"{self.name} has another type in the column {changed[0]}: name another table, or delete this one "
                    "first"
                )

    def digests(self, ids: list[str]) -> dict[str, str]:
        """Returns the digests of the lines that are there, by id."""
        listed = ", ".join(f"'{row_id}'" for row_id in ids)  # UUIDs of our own
        with _plain_errors():
            found = self._table.search().where(f"{ID} IN ({listed})").select([ID, DIGEST]).limit(len(ids)).to_arrow()
        return dict(zip(found[ID].to_pylist(), found[DIGEST].to_pylist(), strict=True))

    def write(self, rows: OutgoingRows) -> None:
        """Adds lines, in place of those with the same ids: all of them or none."""
        lines = rows.to_table().cast(pyarrow().schema(list(self._table.schema)))
        with _plain_errors():
            self._table.merge_insert(ID).when_matched_update_all().when_not_matched_insert_all().execute(lines)


def _open(connection: Any, name: str) -> Any:
    """Returns a table, or None if there is none of this name."""
    try:
        return connection.open_table(name)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if "not found" not in str(error).lower():
            raise
        return None


def _schema(export: Export) -> Any:
    """Returns the columns of the table; a feature `(r, d)` is a list of vectors, LanceDB's multivector type."""
    pa = pyarrow()
    fields = list(columns_schema())
    value = pa.float16() if export.dtype == "float16" else pa.float32()
    for name in export.outputs:
        *several, length = export.store.shape(name)
        kind = pa.list_(value, length)
        for _ in several:
            kind = pa.list_(kind)
        fields.append(pa.field(name, kind))
    return pa.schema(fields, metadata={KEY: json.dumps(identity_of(export), sort_keys=True)})


def _known(schema: Any) -> Any:
    text = (schema.metadata or {}).get(KEY.encode())
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {}


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turns LanceDB's errors that carry a traceback of Rust into one line.

    Raises:
        OSError: if the database cannot be read or written.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        kind = type(error) if isinstance(error, ConnectionError | TimeoutError) else OSError
        raise kind(f"LanceDB failed: {one_line(mask_secrets(str(error)), 300)}") from error
