from pathlib import Path

import pyarrow.parquet
import pytest

from stellar_hub.features.image_record import ImageRecord
from stellar_hub.store.index_file import open_index, records_to_table, table_to_records, write_index

RECORDS = [ImageRecord(0, "a", (3, 4), (0.5, 0.25, 3.0, 4.0)), ImageRecord(1, "ü", error="cut short")]


def test_records__come_back_exactly() -> None:
    assert table_to_records(records_to_table(RECORDS)) == RECORDS


def test_index__is_a_table_anyone_can_read(tmp_path: Path) -> None:
    assert write_index(tmp_path / "index.parquet", [RECORDS, [ImageRecord(2, "c", error="x")]]) == (1, 2)
    table = pyarrow.parquet.read_table(tmp_path / "index.parquet").to_pylist()
    assert table[1] == {
        "row": 1,
        "image": "ü",
        "original_height": None,
        "original_width": None,
        "crop_top": None,
        "crop_left": None,
        "crop_bottom": None,
        "crop_right": None,
        "status": "error",
        "error": "cut short",
    }
    assert table[0]["crop_left"] == 0.25


def test_index__has_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_index(tmp_path / name, [RECORDS])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_damage__is_found(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    write_index(path, [RECORDS])
    open_index(path, 2)
    with pytest.raises(ValueError, match="is damaged: it has 2 rows, not 3"):
        open_index(path, 3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is missing or damaged"):
        open_index(path, 2)
