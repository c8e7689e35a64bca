"""A store as parquet."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases import parquet as module
from stellar_hub.store.databases.outgoing import Export, OutgoingRows

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read seven at a time, so that files of other sizes get parts of groups."""
    monkeypatch.setattr(module, "MAX_GROUP", 7)


def check(table: Any, store: FeatureStore) -> None:
    rows = store.ok.nonzero().flatten().tolist()
    assert table["row"].to_pylist() == rows
    assert len(set(table["id"].to_pylist())) == len(rows)
    for name in ("S", "pooled"):
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), dtype=np.float32), store.read(name, rows))


def test_file__has_the_rows_with_features_as_lists_of_fixed_size(store: FeatureStore, tmp_path: Path) -> None:
    report = store.to_parquet(tmp_path / "new" / "a.parquet", **QUIET)
    assert (report.written, report.unchanged, report.left_out) == (58, 0, 2)
    table = pq.read_table(tmp_path / "new" / "a.parquet")
    check(table, store)
    assert table.schema.field("S").type == pyarrow.list_(pyarrow.list_(pyarrow.float32(), 12), 4)
    assert table.schema.field("pooled").type == pyarrow.list_(pyarrow.float32(), 12)
    assert table["label"].to_pylist()[:4] == ["class0", "class1", "class2", "class1"]


def test_metadata__say_what_made_the_features(store: FeatureStore, tmp_path: Path) -> None:
    store.to_parquet(tmp_path / "a.parquet", ["pooled"], **QUIET)
    found = json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"stellar_hub"])
    assert found["model"] == {"name": "one", "weights_sha256": store.manifest.model["weights_sha256"]}
    assert found["preprocessing"] == {"id": store.manifest.preprocessing["id"], "settings": {"fit": "crop"}}
    assert (found["vectors"], found["dtype"]) == ({"pooled": [12]}, "float32")


@pytest.mark.parametrize("rows_per_file", [1, 10, 29, 58, 100])
def test_folder__has_files_of_so_many_rows(store: FeatureStore, tmp_path: Path, rows_per_file: int) -> None:
    store.to_parquet(tmp_path / "out", rows_per_file=rows_per_file, **QUIET)
    files = sorted((tmp_path / "out").iterdir())
    sizes = [pq.read_metadata(file).num_rows for file in files]
    assert sizes == [len(range(58)[start : start + rows_per_file]) for start in range(0, 58, rows_per_file)]
    assert files[0].name == "part-00000.parquet"
    check(pyarrow.concat_tables(map(pq.read_table, files)), store)


def test_float16__is_kept(store: FeatureStore, tmp_path: Path) -> None:
    store.to_parquet(tmp_path / "a.parquet", ["pooled"], dtype="float16", **QUIET)
    values = np.stack(pq.read_table(tmp_path / "a.parquet")["pooled"].to_numpy())
    assert values.dtype == np.float16
    np.testing.assert_array_equal(values, store.read("pooled", store.ok).half())


def test_second_export__leaves_the_same_content_and_refuses_others(
    store: FeatureStore, build_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    store.to_parquet(path, **QUIET)
    before = path.stat().st_mtime_ns
    report = store.to_parquet(path, **QUIET)
    assert (report.written, report.unchanged, report.left_out) == (0, 58, 2)
    assert path.stat().st_mtime_ns == before
    other = build_store("other", model="two")
    with pytest.raises(FileExistsError):
        other.to_parquet(path, **QUIET)
    assert other.to_parquet(path, overwrite=True, **QUIET).written == 58
    with pytest.raises(FileExistsError):
        store.to_parquet(path, **QUIET)


@pytest.mark.parametrize("rows_per_file", [None, 10])
def test_interrupted_export__leaves_nothing(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_file: int | None
) -> None:
    def stop(export: Export, batch_size: int) -> Any:
        yield from itertools.islice(batches(export, batch_size), 3)
        raise KeyboardInterrupt

    batches: Callable[[Export, int], Any] = Export.batches
    monkeypatch.setattr(Export, "batches", stop)
    with pytest.raises(KeyboardInterrupt):
        store.to_parquet(tmp_path / "out" / "a", rows_per_file=rows_per_file, **QUIET)
    assert list((tmp_path / "out").iterdir()) == []


def test_memory__holds_one_group_of_rows(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    to_table = OutgoingRows.to_table
    monkeypatch.setattr(OutgoingRows, "to_table", lambda rows: sizes.append(len(rows)) or to_table(rows))
    store.to_parquet(tmp_path / "out", rows_per_file=40, **QUIET)
    assert max(sizes) <= 7


def test_wrong_outputs__are_refused(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows_per_file"):
        store.to_parquet(tmp_path / "out", rows_per_file=0, **QUIET)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="rows_per_file"):
        store.to_parquet(tmp_path / "empty", **QUIET)
