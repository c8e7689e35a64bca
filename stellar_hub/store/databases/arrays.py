"""A store as arrays: a folder with one .npy file for each feature, and a parquet file that says what each line is."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from stellar_hub.modeling.atomic_write import replaced_folder
from stellar_hub.progress import Progress
from stellar_hub.store.databases.outgoing import Export, ExportReport, plan_export
from stellar_hub.store.databases.parquet import group_size, parquet_schema, parquet_writer
from stellar_hub.store.databases.places import ROWS, check_outside, content_of, is_written

if TYPE_CHECKING:
    from stellar_hub.store.feature_store import FeatureStore


def to_npy(
    store: "FeatureStore",
    folder: str | os.PathLike[str],
    outputs: Sequence[str] | None,
    dtype: str,
    source: str | None,
    overwrite: bool,
    show_progress: bool,
) -> ExportReport:
    """Writes a store as arrays, as `FeatureStore.to_npy` describes it."""
    export, target = plan_export(store, outputs, dtype, source, to_search=False), Path(folder)
    check_outside(target, store)
    content = content_of(export, format="npy")
    if is_written(target, content, overwrite):
        return export.report(target, is_there=True)
    if target.is_file():
        raise FileExistsError(f"{target} is a file: name a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    schema = parquet_schema(export, content, with_features=False)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(store), "row", target.name, enabled=show_progress))
        part = stack.enter_context(replaced_folder(target))
        arrays = {name: stack.enter_context(open(part / f"{name}.npy", "xb")) for name in export.outputs}
        rows_file = stack.enter_context(open(part / ROWS, "xb"))
        for name, file in arrays.items():
            _begin(file, export, name)
        writer = stack.enter_context(parquet_writer(rows_file, schema))
        for rows in export.batches(group_size(export)):
            if len(rows):
                writer.write_table(rows.table.cast(schema))
            for name, values in rows.features.items():
                arrays[name].write(np.ascontiguousarray(values).data)
            progress.update(rows.num_read)
    return export.report(target)


def _begin(file: IO[bytes], export: Export, name: str) -> None:
    """Writes the header of an array: its size is known before its values are."""
    shape = (int(export.store.ok.sum()), *export.store.shape(name))
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(export.dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
