"""Where an export writes files."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases.places import check_outside, is_written, replaced_file

CONTENT: dict[str, Any] = {"library": "stellar_hub 1", "content": "abc", "vectors": {"S": [4, 12]}}


def write(path: Path, content: Any = CONTENT) -> Path:
    """A parquet file whose metadata have this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {} if content is None else {"stellar_hub": json.dumps(content)}
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}).replace_schema_metadata(metadata), path)
    return path


def test_same_content__is_written_already(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert not is_written(path, CONTENT, overwrite=False)
    assert is_written(write(path), CONTENT, overwrite=False)
    assert is_written(write(path), CONTENT | {"library": "stellar_hub 2"}, overwrite=False)
    assert not is_written(path, CONTENT, overwrite=True)


def test_folder_of_the_same_content__is_written_already(tmp_path: Path) -> None:
    write(tmp_path / "out" / "part-00000.parquet")
    assert is_written(tmp_path / "out", CONTENT, overwrite=False)
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "S.npy").write_bytes(b"")
    write(tmp_path / "arrays" / "rows.parquet")
    assert is_written(tmp_path / "arrays", CONTENT, overwrite=False)


@pytest.mark.parametrize("content", [CONTENT | {"content": "other"}, None, 7])
def test_file_of_something_else__is_replaced_only_if_told(tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "a.parquet", content)
    with pytest.raises(FileExistsError, match=r"a\.parquet exists"):
        is_written(path, CONTENT, overwrite=False)
    assert not is_written(path, CONTENT, overwrite=True)


def test_folder_of_another_export__is_replaced_only_if_told(tmp_path: Path) -> None:
    write(tmp_path / "out" / "part-00000.parquet", CONTENT | {"content": "other"})
    with pytest.raises(FileExistsError, match="exists"):
        is_written(tmp_path / "out", CONTENT, overwrite=False)
    assert not is_written(tmp_path / "out", CONTENT, overwrite=True)


def test_empty_folder__is_written(tmp_path: Path) -> None:
    assert not is_written(tmp_path, CONTENT, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("own", "other"), [("part-00000.parquet", "z.parquet"), ("rows.parquet", "L.npy"), ("rows.parquet", "notes.txt")]
)
def test_folder_with_files_of_a_user__is_never_replaced(tmp_path: Path, own: str, other: str, overwrite: bool) -> None:
    write(tmp_path / "out" / own)
    (tmp_path / "out" / other).write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        is_written(tmp_path / "out", CONTENT, overwrite)


def test_damaged_file__is_no_export(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FileExistsError):
        is_written(path, CONTENT, overwrite=False)


def test_replaced_file__is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a"
    with replaced_file(path) as file:
        file.write(b"old")

    def fail() -> None:
        with replaced_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [each.name for each in path.parent.iterdir()] == ["a"]


def test_place_in_the_store__is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.path)
    for place in (store.path, store.path / "a.parquet", tmp_path / "link" / "a"):
        with pytest.raises(ValueError, match="outside"):
            check_outside(place, store)
    check_outside(tmp_path / "store.parquet", store)
