"""Features on disk."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from stellar_hub.evaluation.features.cache import FeatureCache


def test_rows__are_those_of_their_key(tmp_path: Path) -> None:
    rows = torch.rand(3, 2)
    cache = FeatureCache(tmp_path / "cache", {"weights": "a", "pictures": "b"})
    assert cache.read("cls", 0, 3) is None
    cache.write("cls", 0, 3, rows)
    again = FeatureCache(tmp_path / "cache", {"pictures": "b", "weights": "a"})
    assert torch.equal(again.read("cls", 0, 3), rows)  # type: ignore[arg-type]
    assert again.read("cls", 3, 6) is None
    assert again.read("patches", 0, 3) is None
    assert FeatureCache(tmp_path / "cache", {"weights": "c", "pictures": "b"}).read("cls", 0, 3) is None
    assert json.loads((cache.folder / "key.json").read_text()) == {"weights": "a", "pictures": "b"}


def test_damaged_files__are_as_if_they_were_not_there(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, {})
    cache.write("cls", 0, 3, torch.rand(3, 2))
    (file,) = cache.folder.glob("cls/*")
    whole = file.read_bytes()
    for damaged in (b"", whole[:20], whole[:-5]):
        file.write_bytes(damaged)
        assert cache.read("cls", 0, 3) is None
    cache.write("cls", 0, 3, torch.rand(2, 2))  # rows of another number
    assert cache.read("cls", 0, 3) is None


def test_full_disk__leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, {})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write("cls", 0, 3, torch.rand(3, 2))
    assert list(cache.folder.glob("cls/*")) == []
    assert list(cache.folder.glob("cls/.*")) == []


def test_file_in_the_place_of_the_folder__is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        FeatureCache(tmp_path / "cache", {})
