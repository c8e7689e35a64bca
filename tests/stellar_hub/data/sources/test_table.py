import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.data.sources import ImageTable, read_image
from stellar_hub.data.sources.table import HubDataset, is_saved_table
from tests.stellar_hub.data.sources.conftest import png

datasets = pytest.importorskip("datasets", reason="needs the extra: pip install '.[datasets]'")


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
    check(ImageTable.from_parquet(files), f"{files[0]} and 1 more")


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
