import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.features.identity import with_decoder
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling.atomic_write import unfinished_path
from stellar_hub.modeling.limits import variable_of
from stellar_hub.old_names import old_names
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.files import write_shard
from stellar_hub.store.manifest import (
    Manifest,
    differences,
    incompatibilities,
    remove_unfinished,
    shard_path,
    spell_rows,
    unknown_files,
)


def test_manifest__comes_back_as_it_was(shared_store: FeatureStore, tmp_path: Path) -> None:
    shared_store.manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == shared_store.manifest
    assert Manifest.read(tmp_path).plan == shared_store.manifest.plan


def test_write__leaves_what_another_process_is_writing(shared_store: FeatureStore, tmp_path: Path) -> None:
    others = unfinished_path(tmp_path / "manifest.json")
    others.write_bytes(b"not yet whole")
    shared_store.manifest.write(tmp_path)
    assert others.exists()


def test_plan__does_not_depend_on_counts_or_place(shared_store: FeatureStore) -> None:
    manifest = shared_store.manifest
    moved = dataclasses.replace(manifest, counts=None, source=dict(manifest.source) | {"names": ["elsewhere"]})
    assert moved.plan == manifest.plan
    assert differences(manifest, moved) == []
    other = dataclasses.replace(manifest, shard_rows=9)
    assert other.plan != manifest.plan
    assert differences(manifest, other) == ["shard_rows: 8 in the store, 9 now"]


def test_decoder__is_pillow_unless_the_manifest_says_otherwise(shared_store: FeatureStore) -> None:
    manifest = shared_store.manifest
    assert manifest.decoder == "pillow"
    assert "decoder" not in manifest.preprocessing["settings"]
    other = dataclasses.replace(manifest, preprocessing=with_decoder(manifest.preprocessing, "nvjpeg"))
    assert other.decoder == "nvjpeg"
    assert other.preprocessing["id"] != manifest.preprocessing["id"]
    assert other.fit_id == manifest.fit_id == manifest.preprocessing["id"]
    assert differences(manifest, other) == ["decoder: pillow in the store, nvjpeg now"]
    assert incompatibilities(manifest, other) == ["decoder: pillow and nvjpeg"]
    again = dataclasses.replace(manifest, preprocessing=with_decoder(other.preprocessing, "pillow"))
    assert again.preprocessing["settings"] == manifest.preprocessing["settings"]


def test_manifest__has_no_time_in_it(shared_store: FeatureStore) -> None:
    keys = json.dumps(json.loads((shared_store.path / "manifest.json").read_text()))
    assert not any(word in keys for word in ("time", "date", "seconds", "host"))


def test_unknown_format__is_refused(shared_store: FeatureStore, tmp_path: Path) -> None:
    dataclasses.replace(shared_store.manifest, format=2).write(tmp_path)
    with pytest.raises(ValueError, match=r"format 2.*format 1"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shard_rows", 0),
        ("shard_rows", 10**30),
        ("shard_rows", True),
        ("shard_rows", 1.5),
        ("counts", {"ok": 1}),
        ("counts", {"ok": 24, "error": -1}),
        ("counts", {"ok": 3, "error": 0}),
        ("library", 3),
        ("format", 0),
        ("format", None),
        ("model", None),
        ("model.name", ["a"]),
        ("model.dtype", "os"),
        ("model.revision", 3),
        ("preprocessing.settings", []),
        ("preprocessing.settings", {"decoder": 3}),
        ("features.shapes", {}),
        ("features.shapes", {"S": [4, -1]}),
        ("features.shapes", {"S": [float("nan")]}),
        ("features.dtype", "object"),
        ("features.batch_size", 0),
        ("features.grid_size", [4]),
        ("source.fingerprint", None),
        ("source.names", "/etc"),
        ("source.names", [1]),
        ("more\x1b", 1),
    ],
)
def test_fields__of_a_wrong_type_or_range_are_named(
    shared_store: FeatureStore, tmp_path: Path, field: str, value: object
) -> None:
    values = json.loads((shared_store.path / "manifest.json").read_text())
    section, _, key = field.partition(".")
    place = values[section] if key else values
    place[key or section] = value
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"manifest\.json") as caught:
        Manifest.read(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"library": NaN}', "[" * 100_000, '{"format": ' + "9" * 9999 + "}"])
def test_file_that_is_no_manifest__is_said_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged") as caught:
        Manifest.read(tmp_path)
    assert str(caught.value).isprintable()


def test_huge_manifest__is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("config_bytes"), "100")
    (tmp_path / "manifest.json").write_text(" " * 101)
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_CONFIG_BYTES"):
        Manifest.read(tmp_path)


