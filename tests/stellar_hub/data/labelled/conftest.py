"""Small images in class folders."""

from pathlib import Path

import pytest
from PIL import Image


def paint(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 0, 255 - shade)).save(path)
    return path


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two images of cats, one of them further down, and one of a dog."""
    paint(tmp_path / "animals" / "dogs" / "1.png", 10)
    paint(tmp_path / "animals" / "cats" / "2.png", 20)
    paint(tmp_path / "animals" / "cats" / "old" / "3.jpg", 30)
    (tmp_path / "animals" / ".hidden").mkdir()
    return tmp_path / "animals"
