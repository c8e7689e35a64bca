"""Stores with segments: what is read of them, and what is refused."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.limits import variable_of
from stellar_hub.retrieval import build_index, find_duplicates, search_images
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.parts import find_segments, names_of_part, read_manifests, segment_path
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store

from .test_append import FIRST, OPTIONS, SECOND, THIRD, draw

ALL = [*FIRST, *SECOND, *THIRD]


@pytest.fixture(scope="session")
def shared_grown(tmp_path_factory: pytest.TempPathFactory, shared_pixel_model: StellarModel) -> Path:
    """A store of 6 rows with segments of 5 and 1 rows, in a folder with its images; not to be changed."""
    place = tmp_path_factory.mktemp("grown")
    for names in (FIRST, SECOND, THIRD):
        grow(place, names, shared_pixel_model)
    return place / "store"


def grow(
    place: Path, names: list[str], model: StellarModel, options: ExtractionOptions = OPTIONS, folder: str = "photos"
) -> None:
    """Draws images and appends them to the store beside them."""
    photos = draw(place / folder, names)
    extract_to_store(model, [photos], place / "store", options, append=True, num_workers=0, show_progress=False)


@pytest.fixture
def grown(shared_grown: Path, tmp_path: Path) -> Path:
    """A copy of that store, which may be damaged; its images stay where they are."""
    return shutil.copytree(shared_grown, tmp_path / "store")


def test_rows__go_on_over_segments(shared_grown: Path) -> None:
    store = FeatureStore(shared_grown)
    whole = store["pooled"]
    assert (len(store), store.num_shards, len(store.segments)) == (12, 5, 2)
    assert [store.rows_of_shard(number) for number in range(5)] == [
        range(0, 4),
        range(4, 6),
        range(6, 10),
        range(10, 11),
        range(11, 12),
    ]
    torch.testing.assert_close(store.read("pooled", [11, 0, 5, 6, 10]), whole[[11, 0, 5, 6, 10]], equal_nan=True)
    torch.testing.assert_close(store.read("pooled", range(3, 12)), whole[3:], equal_nan=True)
    torch.testing.assert_close(store.read("pooled", store.ok), whole[store.ok])
    assert [batch.row_ids.tolist() for batch in store.batches(3, rows=range(5, 12))] == [[5, 6, 7], [8, 9, 10], [11]]
    assert torch.cat([batch.row_ids for batch in store.batches(3)]).tolist() == list(range(12))
    assert store[-1].record.image.endswith("a/00.png")
    for number in (-1, 5):
        with pytest.raises(IndexError, match=f"shard {number} of 5"):
            store.rows_of_shard(number)


def test_facts__are_those_of_all_segments(shared_grown: Path) -> None:
    store = FeatureStore(shared_grown)
    files = sum(path.stat().st_size for path in shared_grown.rglob("*.safetensors"))
    assert store.num_bytes == files
    assert store.counts == {"ok": 11, "error": 1}
    assert "12 rows, 6 of them in 2 segments, 1 with an error" in repr(store)
    base = FeatureStore(shared_grown)
    base._open(shared_grown, True, 0)
    assert (len(base), base.counts) == (6, {"ok": 6, "error": 0})
    assert base.digest != store.digest


def test_labels__are_those_of_all_segments(shared_grown: Path) -> None:
    store = FeatureStore(shared_grown)
    assert store.classes == ("a", "b", "c")
    labels = [store.classes.index(name[0]) for name in ALL]
    assert store["label"].tolist() == store.to_numpy("label").tolist() == labels
    dataset = store.to_torch()
    assert dataset.targets == [label for label, ok in zip(labels, store.ok.tolist(), strict=True) if ok]
    assert dataset[-1]["row"] == 11


def test_searches__find_rows_of_all_segments(shared_grown: Path) -> None:
    store = FeatureStore(shared_grown)
    for row in (0, 7, 11):
        assert search_images(store, store[row], k=1).rows.tolist() == [[row]]
    assert find_duplicates(store, 1.0) == []
    index = build_index(store, factory="Flat")
    assert index.ntotal == 11
    assert index.search(store.read("pooled", [11]).numpy(), 1)[1].tolist() == [[11]]


def test_decode__shows_rows_of_segments(shared_grown: Path, shared_pixel_model: StellarModel) -> None:
    store = FeatureStore(shared_grown)
    images = store.decode([0, 11], shared_pixel_model)
    assert [image.size for image in images] == [(32, 32)] * 2
    assert images[1].tobytes() == store.decode(11, shared_pixel_model).tobytes()


def test_open_store__keeps_its_rows(grown: Path, shared_pixel_model: StellarModel) -> None:
    segment_path(grown, 2).rename(grown / "later")
    store = FeatureStore(grown)
    (grown / "later").rename(segment_path(grown, 2))
    again = pickle.loads(pickle.dumps(store))  # as a data worker does
    assert len(store) == len(again) == 11
    assert again.classes == store.classes == ("a", "b", "c")
    assert len(FeatureStore(grown)) == 12


def test_source__is_in_the_order_of_rows(shared_grown: Path, tmp_path: Path) -> None:
    store = FeatureStore(shared_grown)
    source = store.source(trust_names=True)
    assert [str(source[row])[-len(name) :] for row, name in enumerate(ALL)] == ALL
    shutil.copytree(shared_grown.parent / "photos", tmp_path / "moved")  # with the times of the files
    assert len(store.source([tmp_path / "moved"])) == 12
    (tmp_path / "moved" / "a" / "0.png").touch()
    with pytest.raises(ValueError, match=r"rows 6 to 9 .*verify=False"):
        store.source([tmp_path / "moved"])
    assert store.verify(open_sources([tmp_path / "moved"])) != []  # other names
    assert len(store.source([tmp_path / "moved"], verify=False)) == 12
    (tmp_path / "moved" / "a" / "00.png").unlink()
    with pytest.raises(ValueError, match=r"11.*12 rows.*a/00\.png is not among them"):
        store.source([tmp_path / "moved"], verify=False)


def test_names__come_from_shards_where_the_index_is_damaged(grown: Path) -> None:
    places = read_manifests(grown)
    expected = [names_of_part(*place) for place in places]
    for folder, _ in places:
        (folder / "index.parquet").write_bytes(b"cut")
    assert [names_of_part(*place) for place in places] == expected
    (grown / "segments/000001/shards/000001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"row 10 .*names .* are lost"):
        names_of_part(*places[1])


def test_segment__is_no_store_of_its_own(shared_grown: Path) -> None:
    with pytest.raises(ValueError, match="is a segment of a store: open"):
        FeatureStore(segment_path(shared_grown, 1))


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", ".pending"])
def test_hidden_entries__are_passed_over(grown: Path, name: str) -> None:
    (grown / "segments" / name).mkdir()
    assert len(FeatureStore(grown)) == 12


def entry(grown: Path, kind: str) -> None:
    """Puts something else among the segments."""
    segments = grown / "segments"
    if kind == "link":
        (segments / "000003").symlink_to(segments / "000002")
    elif kind == "link of all":
        segments.rename(grown.parent / "elsewhere")
        segments.symlink_to(grown.parent / "elsewhere")
    elif kind == "file":
        (segments / "000003").write_text("")
    elif kind == "file of all":
        shutil.rmtree(segments)
        segments.write_text("")
    elif kind == "gap":
        (segments / "000001").rename(segments / "000003")
    elif kind == "zero":
        (segments / "000000").mkdir()
    else:
        (segments / kind).mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("link", "000003 is not a segment"),
        ("link of all", "segments must be a folder"),
        ("file", "000003 is not a segment"),
        ("file of all", "segments must be a folder"),
        ("gap", "000001 is missing"),
        ("zero", "000001 is missing|000003 is missing"),
        ("3", "3 is not a segment"),
        ("notes", "notes is not a segment"),
        ("\u0663" * 6, "is not a segment"),  # digits, and not ours
        ("000003", r"000003 is damaged: it has no manifest\.json.*--append"),
    ],
)
def test_other_things_among_segments__are_refused_by_name(grown: Path, kind: str, message: str) -> None:
    entry(grown, kind)
    with pytest.raises(ValueError, match=message):
        FeatureStore(grown)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_open_store__holds_no_index_open(shared_grown: Path) -> None:
    store = FeatureStore(shared_grown)
    assert len(store.records()) == 12
    assert len(store.ok) == 12
    opened = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    assert not [file for file in opened if file.startswith(str(shared_grown.resolve())) and file.endswith(".parquet")]


def test_many_segments__are_refused(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("store_segments"), "1")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_STORE_SEGMENTS"):
        find_segments(grown)


def edit(path: Path, **values: object) -> None:
    """Changes values of a manifest."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"segment": None},
        {"segment": {"number": 2, "first_row": 6, "after": "x"}},
        {"segment": {"number": 1, "first_row": 6, "after": "x"}},
        {"segment": {"number": True, "first_row": 6, "after": "x"}},
        {"segment": {"number": 1, "first_row": 6}},
        {"counts": {"ok": 9, "error": 9}},
        {"shard_rows": 2**53},
        {"source": {"fingerprint": "f", "names": [], "pictures": 2**54}},
    ],
)
def test_edited_manifest_of_a_segment__is_refused_by_name(grown: Path, values: dict[str, object]) -> None:
    edit(segment_path(grown, 1) / "manifest.json", **values)
    with pytest.raises(ValueError, match=r"segments.000001|segments.000002"):
        FeatureStore(grown)


