import sys
from pathlib import Path
from typing import Any

import pytest

from stellar_hub.data.sources import ImageTable, read_image
from stellar_hub.data.sources.table import is_saved_table
from tests.stellar_hub.data.sources.conftest import png

datasets = pytest.importorskip("datasets", reason="needs the extra: pip install '.[datasets]'")


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
    with pytest.raises(ValueError, match=r"row 3 cannot be read as an image"):
        read_image(source[3])


def test_saved_table__is_read_from_disk(table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "saved")
    assert is_saved_table(tmp_path / "saved")
    check(ImageTable.from_disk(tmp_path / "saved"), str(tmp_path / "saved"))


def test_splits__are_named_one_by_one(table: Any, tmp_path: Path) -> None:
    datasets.DatasetDict({"test": table, "train": table}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"holds the splits test, train: name one, such as .*saved/test$"):
        ImageTable.from_disk(tmp_path / "saved")
    assert len(ImageTable.from_disk(tmp_path / "saved" / "train")) == 4


def test_parquet__is_read_file_by_file(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for part in (0, 1):
        table.select([2 * part, 2 * part + 1]).to_parquet(tmp_path / f"part-{part}.parquet")
    files = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    check(ImageTable.from_parquet(files), f"{files[0]} and 1 more")


def test_fingerprint__is_of_the_images_alone(table: Any) -> None:
    found = ImageTable(table, "a").fingerprint()
    assert ImageTable(table.remove_columns(["label"]), "b").fingerprint() == found
    assert ImageTable(table.select([1, 0, 2, 3]), "a").fingerprint() != found
    assert ImageTable(table.select(range(3)), "a").fingerprint() != found


class TestErrors:
    def test_no_column_of_images(self, table: Any) -> None:
        with pytest.raises(ValueError, match="mine has no column of images; its columns: label"):
            ImageTable(table.remove_columns(["image"]), "mine")

    def test_several_columns_of_images(self, table: Any) -> None:
        twice = table.add_column("other", table["image"], feature=datasets.Image(decode=False))
        with pytest.raises(ValueError, match=r"several columns of images \(image, other\)"):
            ImageTable(twice, "mine")
        assert ImageTable(twice, "mine", column="other").column == "other"

    def test_unknown_column(self, table: Any) -> None:
        with pytest.raises(ValueError, match="mine has no column 'photo'; it has label, image"):
            ImageTable(table, "mine", column="photo")

    def test_no_rows(self, table: Any) -> None:
        with pytest.raises(ValueError, match="no images in mine: it has no rows"):
            ImageTable(table.select([]), "mine")

    def test_missing_parquet(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such parquet file: .*gone\.parquet"):
            ImageTable.from_parquet([tmp_path / "gone.parquet"])

    @pytest.mark.parametrize("index", [-1, 4])
    def test_index_outside(self, table: Any, index: int) -> None:
        with pytest.raises(IndexError, match=f"image {index} of 4"):
            ImageTable(table, "mine")[index]

    def test_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[datasets\]'"):
            ImageTable.from_hub("owner/name")
