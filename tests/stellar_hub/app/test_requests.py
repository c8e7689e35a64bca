"""What the browser sends."""

from pathlib import Path
from typing import Any

import pytest

from stellar_hub.app.requests import key_of, numbers_of, uploaded_path


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of uploads."""
    pytest.importorskip("gradio")
    folder = tmp_path / "uploads"
    (folder / "ab").mkdir(parents=True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def test_numbers_of__returns_them_in_order() -> None:
    assert numbers_of({"row": 1, "column": 2.5, "more": "x"}, "row", "column") == [1.0, 2.5]


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), float("inf"), [1], {}])
def test_numbers_of__refuses_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="row must be a number"):
        numbers_of({"row": value}, "row")


@pytest.mark.parametrize("data", [None, [], "row", 3])
def test_numbers_of__refuses_data_that_is_no_object(data: Any) -> None:
    with pytest.raises(ValueError, match="row must be a number"):
        numbers_of(data, "row")


@pytest.mark.parametrize("key", [None, 3, "x" * 1000])
def test_key_of__refuses_what_is_no_short_text(key: Any) -> None:
    with pytest.raises(ValueError, match="short text"):
        key_of({"key": key})


def test_uploaded_path__is_a_file_in_the_folder(uploads: Path) -> None:
    file = uploads / "ab" / "photo.jpg"
    file.write_bytes(b"x")
    assert uploaded_path({"name": "photo.jpg", "file": str(file)}) == file.resolve()


@pytest.mark.parametrize("path", ["/etc/hostname", "../../secret", "ab/../../x", "", "\0", 7, None, "http://a/b"])
def test_uploaded_path__leads_nowhere_else(uploads: Path, path: Any) -> None:
    with pytest.raises(ValueError, match=r"photo.jpg (is not there|could not)"):
        uploaded_path({"name": "photo.jpg", "file": path})


def test_uploaded_path__follows_no_link_out(uploads: Path) -> None:
    (uploads / "ab" / "link.jpg").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="is not there"):
        uploaded_path({"file": str(uploads / "ab" / "link.jpg")})


def test_uploaded_path__says_that_a_file_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "100")
    with pytest.raises(ValueError, match="has 1,000 bytes"):
        uploaded_path({"name": "photo.jpg", "size": 1000})
