import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.data.sources import ImageTable, read_image, table_files
from stellar_hub.data.sources.image_source import image_digest, stamp_of
from stellar_hub.data.sources.table import HubDataset, is_saved_table
from stellar_hub.data.sources.table_files import check_parquet
from tests.stellar_hub.data.sources.conftest import png

datasets = pytest.importorskip("datasets", reason="needs the extra: pip install '.[datasets]'")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


# Fingerprint of one image of 3 bytes. Checkpoints and stores hold fingerprints, so they stay as they are.
FINGERPRINT = "ab27d2315d2dd11aaed718e046a6bf3447c13fda2a2a3d3cad9df36c368f836b"


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Four rows: bytes with a path, bytes alone, a file elsewhere, nothing."""
    (tmp_path / "file.png").write_bytes(png(2))
    cells = [
        {"bytes": png(0), "path": "n01/first.png"},
        {"bytes": png(1), "path": None},
        {"bytes": None, "path": str(tmp_path / "file.png")},
        None,
    ]
    features = datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image(decode=False)})
    return datasets.Dataset.from_dict({"label": [5, 6, 7, 8], "image": cells}, features=features)


def check(source: ImageTable, name: str) -> None:
    assert len(source) == 4
    assert [int(read_image(source[index])[0, 0, 0]) for index in range(3)] == [0, 1, 2]
    assert str(source[0]) == f"{name}, row 0 (first.png)"
    assert str(source[1]) == f"{name}, row 1"
    with pytest.raises(ValueError, match="row 3"):
        read_image(source[3])


def test_saved_table__is_read_from_disk(table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    assert is_saved_table(tmp_path / "saved")
    check(ImageTable.from_disk(tmp_path / "saved"), str(tmp_path / "saved"))


def test_splits__are_named_one_by_one(table: Any, tmp_path: Path) -> None:
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"test, train.*saved/test$"):
        ImageTable.from_disk(tmp_path / "saved")
    assert len(ImageTable.from_disk(tmp_path / "saved" / "train")) == 4


def test_parquet__is_read_file_by_file(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part in (0, 1):
        table.select([2 * part, 2 * part + 1]).to_parquet(tmp_path / f"part-{part}.parquet")
    files = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    source = ImageTable.from_parquet(files, root=tmp_path)
    check(source, f"{files[0]} and 1 more")
    stamps = [source.stamp(index) for index in range(4)]
    assert len(set(stamps)) == 4
    time = os.stat(files[1]).st_mtime_ns
    os.utime(files[1], ns=(time, time + 10))
    again = ImageTable.from_parquet(files, root=tmp_path)
    assert [again.stamp(index) == stamp for index, stamp in enumerate(stamps)] == [True, True, True, False]


IMAGE_CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_parquet(path: Path, cells: list[Any], kind: Any = IMAGE_CELL) -> Path:
    """A table as somebody without `datasets` writes it."""
    pq.write_table(pa.table({"image": pa.array(cells, type=kind)}), path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


class TestCellsWithPaths:
    @pytest.fixture
    def table_of_paths(self, tmp_path: Path) -> Path:
        """One row with bytes, and six that name files: inside, twice outside, a pipe, a device, one that is gone."""
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "in.png").write_bytes(png(1))
        (tmp_path / "private.png").write_bytes(png(2))
        (tmp_path / "root" / "link.png").symlink_to(tmp_path / "private.png")
        os.mkfifo(tmp_path / "root" / "pipe.png")
        names = ["in.png", str(tmp_path / "private.png"), "link.png", "pipe.png", "/dev/zero", "gone.png"]
        cells = [{"bytes": png(0), "path": "/etc/passwd"}, *({"bytes": None, "path": name} for name in names)]
        return write_parquet(tmp_path / "t.parquet", cells)

    def test_cells__give_bytes_alone_without_a_root(self, table_of_paths: Path) -> None:
        source = ImageTable.from_parquet([table_of_paths])
        assert read_image(source[0])[0, 0, 0] == 0
        for index in range(1, 7):
            with pytest.raises(ValueError, match=rf"row {index} .*root= .*--root .*data\.root"):
                read_image(source[index])
            with pytest.raises(ValueError, match="no bytes"):
                image_digest(source[index])

    def test_cells__name_regular_files_below_the_root(self, table_of_paths: Path, tmp_path: Path) -> None:
        source = ImageTable.from_parquet([table_of_paths], root=tmp_path / "root")
        assert read_image(source[1])[0, 0, 0] == 1
        for index, message in enumerate(("--root", "--root", "pipe", "--root", "no such file"), start=2):
            with pytest.raises(ValueError, match=message):
                read_image(source[index])

    def test_fingerprint__does_not_fail_because_of_a_missing_file(self, table_of_paths: Path, tmp_path: Path) -> None:
        found = ImageTable.from_parquet([table_of_paths], root=tmp_path / "root").fingerprint()
        (tmp_path / "root" / "in.png").unlink()
        changed = ImageTable.from_parquet([table_of_paths], root=tmp_path / "root").fingerprint()
        assert len(changed) == 64
        assert changed != found

    def test_stamp__is_that_of_the_file_that_a_cell_names(self, table_of_paths: Path, tmp_path: Path) -> None:
        source = ImageTable.from_parquet([table_of_paths], root=tmp_path / "root")
        assert source.stamp(1) == stamp_of([tmp_path / "root" / "in.png"], 0)
        assert source.stamp(6) == ""

    def test_names__are_those_of_the_images(self, table_of_paths: Path, tmp_path: Path) -> None:
        for root in (None, tmp_path / "root"):
            source = ImageTable.from_parquet([table_of_paths], root=root)
            assert [source.image_name(index) for index in range(7)] == [str(image) for image in source]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])])
def test_bytes__alone_are_images(tmp_path: Path, kind: Any) -> None:
    cells: list[Any] = [png(3), None, b""]
    if pa.types.is_struct(kind):
        cells = [cell and {"bytes": cell} for cell in cells[:2]] + [{"bytes": b""}]
    source = ImageTable.from_parquet([write_parquet(tmp_path / "t.parquet", cells, kind)])
    assert read_image(source[0])[0, 0, 0] == 3
    for index in (1, 2):
        with pytest.raises(ValueError, match=f"row {index} .*empty"):
            read_image(source[index])


def test_cell__beyond_the_limit_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", str(len(png(0))))
    source = ImageTable.from_parquet([write_parquet(tmp_path / "t.parquet", [png(0), png(0) + b"x"], pa.binary())])
    read_image(source[0])
    with pytest.raises(ValueError, match=r"row 1 .*STELLAR_HUB_MAX_IMAGE_BYTES"):
        read_image(source[1])


class TestDamagedTables:
    def test_parquet__that_declares_more_rows_than_bytes_is_refused(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "t.parquet", [None] * 100_000, pa.binary())
        with pytest.raises(ValueError, match=r"t\.parquet declares 100,000 rows"):
            ImageTable.from_parquet([path])

    @pytest.mark.parametrize("as_structure", [True, False])
    @pytest.mark.parametrize("repeated", [True, False])
    def test_parquet__that_expands_beyond_the_limit_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeated: bool, as_structure: bool
    ) -> None:
        monkeypatch.setattr(table_files, "FREE_BYTES", 1_000_000)
        monkeypatch.setenv("STELLAR_HUB_MAX_TABLE_EXPANSION", "50")
        path = tmp_path / "t.parquet"
        cells: list[Any] = [os.urandom(20_000)] * 100 if repeated else [bytes(20_000) + bytes([n]) for n in range(100)]
        if as_structure:
            cells = [{"bytes": cell, "path": None} for cell in cells]
        column = pa.array(cells, type=IMAGE_CELL if as_structure else pa.binary())
        pq.write_table(pa.table({"image": column}), path, compression="zstd", write_statistics=False)
        with pytest.raises(ValueError, match=r"t\.parquet .*STELLAR_HUB_MAX_TABLE_EXPANSION"):
            ImageTable.from_parquet([path])
        monkeypatch.setenv("STELLAR_HUB_MAX_TABLE_EXPANSION", "10000")
        assert len(ImageTable.from_parquet([path])) == 100

    def test_parquet__with_thousands_of_columns_is_refused(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({str(n): pa.array([b"x"]) for n in range(4097)}), tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=r"at most 4,096 columns, got 4,097"):
            ImageTable.from_parquet([tmp_path / "t.parquet"])

    def test_parquet__is_read_in_smaller_batches_where_rows_are_large(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "t.parquet", [os.urandom(2**20)] * 100, pa.binary())
        assert check_parquet(path).batch_rows == 64
        assert check_parquet(write_parquet(path, [png(0)] * 10, pa.binary())).batch_rows == 1000

    @pytest.mark.parametrize("cut", [0, 3, 100, -8])
    def test_parquet__that_is_damaged_is_named_in_one_line(self, tmp_path: Path, cut: int) -> None:
        path = write_parquet(tmp_path / "t.parquet", [png(0)], pa.binary())
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(ValueError, match=r"t\.parquet") as caught:
            ImageTable.from_parquet([path])
        assert str(caught.value).isprintable()

    def test_parquet__that_is_a_pipe_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "t.parquet")
        with pytest.raises(ValueError, match="pipe"):
            ImageTable.from_parquet([tmp_path / "t.parquet"])

    @pytest.mark.parametrize("name", ["../elsewhere.arrow", "/elsewhere.arrow", 3])
    def test_saved_table__that_names_files_of_other_folders_is_refused(
        self, table: Any, tmp_path: Path, name: object
    ) -> None:
        table.save_to_disk(tmp_path / "saved")
        state = json.loads((tmp_path / "saved" / "state.json").read_text())
        state["_data_files"] = [{"filename": name}]
        (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
        with pytest.raises(ValueError, match=r"state\.json names"):
            ImageTable.from_disk(tmp_path / "saved")

    def test_saved_table__that_is_damaged_is_named(self, table: Any, tmp_path: Path) -> None:
        table.save_to_disk(tmp_path / "saved")
        file = next((tmp_path / "saved").glob("*.arrow"))
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(ValueError, match="saved"):
            ImageTable.from_disk(tmp_path / "saved")


def test_fingerprint__is_of_the_images_alone_and_never_changes(table: Any) -> None:
    found = ImageTable(table, "a").fingerprint()
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"xyz", "path": None}]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    assert ImageTable(rows, "b").fingerprint() == FINGERPRINT
    assert ImageTable(table.remove_columns(["label"]), "b").fingerprint() == found
    assert ImageTable(table.select([1, 0, 2, 3]), "a").fingerprint() != found
    assert ImageTable(table.select(range(3)), "a").fingerprint() != found


class TestColumn:
    def test_column__is_the_only_one_or_the_one_named(self, table: Any) -> None:
        twice = table.add_column("other", table["image"], feature=datasets.Image(decode=False))
        assert ImageTable(table, "mine").column == "image"
        assert ImageTable(twice, "mine", column="other").column == "other"
        with pytest.raises(ValueError, match=r"mine .*\(image, other\)"):
            ImageTable(twice, "mine")

    def test_column__that_is_missing_is_refused(self, table: Any) -> None:
        with pytest.raises(ValueError, match=r"mine has no column of images; .* label"):
            ImageTable(table.remove_columns(["image"]), "mine")
        with pytest.raises(ValueError, match=r"mine has no column 'photo'; .* label, image"):
            ImageTable(table, "mine", column="photo")


class TestHubDataset:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("owner/name", ("owner/name", "train")),
            ("hub:owner/name:test", ("owner/name", "test")),
            ("owner/name:train[:10%]", ("owner/name", "train[:10%]")),
        ],
    )
    def test_parse__splits_off_the_split(self, text: str, expected: tuple[str, str]) -> None:
        assert HubDataset.parse(text) == expected

    @pytest.mark.parametrize("text", ["", "hub:", "hub::test", "owner/name:"])
    def test_parse__refuses_empty_parts(self, text: str) -> None:
        with pytest.raises(ValueError, match="hub:OWNER/NAME:SPLIT"):
            HubDataset.parse(text)

    def test_load__asks_datasets(self, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[Any] = []

        def load_dataset(*names: str, **options: Any) -> Any:
            calls.append((*names, options))
            return table

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        assert str(ImageTable.from_hub("owner/name:test")[1]) == "owner/name:test, row 1"
        assert calls == [("owner/name", {"split": "test", "streaming": False})]

    def test_load__without_a_network_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: object, **kwargs: object) -> None:
            raise ConnectionError("Couldn't reach 'owner/name' on the Hub")

        monkeypatch.setattr(datasets, "load_dataset", fails)
        with pytest.raises(ConnectionError, match=r"owner/name.*: check the name and the network"):
            ImageTable.from_hub("owner/name")

    def test_load__without_the_library_says_how_to_install_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r"stellar_hub\[datasets\]"):
            ImageTable.from_hub("owner/name")


def test_table_without_rows__is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="no images in mine"):
        ImageTable(table.select([]), "mine")


def test_missing_parquet__is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        ImageTable.from_parquet([tmp_path / "gone.parquet"])
