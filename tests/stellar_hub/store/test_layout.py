from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.store.layout import num_shards, remove_unfinished, rows_of_shard, shard_path, spell_rows, unknown_files


@given(st.integers(1, 10_000), st.integers(1, 999))
def test_shards__hold_each_row_once(num_rows: int, shard_rows: int) -> None:
    shards = [rows_of_shard(number, num_rows, shard_rows) for number in range(num_shards(num_rows, shard_rows))]
    assert [row for rows in shards for row in rows] == list(range(num_rows))
    assert all(0 < len(rows) <= shard_rows for rows in shards)


def test_shard__has_a_name_that_sorts() -> None:
    assert shard_path(Path("store"), 12).as_posix() == "store/shards/000012.safetensors"


@pytest.mark.parametrize(("rows", "spelled"), [(range(7, 8), "row 7"), (range(8, 16), "rows 8 to 15")])
def test_rows__are_spelled(rows: range, spelled: str) -> None:
    assert spell_rows(rows) == spelled


def test_unfinished_files__are_those_of_one_name(tmp_path: Path) -> None:
    for name in (".index.parquet.0a.part", ".manifest.json.0b.part", "mine.txt", "index.parquet"):
        (tmp_path / name).write_text("")
    assert unknown_files(tmp_path) == ["mine.txt"]
    remove_unfinished(tmp_path / "index.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".manifest.json.0b.part", "index.parquet", "mine.txt"]
