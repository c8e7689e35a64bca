"""A store as arrays."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases.outgoing import Export

QUIET: dict[str, Any] = {"show_progress": False}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_folder__has_an_array_for_each_feature_and_its_rows(store: FeatureStore, tmp_path: Path, dtype: str) -> None:
    report = store.to_npy(tmp_path / "new" / "arrays", dtype=dtype, **QUIET)
    assert (report.written, report.unchanged, report.left_out) == (58, 0, 2)
    folder = tmp_path / "new" / "arrays"
    assert sorted(path.name for path in folder.iterdir()) == ["S.npy", "pooled.npy", "rows.parquet"]
    rows = pq.read_table(folder / "rows.parquet")["row"].to_pylist()
    assert rows == store.ok.nonzero().flatten().tolist()
    for name in ("S", "pooled"):
        values = np.load(folder / f"{name}.npy", mmap_mode="r")
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, store.read(name, rows).to(getattr(torch, dtype)))


def test_single_numbers__become_a_vector(build_store: Callable[..., FeatureStore], tmp_path: Path) -> None:
    store = build_store(count=20, psnr=torch.arange(20.0))
    store.to_npy(tmp_path / "arrays", **QUIET)
    assert np.load(tmp_path / "arrays" / "psnr.npy").tolist() == [row for row in range(20) if row != 3]


def test_shard_of_errors_alone__leaves_no_trace(build_store: Callable[..., FeatureStore], tmp_path: Path) -> None:
    build_store(bad=tuple(range(16))).to_npy(tmp_path / "arrays", **QUIET)
    assert np.load(tmp_path / "arrays" / "S.npy").shape == (44, 4, 12)
    assert pq.read_table(tmp_path / "arrays" / "rows.parquet")["row"].to_pylist() == list(range(16, 60))


def test_second_export__leaves_the_same_content_and_refuses_others(
    store: FeatureStore, build_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    store.to_npy(tmp_path / "arrays", **QUIET)
    assert store.to_npy(tmp_path / "arrays", **QUIET).unchanged == 58
    other = build_store("other", model="two")
    with pytest.raises(FileExistsError):
        other.to_npy(tmp_path / "arrays", **QUIET)
    assert other.to_npy(tmp_path / "arrays", ["pooled"], overwrite=True, **QUIET).written == 58
    assert sorted(path.name for path in (tmp_path / "arrays").iterdir()) == ["pooled.npy", "rows.parquet"]


def test_interrupted_export__leaves_what_was_there(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(export: Export, batch_size: int) -> Any:
        yield from itertools.islice(batches(export, batch_size), 2)
        raise KeyboardInterrupt

    store.to_npy(tmp_path / "out" / "arrays", **QUIET)
    batches: Callable[[Export, int], Any] = Export.batches
    monkeypatch.setattr(Export, "batches", stop)
    with pytest.raises(KeyboardInterrupt):
        store.to_npy(tmp_path / "out" / "arrays", ["S"], overwrite=True, **QUIET)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["arrays"]
    assert np.load(tmp_path / "out" / "arrays" / "pooled.npy").shape == (58, 12)


def test_wrong_outputs__are_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="file"):
            store.to_npy(tmp_path / "file", overwrite=overwrite, **QUIET)
    with pytest.raises(ValueError, match="outside"):
        store.to_npy(store.path / "arrays", **QUIET)
