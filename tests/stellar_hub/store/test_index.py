"""The index of a store."""

import dataclasses
import os
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from stellar_hub.features.rows import ImageRecord
from stellar_hub.old_names import old_names
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.index import StoreIndex, open_index, records_to_table, table_to_records, write_index

INDEXED = [ImageRecord(0, "a", (3, 4), (0.5, 0.25, 3.0, 4.0)), ImageRecord(1, "ü", error="cut short")]


def test_records__come_back_out_of_a_table() -> None:
    assert table_to_records(records_to_table(INDEXED)) == INDEXED
    assert records_to_table(INDEXED).schema.names[:2] == ["row", "image"]


def test_index__is_a_table_anyone_can_read(tmp_path: Path) -> None:
    assert write_index(tmp_path / "index.parquet", [INDEXED, [ImageRecord(2, "c", error="x")]]) == (1, 2)
    table = pyarrow.parquet.read_table(tmp_path / "index.parquet").to_pylist()
    assert table[1] == {
        "row": 1,
        old_names("store_format_1")["image"]: "ü",  # as the first stores have it
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
        write_index(tmp_path / name, [INDEXED])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_other_files__are_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    write_index(path, [INDEXED])
    open_index(path, 2)
    with pytest.raises(ValueError, match=r"2 rows.*3"):
        open_index(path, 3)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        open_index(path, 2)


@pytest.fixture
def copied(shared_store: FeatureStore, tmp_path: Path) -> Path:
    """A copy of the store of 23 rows, of which 4 and 17 have an error, in shards of 8 rows."""
    return shutil.copytree(shared_store.path, tmp_path / "copied")


def test_pipe__is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.parquet")
    with pytest.raises(ValueError, match="a pipe"):
        open_index(tmp_path / "index.parquet", 3)


def test_index__gives_records_and_status(shared_store: FeatureStore) -> None:
    index = StoreIndex(shared_store.path / "index.parquet", shared_store.manifest)
    assert [record.row for record in index.records(2)] == list(range(16, 23))
    assert index.ok().nonzero().flatten().tolist() == [row for row in range(23) if row not in (4, 17)]


def test_damaged_page__is_named_with_file_and_rows(copied: Path) -> None:
    path = copied / "index.parquet"
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(1)
    data = bytearray(path.read_bytes())
    data[group.column(1).data_page_offset + group.column(1).total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    store = FeatureStore(copied)
    with pytest.raises(ValueError, match=r"rows 8 to 15 of the index .*index\.parquet.*--repair"):
        store.records([9])
    assert store.records([0])[0].row == 0
    assert "rows 8 to 15" in store.verify()[0]


def test_other_status_or_records__are_noticed(copied: Path) -> None:
    """Pages with right checksums, as another program would write them."""
    path = copied / "index.parquet"
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(number) for number in range(3)]
    names = groups[0][1].to_pylist()[::-1]
    groups[0] = groups[0].set_column(1, groups[0].column_names[1], [names])
    status = ["ok"] * len(groups[2])
    groups[2] = groups[2].set_column(8, "status", [status])
    with pyarrow.parquet.ParquetWriter(path, file.schema_arrow) as writer:
        for group in groups:
            writer.write_table(group)
        writer.add_key_value_metadata(file.metadata.metadata)
    store = FeatureStore(copied)
    with pytest.raises(ValueError, match="rows 0 to 7 of the index"):
        store.records([0])
    with pytest.raises(ValueError, match="status"):
        _ = store.ok


def test_parts__are_those_of_the_shards(shared_store: FeatureStore) -> None:
    other = dataclasses.replace(shared_store.manifest, shard_rows=6)
    with pytest.raises(ValueError, match="shards"):
        StoreIndex(shared_store.path / "index.parquet", other)


def test_index_of_an_earlier_release__is_read(copied: Path) -> None:
    path = copied / "index.parquet"
    file = pyarrow.parquet.ParquetFile(path)
    groups = [file.read_row_group(number).replace_schema_metadata(None) for number in range(3)]
    with pyarrow.parquet.ParquetWriter(path, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    assert FeatureStore(copied).records([20])[0].row == 20


def test_passing_errors__are_counted(shared_store: FeatureStore, tmp_path: Path) -> None:
    records = [
        ImageRecord(0, "a", error="not the image's fault: the disk is away"),
        ImageRecord(1, "b", error="cut short"),
        ImageRecord(2, "c", (3, 4), (0.0, 0.0, 3.0, 4.0)),
    ]
    counts = write_index(tmp_path / "index.parquet", [records])
    source = dict(shared_store.manifest.source) | {"num_images": 3}
    manifest = dataclasses.replace(shared_store.manifest, source=source).with_counts(*counts)
    assert StoreIndex(tmp_path / "index.parquet", manifest).num_passing() == 1
