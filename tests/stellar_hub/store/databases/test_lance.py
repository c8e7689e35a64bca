"""A store in LanceDB, in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stellar_hub.store import FeatureStore

lancedb = pytest.importorskip("lancedb", reason="needs the extra lance")
pa = pytest.importorskip("pyarrow")
QUIET: dict[str, Any] = {"show_progress": False}


class KilledError(BaseException):
    """What stands for the end of a process."""


class FailingTable:
    """A table whose merges fail after some; the failing one is either not done, or done and not answered."""

    def __init__(self, table: Any, num_left: int, is_done: bool):
        self._table, self._num_left, self._is_done = table, num_left, is_done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def merge_insert(self, on: str) -> Any:
        builder = self._table.merge_insert(on)
        self._num_left -= 1
        if self._num_left < 0:
            execute = builder.execute

            def fail(lines: Any) -> None:
                if self._is_done:
                    execute(lines)
                raise KilledError

            builder.execute = fail
        return builder


class FailingConnection:
    """A connection to a folder whose tables fail."""

    def __init__(self, folder: Path, num_left: int, is_done: bool):
        self._connection = lancedb.connect(folder)
        self._options = (num_left, is_done)

    def open_table(self, name: str) -> Any:
        return FailingTable(self._connection.open_table(name), *self._options)

    def create_table(self, name: str, schema: Any) -> Any:
        return FailingTable(self._connection.create_table(name, schema=schema), *self._options)


def table_in(folder: Path, name: str = "features") -> Any:
    return lancedb.connect(folder).open_table(name)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_search__finds_the_rows_of_exact_late_interaction(
    store: FeatureStore,
    tmp_path: Path,
    queries: np.ndarray,
    best_rows: Callable[..., list[list[int]]],
    dtype: str,
) -> None:
    report = store.to_lance(tmp_path / "lance", dtype=dtype, batch_size=20, **QUIET)
    assert (report.written, report.unchanged, report.left_out) == (58, 0, 2)
    table = table_in(tmp_path / "lance")
    searches = [table.search(query, vector_column_name="S").distance_type("cosine") for query in queries]
    found = [search.select(["row", "_distance"]).limit(10).to_list() for search in searches]
    rows = [[line["row"] for line in lines] for lines in found]
    expected = best_rows(store, queries)
    if dtype == "float32":
        assert rows == expected
    else:  # the smallest differences are those of the rounding
        shared = [len({*one} & {*other}) for one, other in zip(rows, expected, strict=True)]
        assert min(shared) >= 9


def test_lines__have_the_vectors_and_the_columns_of_the_index(store: FeatureStore, tmp_path: Path) -> None:
    store.to_lance(tmp_path / "lance", "mine", source='it\'s "mine"', **QUIET)
    lines = table_in(tmp_path / "lance", "mine").to_arrow().sort_by("row").to_pylist()
    assert [line["row"] for line in lines] == store.ok.nonzero().flatten().tolist()
    assert (lines[3]["image"], lines[3]["label"]) == ("/photos/class1/0004 ü'\".png", "class1")
    assert (lines[3]["source"], lines[3]["original_width"]) == ('it\'s "mine"', 60)
    np.testing.assert_array_equal(lines[3]["S"], store.read("S", [4])[0])
    np.testing.assert_array_equal(lines[3]["pooled"], store.read("pooled", [4])[0])


def test_second_export__writes_only_what_has_changed(build_store: Callable[..., FeatureStore], tmp_path: Path) -> None:
    values = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    place = tmp_path / "lance"
    build_store("a", count=20, bad=(), pooled=values.clone()).to_lance(place, source="x", **QUIET)
    values[7] *= -1
    report = build_store("b", count=20, bad=(), pooled=values).to_lance(place, source="x", **QUIET)
    assert (report.written, report.unchanged) == (1, 19)
    found = table_in(place).to_arrow().sort_by("row")
    np.testing.assert_array_equal(np.stack(found["pooled"].to_numpy()), values)


@pytest.mark.parametrize("is_done", [False, True])
def test_killed_export__goes_on_without_doubles(store: FeatureStore, tmp_path: Path, is_done: bool) -> None:
    with pytest.raises(KilledError):
        store.to_lance(FailingConnection(tmp_path / "lance", 2, is_done), batch_size=8, **QUIET)  # type: ignore[arg-type]
    there = table_in(tmp_path / "lance").count_rows()
    assert there == 7 + 8 + 8 * is_done
    report = store.to_lance(tmp_path / "lance", batch_size=8, **QUIET)
    assert (report.written, report.unchanged) == (58 - there, there)
    rows = table_in(tmp_path / "lance").to_arrow()["row"].to_pylist()
    assert sorted(rows) == store.ok.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("other", "options", "match"),
    [
        ({"model": "two"}, {}, r"model: one .* and two"),
        ({"fit": "pad"}, {}, "preprocessing: fit crop and pad"),
        ({"width": 8}, {}, r"S \(4, 12\).* and .*S \(4, 8\)"),
        ({}, {"dtype": "float16"}, "float32 and .*float16"),
    ],
)
def test_table_of_other_features__is_refused(
    store: FeatureStore,
    build_store: Callable[..., FeatureStore],
    tmp_path: Path,
    other: dict[str, Any],
    options: dict[str, Any],
    match: str,
) -> None:
    store.to_lance(tmp_path / "lance", **QUIET)
    with pytest.raises(ValueError, match=f"table features.*{match}.*name another table"):
        build_store("other", **other).to_lance(tmp_path / "lance", **options, **QUIET)
    assert table_in(tmp_path / "lance").count_rows() == 58


def test_table_of_somebody_else__is_refused(store: FeatureStore, tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "lance").create_table("features", [{"id": "a"}])
    with pytest.raises(ValueError, match="no export of stellar_hub"):
        store.to_lance(tmp_path / "lance", **QUIET)


def test_table_with_other_columns__is_refused(store: FeatureStore, tmp_path: Path) -> None:
    store.to_lance(tmp_path / "lance", **QUIET)
    table_in(tmp_path / "lance").drop_columns(["label"])
    with pytest.raises(ValueError, match="column label"):
        store.to_lance(tmp_path / "lance", **QUIET)


def test_database_in_the_store__is_refused(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="outside"):
        store.to_lance(store.path / "lance", **QUIET)
    with pytest.raises(TypeError, match="uri"):
        store.to_lance(7, **QUIET)  # type: ignore[arg-type]


def test_folder_that_cannot_be__is_an_error_of_one_line(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as raised:
        store.to_lance(tmp_path / "file" / "lance", **QUIET)
    assert "\n" not in str(raised.value)