def test_segment_with_more_rows_than_there_can_be__is_refused(grown: Path) -> None:
    path = segment_path(grown, 2) / "manifest.json"
    values = json.loads(path.read_text())
    name = next(name for name in values["source"] if name not in ("fingerprint", "names"))
    edit(path, source=values["source"] | {name: 2**53}, counts=None)
    with pytest.raises(ValueError, match=r"000002 has more rows than a store can have"):
        FeatureStore(grown)


def test_segment_that_is_not_complete__is_said(grown: Path) -> None:
    edit(segment_path(grown, 1) / "manifest.json", counts=None)  # as while it is repaired
    with pytest.raises(ValueError, match="000001 is not complete"):
        FeatureStore(grown)


def test_segment_of_another_store__is_refused(grown: Path, tmp_path: Path, shared_pixel_model: StellarModel) -> None:
    other = tmp_path / "other"
    for names in (FIRST, ["x/1.png", *SECOND[1:]]):
        grow(other, names, shared_pixel_model)
    shutil.rmtree(segment_path(grown, 1))
    shutil.copytree(segment_path(other / "store", 1), segment_path(grown, 1))
    with pytest.raises(ValueError, match="000002 does not follow"):
        FeatureStore(grown)


def test_segment_of_another_dtype__is_refused(grown: Path) -> None:
    path = segment_path(grown, 2) / "manifest.json"
    values = json.loads(path.read_text())
    edit(path, features=values["features"] | {"dtype": "float16"})
    with pytest.raises(ValueError, match=r"000002 does not fit.*features\.dtype: float32"):
        FeatureStore(grown)


def test_manifest__without_a_segment_is_that_of_earlier_releases(shared_grown: Path) -> None:
    base = Manifest.read(shared_grown)
    assert "segment" not in json.loads((shared_grown / "manifest.json").read_text())
    assert (base.segment, base.rows) == (None, range(6))
    assert Manifest.read(segment_path(shared_grown, 1)).rows == range(6, 11)
