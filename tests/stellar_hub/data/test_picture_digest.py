"""Hashes of pictures."""

import hashlib
from pathlib import Path

import pytest

from stellar_hub.data.picture_digest import picture_digest
from stellar_hub.data.sources import EncodedPicture


def test_digest__is_of_the_bytes_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    expected = hashlib.sha256(b"picture").hexdigest()
    assert picture_digest(tmp_path / "a.png") == expected
    assert picture_digest(EncodedPicture("b", b"picture")) == expected
    with pytest.raises(FileNotFoundError):
        picture_digest(tmp_path / "b.png")
