"""What a run finds in the folder of a store: images that have changed, rows that failed, and what does not belong."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import open_sources
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import StellarModel
from stellar_hub.store import extract_shards as shard_work
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.files import header_of, open_shard, write_shard
from stellar_hub.store.fill import ExtractionReport
from stellar_hub.store.manifest import Manifest, shard_path
from stellar_hub.store.resume import check_apart, is_stale, plan_work, stamps_sha256
from stellar_hub.store.to_store import extract_to_store

from .conftest import OPTIONS, files_of

Extract = Callable[..., Path]
COUNT = 10  # images, in shards of 8 rows and batches of 3


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten images of equal size in bytes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(COUNT):
        Image.new("RGB", (40, 40), (20 * index, 0, 0)).save(folder / f"{index}.bmp")
    return folder


@pytest.fixture
def run(pixel_model: StellarModel, images: Path, tmp_path: Path) -> Callable[..., ExtractionReport]:
    """Extracts the images into "store", or another folder."""

    def extract(name: str = "store", **options: object) -> ExtractionReport:
        given = {
            "source": open_sources([images]) if images.is_dir() else None,
            "source_names": [str(images)],
            "num_workers": 0,
            "show_progress": False,
        } | options
        return extract_to_store(pixel_model, given.pop("source"), tmp_path / name, OPTIONS, **given)  # type: ignore[arg-type]

    return extract


def exchange(path: Path) -> None:
    """Another image of the same size in bytes, written later."""
    Image.new("RGB", (40, 40), (0, 250, 0)).save(path)
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


Run = Callable[..., ExtractionReport]


def test_exchanged_image__is_extracted_again(run: Run, images: Path, tmp_path: Path) -> None:
    run()
    exchange(images / "9.bmp")
    again = run()
    assert (again.rows, again.num_stale) == (2, 1)  # the second shard alone
    run("fresh")
    assert files_of(tmp_path / "store") == files_of(tmp_path / "fresh")


def test_exchanged_image__is_noticed_by_verify_and_source(run: Run, images: Path, tmp_path: Path) -> None:
    run()
    store = FeatureStore(tmp_path / "store")
    assert store.verify() == store.verify(open_sources([images])) == []
    exchange(images / "3.bmp")
    for lines in (store.verify(), store.verify(open_sources([images]))):
        assert [line.split(" of ")[0] for line in lines] == ["rows 0 to 7"]
    with pytest.raises(ValueError, match=r"rows 0 to 7 .*changed.*verify=False"):
        store.source(trust_names=True)
    assert len(store.source(trust_names=True, verify=False)) == COUNT


def test_images_that_are_all_away__cost_no_features(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"photos/{index}.bmp\n" for index in range(COUNT)))

    def extract() -> ExtractionReport:
        return run(source=open_sources([tmp_path / "list.txt"]), source_names=[])

    extract()
    images.rename(tmp_path / "away")
    assert (extract().rows, extract().num_stale) == (0, 0)
    assert FeatureStore(tmp_path / "store").ok.all()
    (tmp_path / "away").rename(images)
    (images / "1.bmp").unlink()
    assert extract().num_stale == 1


def test_unchanged_images__are_not_extracted_again(run: Run, tmp_path: Path) -> None:
    run()
    expected = files_of(tmp_path / "store")
    again = run()
    assert (again.rows, again.num_stale, again.num_retried) == (0, 0, 0)
    assert files_of(tmp_path / "store") == expected


def test_shard_without_stamps__stays_valid(run: Run, images: Path, tmp_path: Path) -> None:
    run()
    store, path = FeatureStore(tmp_path / "store"), shard_path(tmp_path / "store", 1)
    rows = store.manifest.rows_of_shard(1)
    tensors = {name: store.read(name, rows).clone() for name in store.outputs}
    write_shard(path, rows, tensors, store.records(rows), store.manifest.plan)  # as earlier releases did
    exchange(images / "9.bmp")
    assert run().rows == 0
    assert FeatureStore(tmp_path / "store").verify() == []


def test_stamps__change_with_the_file_and_are_unknown_without_a_source_of_them(images: Path) -> None:
    source = open_sources([images])
    before = stamps_sha256(source, range(4))
    assert before == stamps_sha256(source, range(4)) != stamps_sha256(source, range(3))
    exchange(images / "2.bmp")
    assert stamps_sha256(source, range(4)) != before
    assert stamps_sha256(["a.png"], range(1)) is None


def test_old_header__is_never_stale(run: Run, tmp_path: Path) -> None:
    run()
    plan = Manifest.read(tmp_path / "store")
    file = open_shard(shard_path(tmp_path / "store", 0), plan.rows_of_shard(0))
    assert header_of(file).stamps is not None
    assert is_stale(file, "other")
    assert not is_stale(file, None)


def damage(path: Path) -> Callable[[], None]:
    """Makes an image unreadable, with its size and its times; returns what heals it."""
    data, times = path.read_bytes(), path.stat()
    ns = (times.st_atime_ns, times.st_mtime_ns)
    path.write_bytes(b"x" * len(data))
    os.utime(path, ns=ns)

    def heal() -> None:
        path.write_bytes(data)
        os.utime(path, ns=ns)

    return heal


def test_failed_rows__are_tried_again_where_asked(run: Run, images: Path, tmp_path: Path) -> None:
    expected = run("undisturbed") and files_of(tmp_path / "undisturbed")
    heal = damage(images / "4.bmp")
    assert run().errors == 1
    heal()
    assert run().rows == 0
    again = run(retry_errors=True)
    assert (again.rows, again.num_retried, again.num_recovered) == (3, 1, 1)  # the batch of row 4 alone
    assert files_of(tmp_path / "store") == expected


def test_rows_with_features__keep_them_when_they_fail_now(run: Run, images: Path, tmp_path: Path) -> None:
    heal = damage(images / "4.bmp")
    run()
    before = FeatureStore(tmp_path / "store")["pooled"].clone()
    heal()
    damage(images / "3.bmp")  # of the same batch
    again = run(retry_errors=True)
    assert (again.num_retried, again.num_recovered) == (1, 1)
    store = FeatureStore(tmp_path / "store")
    assert bool(store.ok.all())
    torch.testing.assert_close(store["pooled"][3], before[3], rtol=0, atol=0)


def test_rows_that_fail_again__leave_the_store_as_it_is(
    run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(images / "4.bmp")
    run()
    expected = files_of(tmp_path / "store")
    monkeypatch.setattr(shard_work, "write_shard", None)  # nothing may be written
    again = run(retry_errors=True)
    assert (again.num_retried, again.num_recovered) == (1, 0)
    assert files_of(tmp_path / "store") == expected


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".nfs000012ab", "._manifest.json"])
def test_files_of_systems__are_passed_over(run: Run, tmp_path: Path, name: str) -> None:
    run()
    (tmp_path / "store" / name).write_bytes(b"x")
    (tmp_path / "store" / "shards" / name).write_bytes(b"x")
    assert run().rows == 0
    assert len(FeatureStore(tmp_path / "store")["pooled"]) == COUNT


def test_leftovers_of_kills__are_removed_though_all_is_done(run: Run, tmp_path: Path) -> None:
    run()
    expected = files_of(tmp_path / "store")
    for name in (".manifest.json.0a.part", "shards/.000001.safetensors.0b.part"):
        (tmp_path / "store" / name).write_bytes(b"half")
    run()
    assert files_of(tmp_path / "store") == expected


@pytest.mark.parametrize("place", ["photos", "photos/store", "."])
def test_store_and_images__lie_apart(run: Run, images: Path, tmp_path: Path, place: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must lie apart"):
        run(place)
    assert sorted(tmp_path.rglob("*")) == before


def test_store_beside_a_list__is_allowed(images: Path) -> None:
    (images / "list.txt").write_text("1.bmp\n")
    check_apart(images / "store", open_sources([images / "list.txt"]), [str(images / "list.txt")])


def test_missing_parents__are_made(run: Run, tmp_path: Path) -> None:
    run("new/folder/store")
    assert len(FeatureStore(tmp_path / "new/folder/store")) == COUNT


def test_other_outputs__are_named_in_both_lists(run: Run, extract: Extract) -> None:
    extract()
    with pytest.raises(
        FileExistsError, match=r"holds S, L and pooled, and .* asks for S and cls\..*another folder"
    ) as caught:
        extract(options=type(OPTIONS)(("S", "cls"), "float32", batch_size=3, shard_rows=8))
    assert "shapes" not in str(caught.value)


class Named:
    """A source whose names come from elsewhere."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def fingerprint(self) -> str:
        return "f"


def test_damaged_records__are_named_before_they_are_tried_again(run: Run, tmp_path: Path) -> None:
    run()
    plan = Manifest.read(tmp_path / "store")
    rows, path = plan.rows_of_shard(0), shard_path(tmp_path / "store", 0)
    wrong = [ImageRecord(row + 1, "a") for row in rows]
    write_shard(path, rows, {"S": torch.zeros(8, 4, 48)}, wrong, plan.plan)
    with pytest.raises(ValueError, match="rows 0 to 7"):
        plan_work(tmp_path / "store", plan, Named(["a"] * COUNT), [0], False, True)
