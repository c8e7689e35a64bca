"""Images whose names are odd, through to the store."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from stellar_hub.data.sources import open_sources
from stellar_hub.features.rows import file_name
from stellar_hub.store.feature_store import FeatureStore

Extract = Callable[..., Path]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), value, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_names_that_are_no_utf8__are_kept_readable(extract: Extract, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    path = os.path.join(os.fsencode(folder), b"caf\xe9.png")
    with open(path, "wb") as file:
        file.write(png(9))
    with open(os.path.join(os.fsencode(folder), b"caf\xea.png"), "wb") as file:
        file.write(b"no image")
    store = FeatureStore(extract(source=open_sources([folder])))
    assert store[0].record.image == f"{folder}/caf\\xe9.png"
    assert os.fsencode(file_name(store[0].record.image)) == path
    assert store[1].record.error is not None
    assert r"caf\xea.png cannot be read as an image" in store[1].record.error


def test_repeated_names__are_rows_of_their_own(extract: Extract, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "twice.tar", [("1.png", png(0)), ("1.png", png(250))])
    store = FeatureStore(extract(source=open_sources([tar])))
    assert [row.record.image for row in store] == ["twice.tar/1.png"] * 2
    assert not store[0].features["pooled"].equal(store[1].features["pooled"])


def test_names_that_point_outside_a_tar__are_just_names(extract: Extract, tmp_path: Path) -> None:
    members = [("../outside.png", png(0)), ("/outside.png", png(1)), ("a/../../outside.png", png(2))]
    before = set(tmp_path.rglob("*"))
    tar = write_tar(tmp_path / "odd.tar", members)
    folder = extract(source=open_sources([tar]))
    assert [row.record.image for row in FeatureStore(folder)] == [f"odd.tar/{name}" for name, _ in members]
    added = set(tmp_path.rglob("*")) - before - {tar, folder} - set(folder.rglob("*"))
    assert added == set()


def test_tar_cut_short__gives_what_is_before_the_cut(extract: Extract, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "cut.tar", [(f"{index}.png", png(index)) for index in range(4)])
    tar.write_bytes(tar.read_bytes()[:2500])
    source = open_sources([tar])
    assert source.damaged
    assert len(FeatureStore(extract(source=source))) == len(source) < 4