def test_names__are_shown_without_control_characters(shared_store: FeatureStore) -> None:
    model = dict(shared_store.manifest.model) | {"name": "a\x1b[2J\nb", "weights_sha256": "other"}
    other = dataclasses.replace(shared_store.manifest, model=model)
    for line in (*differences(shared_store.manifest, other), *incompatibilities(shared_store.manifest, other)):
        assert line.isprintable()
    store = FeatureStore(shared_store.path)
    store.manifest = other
    assert repr(store).isprintable()
    with pytest.raises(ValueError, match="load_model") as caught:
        store.decode(0)
    assert str(caught.value).isprintable()


def test_disk__has_the_names_of_format_1(shared_store: FeatureStore) -> None:
    source = json.loads((shared_store.path / "manifest.json").read_text())["source"]
    assert set(source) == {"fingerprint", "names", old_names("store_format_1")["num_images"]}
    assert shared_store.manifest.source["num_images"] == shared_store.manifest.num_rows == 23


def test_bytes__are_those_of_the_first_release(tmp_path: Path) -> None:
    """Stores that were written before open, resume and verify: no byte may change."""
    source = {"fingerprint": "f", "names": [], "num_images": 3}
    manifest = Manifest("l", {"name": "m"}, {"id": "p"}, {"shapes": {"S": [2]}}, source, 4)
    records = [
        ImageRecord(0, "a.png", (3, 4), (0.5, 0.25, 3.0, 4.0)),
        ImageRecord(1, "b.png", error="cut short"),
        ImageRecord(2, "c.png", (5, 6), (0.0, 0.0, 5.0, 6.0)),
    ]
    manifest.with_counts(2, 1).write(tmp_path)
    tensors = {"S": torch.arange(6.0).view(3, 2).half()}
    write_shard(tmp_path / "shard", range(3), tensors, records, manifest.plan)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert manifest.plan == "22a350b3d7d73a0c23cdfad43eca0ced18e9682264cd62c6c54559e8d41f48b1"
    assert digests == {
        "manifest.json": "efc3ec2949638fdda9650716c1a57303a6991568557f551a10ddae0bc4bcd532",
        "shard": "20333fbad78e1c99056e37d4f73704f82fe5f8d7824f9d813543862aae412d68",
    }


@given(st.integers(1, 10_000), st.integers(1, 999))
def test_shards__hold_each_row_once(num_rows: int, shard_rows: int) -> None:
    manifest = Manifest("", {}, {}, {}, {"num_images": num_rows}, shard_rows)
    shards = [manifest.rows_of_shard(number) for number in range(manifest.num_shards)]
    assert [row for rows in shards for row in rows] == list(range(num_rows))
    assert all(0 < len(rows) <= shard_rows for rows in shards)


def test_shard__has_a_name_that_sorts() -> None:
    assert shard_path(Path("store"), 12).as_posix() == "store/shards/000012.safetensors"


@pytest.mark.parametrize(("rows", "spelled"), [(range(7, 8), "row 7"), (range(8, 16), "rows 8 to 15")])
def test_rows__are_spelled(rows: range, spelled: str) -> None:
    assert spell_rows(rows) == spelled


def test_unfinished_files__are_those_of_one_name(tmp_path: Path) -> None:
    for name in (".index.parquet.0a.part", ".manifest.json.0b.part", "mine.txt", "index.parquet"):
        (tmp_path / name).write_text("")
    assert unknown_files(tmp_path) == ["mine.txt"]
    remove_unfinished(tmp_path / "index.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".manifest.json.0b.part", "index.parquet", "mine.txt"]
