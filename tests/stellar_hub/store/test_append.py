"""Stores that grow: new images become new rows, and nothing that is there changes."""

import dataclasses
import errno
import io
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarModel, atomic_write
from stellar_hub.modeling.limits import variable_of
from stellar_hub.store.append import can_append
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.fill import ExtractionReport
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store

from .conftest import files_of
from .test_to_store import hold

OPTIONS = ExtractionOptions(dtype="float32", batch_size=3, shard_rows=4)
FIRST = [f"b/{number}.png" for number in range(6)]
SECOND = ["a/0.png", "a/1.png", "b/05.png", "c/0.png", "c/bad.png"]  # two shards; the third lies between old ones
THIRD = ["a/00.png"]


class Killed(BaseException):
    """In the place of SIGKILL."""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images in class folders."""
    return draw(tmp_path / "photos", FIRST)


def draw(folder: Path, names: list[str]) -> Path:
    """Noise that depends on the name; what is called "bad" is text."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image" if "bad" in name else png(name))
    return folder


def png(name: str) -> bytes:
    """An image of noise that depends on a name."""
    values = np.random.default_rng(list(name.encode())).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


Append = Callable[..., ExtractionReport]


@pytest.fixture
def append(shared_pixel_model: StellarModel, images: Path, tmp_path: Path) -> Append:
    """Appends the images of the folder to "store", or to another one."""

    def run(name: str = "store", source: Any = None, **keywords: Any) -> ExtractionReport:
        given = {"options": OPTIONS, "append": True, "num_workers": 0, "show_progress": False} | keywords
        return extract_to_store(shared_pixel_model, source or [images], tmp_path / name, **given)

    return run


@pytest.fixture
def grown(append: Append, images: Path, tmp_path: Path) -> Path:
    """A store after two appends; its images lie in "photos"."""
    append()
    for names in (SECOND, THIRD):
        draw(images, names)
        append()
    return tmp_path / "store"


def names_of(store: FeatureStore) -> list[str]:
    """The names of the images, with their class folders."""
    return ["/".join(Path(record.image).parts[-2:]) for record in store.records()]


def check_same_rows(store: FeatureStore, whole: FeatureStore) -> None:
    """Compares two stores row by row, by the names of the images."""
    rows = {record.image: record.row for record in whole.records()}
    same = [rows[record.image] for record in store.records()]
    assert sorted(same) == list(range(len(whole)))
    for name in whole.outputs:
        torch.testing.assert_close(store[name], whole[name][same], atol=1e-6, rtol=1e-6, equal_nan=True)
    assert store.ok.tolist() == whole.ok[same].tolist()
    assert store.classes == whole.classes
    assert store["label"].tolist() == whole["label"][same].tolist()
    for record, row in zip(store.records(), same, strict=True):
        other = whole.records([row])[0]
        assert (record.original_size, record.crop_box, record.error) == (
            other.original_size,
            other.crop_box,
            other.error,
        )


def test_two_appends__give_the_rows_of_one_extraction(append: Append, images: Path, tmp_path: Path) -> None:
    append()
    before = files_of(tmp_path / "store")
    draw(images, SECOND)
    report = append()
    assert (report.rows, report.errors, report.num_appended) == (5, 1, 5)
    between = files_of(tmp_path / "store")
    draw(images, THIRD)
    append()
    after = files_of(tmp_path / "store")
    assert before.items() < between.items() < after.items()  # not a byte of what was there changes
    assert {name.split("/")[1] for name in set(after) - set(before)} == {"000001", "000002"}
    store = FeatureStore(tmp_path / "store")
    assert names_of(store) == [*FIRST, *SECOND, *THIRD]
    assert [record.row for record in store.records()] == list(range(12))
    assert store.classes == ("a", "b", "c")
    append("whole")
    check_same_rows(store, FeatureStore(tmp_path / "whole"))
    assert store.verify() == []


def test_tables__grow_as_well(append: Append, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    names = [*FIRST, *SECOND]

    def write(path: Path, count: int) -> None:
        cells = [b"no image" if "bad" in name else png(name) for name in names[:count]]
        pa.parquet.write_table(pa.table({"image": pa.array(cells, pa.binary())}), path)

    for count in (4, 5, 11):
        write(tmp_path / "table.parquet", count)
        report = append(source=["table.parquet"])
    assert report.num_appended == 6
    assert "files have changed" in report.about_append[0]  # of the table, and perhaps not of these rows
    append("whole", source=["table.parquet"])
    store = FeatureStore(tmp_path / "store")
    check_same_rows(store, FeatureStore(tmp_path / "whole"))
    monkeypatch.chdir("/")
    assert append(source=[tmp_path / "table.parquet"]).num_appended == 0  # though the path is written in another way
    assert len(store.source(trust_names=True, verify=False)) == 11


def test_tars__grow_as_well(append: Append, images: Path, tmp_path: Path) -> None:
    import tarfile

    for number, count in enumerate((3, 3)):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as archive:
            for index in range(count):
                archive.add(images / FIRST[number * 3 + index], f"{index}.png")
        append(source=[tmp_path / "shard-*.tar"])
    store = FeatureStore(tmp_path / "store")
    assert [record.image for record in store.records()] == [
        f"shard-{number}.tar/{index}.png" for number in range(2) for index in range(3)
    ]
    append("whole", source=[tmp_path / "shard-*.tar"])
    check_same_rows(store, FeatureStore(tmp_path / "whole"))


def test_segment_above_the_limit__is_refused_before_it_is_written(
    append: Append, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    draw(images, SECOND)
    append()
    draw(images, THIRD)
    before = files_of(tmp_path / "store")
    monkeypatch.setenv(variable_of("store_segments"), "1")
    with pytest.raises(ValueError, match="STELLAR_HUB_MAX_STORE_SEGMENTS"):
        append()
    assert files_of(tmp_path / "store") == before
    assert len(FeatureStore(tmp_path / "store")) == len(FIRST) + len(SECOND)


def test_nothing_new__writes_nothing(grown: Path, append: Append, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = files_of(grown)
    monkeypatch.setattr(atomic_write.os, "replace", None)
    report = append()
    assert report.rows == report.num_appended == 0
    assert "nothing new" in report.about_append[-1]
    assert files_of(grown) == expected


def test_images_named_by_another_path__are_not_new(grown: Path, append: Append, images: Path) -> None:
    expected = files_of(grown)
    report = append(source=[images / ".." / images.name])
    assert report.num_appended == 0
    assert files_of(grown) == expected


def test_folder_without_a_store__gets_one(append: Append, tmp_path: Path) -> None:
    assert not can_append(tmp_path / "store")
    append()
    append("plain", append=False)
    assert files_of(tmp_path / "store") == files_of(tmp_path / "plain")
    assert can_append(tmp_path / "store")


def test_same_name_twice__gives_a_row_for_each(append: Append, images: Path, tmp_path: Path) -> None:
    append()
    assert append(source=[images, images]).num_appended == len(FIRST)
    assert append(source=[images, images]).num_appended == 0
    store = FeatureStore(tmp_path / "store")
    assert names_of(store) == [*FIRST, *FIRST]
    assert len(store.source([images, images])) == 2 * len(FIRST)


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Kills at one of the renames that each write ends with: before it or after it."""
    replace = os.replace

    def plan(number: int, after: bool) -> None:
        seen = iter(range(1000))

        def rename(source: Any, target: Any) -> None:
            hit = next(seen) == number
            if hit and not after:
                raise Killed
            replace(source, target)
            if hit:
                raise Killed

        monkeypatch.setattr(os, "replace", rename)

    return plan


NUM_WRITES = 7  # the list, the manifest, two shards, the index, the manifest with counts, and the name of the segment


@pytest.mark.parametrize("after", [False, True])
def test_kill_at_any_write__goes_on_to_the_same_bytes(
    append: Append, images: Path, tmp_path: Path, killed: Any, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    shutil.copytree(tmp_path / "store", tmp_path / "begun")
    draw(images, SECOND)
    append()
    expected = files_of(tmp_path / "store")
    for number in range(NUM_WRITES):
        shutil.rmtree(tmp_path / "store")
        shutil.copytree(tmp_path / "begun", tmp_path / "store")
        interrupt(append, killed, monkeypatch, number, after)
        is_named = (number, after) == (NUM_WRITES - 1, True)
        assert len(FeatureStore(tmp_path / "store")) == len(FIRST) + (len(SECOND) if is_named else 0)
        report = append()
        assert files_of(tmp_path / "store") == expected
        assert report.num_appended == (0 if is_named else len(SECOND))
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(tmp_path / "begun", tmp_path / "store")
    killed(NUM_WRITES, after)
    append()  # there is no further write


def interrupt(
    append: Append, killed: Any, monkeypatch: pytest.MonkeyPatch, number: int = 3, after: bool = False
) -> None:
    """Kills an append at a write, by default when its first shard is there."""
    killed(number, after)
    with pytest.raises(Killed):
        append()
    monkeypatch.undo()


def test_interrupted_append__keeps_its_list_when_more_images_come(
    append: Append, images: Path, tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    draw(images, SECOND)
    interrupt(append, killed, monkeypatch)
    draw(images, THIRD)  # sorted before all others
    report = append()
    assert "goes on" in report.about_append[0]
    assert (report.rows, report.num_appended) == (2, 6)  # the second shard, and a segment for what has come since
    store = FeatureStore(tmp_path / "store")
    assert names_of(store) == [*FIRST, *SECOND, *THIRD]
    assert [manifest.num_rows for manifest in store.segments] == [5, 1]


def test_interrupted_append__is_begun_again_if_its_images_are_gone(
    append: Append, images: Path, tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    draw(images, SECOND)
    interrupt(append, killed, monkeypatch)
    (images / "c/0.png").unlink()
    report = append()
    assert "begun again" in report.about_append[0]
    assert "c/0.png" in report.about_append[0]
    assert names_of(FeatureStore(tmp_path / "store")) == [*FIRST, *(name for name in SECOND if name != "c/0.png")]


def test_interrupted_append__does_not_take_other_options(
    append: Append, images: Path, tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    draw(images, SECOND)
    interrupt(append, killed, monkeypatch)
    with pytest.raises(FileExistsError, match=r"shard_rows: 4 in the store, 5 now.*\.pending|\.pending.*shard_rows"):
        append(options=dataclasses.replace(OPTIONS, shard_rows=5))
    shutil.rmtree(tmp_path / "store" / "segments" / ".pending")
    assert append(options=dataclasses.replace(OPTIONS, shard_rows=5, batch_size=5)).num_appended == 5  # both are free


@pytest.mark.parametrize("damage", ["manifest.json", "images.txt", "link"])
def test_interrupted_append__that_is_damaged_is_begun_again(
    append: Append, images: Path, tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    append()
    draw(images, SECOND)
    interrupt(append, killed, monkeypatch)
    pending = tmp_path / "store" / "segments" / ".pending"
    if damage == "link":
        pending.rename(tmp_path / "elsewhere")
        pending.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=r"\.pending.*link"):
            append()
        pending.unlink()
        assert append().num_appended == 5
        return
    (pending / damage).write_text("cut")
    assert "begun again" in append().about_append[0]
    assert len(FeatureStore(tmp_path / "store")) == 11


def test_leftovers_of_a_kill__are_gone_in_the_end(
    append: Append, images: Path, tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    draw(images, SECOND)
    interrupt(append, killed, monkeypatch)
    for name in (".pending/.index.parquet.0a.part", ".pending/shards/.000001.safetensors.0b.part"):
        (tmp_path / "store" / "segments" / name).write_bytes(b"half")
    append()
    assert not [name for name in files_of(tmp_path / "store") if name.endswith(".part")]


def test_full_disk__leaves_the_store_as_it_was(
    append: Append, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append()
    expected = files_of(tmp_path / "store")
    draw(images, SECOND)
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 5_000:  # a shard
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(atomic_write.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*000000\.safetensors"):
        append()
    assert len(FeatureStore(tmp_path / "store")) == len(FIRST)
    assert expected.items() <= files_of(tmp_path / "store").items()
    monkeypatch.undo()
    assert append().num_appended == 5


def test_processes__change_no_byte(append: Append, images: Path, tmp_path: Path) -> None:
    append()
    shutil.copytree(tmp_path / "store", tmp_path / "shared")
    draw(images, SECOND)
    append()
    reports = [append("shared", processes=Processes(rank, 3)) for rank in (1, 2, 0)]
    assert [report.manifest.counts is None for report in reports] == [True, True, False]
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "store")
    assert append("shared", processes=Processes(2, 3)).num_appended == 0  # one that comes late finds nothing to do


def test_second_append__is_refused_while_the_first_goes_on(append: Append, tmp_path: Path) -> None:
    append()
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "store", ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(BlockingIOError, match="another run"):
            append()
    finally:
        done.set()
        holder.join()


def test_plain_extraction_of_a_grown_folder__names_append(grown: Path, append: Append, images: Path) -> None:
    with pytest.raises(FileExistsError, match=r"images: 6 of .* in the store, 12 of .*--append"):
        append(append=False)
    (grown / "manifest.json").write_text((grown / "manifest.json").read_text().replace('"ok": 6', '"ok": 7'))
    with pytest.raises(ValueError, match="--repair"):
        append()
    with pytest.raises(ValueError, match="segments follow other images"):  # its rows would not be those of the segments
        append(append=False, repair=True)


def test_store_that_is_not_complete__takes_no_other_images(
    append: Append, images: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(append, killed, monkeypatch, number=2)
    draw(images, SECOND)
    with pytest.raises(FileExistsError, match="not complete"):
        append()
    for name in SECOND:
        (images / name).unlink()
    assert append().manifest.counts == {"ok": 6, "error": 0}


def test_other_features__are_refused_and_named(append: Append, images: Path) -> None:
    append()
    draw(images, SECOND)
    with pytest.raises(FileExistsError, match=r"features\.dtype: float32 in the store, float16 now"):
        append(options=dataclasses.replace(OPTIONS, dtype="float16"))
    with pytest.raises(FileExistsError, match="asks for S"):
        append(options=dataclasses.replace(OPTIONS, outputs=("S",)))


def test_images_that_changed_or_are_gone__keep_their_rows(grown: Path, append: Append, images: Path) -> None:
    expected = files_of(grown)
    (images / "b/5.png").unlink()
    (images / "b/0.png").write_bytes(png("other"))
    (images / "c/0.png").write_bytes(png("other too"))
    report = append()
    gone, unseen, changed, nothing = report.about_append
    assert "rows 4 to 5" in unseen  # the other image of the shard is not compared any more
    assert ("row 5" in gone, "1 row stays" in gone, "nothing new" in nothing) == (True, True, True)
    assert "2 shards have" in changed
    assert "rows 0 to 3, rows 6 to 9" in changed
    assert "--repair" in changed
    assert files_of(grown) == expected
    assert len(FeatureStore(grown).verify()) == 3
    report = append(repair=True)
    assert report.num_stale == 2
    store = FeatureStore(grown)
    assert len(store.verify()) == 1  # the shard of the image that is gone
    assert bool(store.ok[5])


@pytest.mark.parametrize("name", ["shards/000001.safetensors", "segments/000001/shards/000000.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_damage__is_named_and_repaired_to_the_same_bytes(grown: Path, append: Append, name: str, damage: str) -> None:
    expected = files_of(grown)
    data = bytearray((grown / name).read_bytes())
    data[-10] ^= 1
    (grown / name).write_bytes(data if damage == "changed" else data[:100])
    if damage == "gone":
        (grown / name).unlink()
    rows = "rows 4 to 5" if name.startswith("shards") else "rows 6 to 9"
    assert [line.partition(" cannot")[0] for line in FeatureStore(grown).verify()] == [rows]
    if damage != "changed":
        with pytest.raises(ValueError, match=f"{rows} .*--repair"):
            append()
    append(repair=True)
    assert files_of(grown) == expected


@pytest.mark.parametrize("name", ["index.parquet", "segments/000001/index.parquet"])
def test_damaged_index__is_written_again(grown: Path, append: Append, name: str) -> None:
    expected = files_of(grown)
    (grown / name).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"index.*--repair"):
        FeatureStore(grown)
    append(repair=True)
    assert files_of(grown) == expected


def test_failed_rows__are_tried_again_in_every_segment(grown: Path, append: Append, images: Path) -> None:
    path = images / "c/bad.png"
    row = names_of(FeatureStore(grown)).index("c/bad.png")
    path.write_bytes(png("good"))
    report = append(retry_errors=True)
    assert (report.num_retried, report.num_recovered) == (1, 1)
    store = FeatureStore(grown)
    assert bool(store.ok[row])
    assert (store.counts, store.manifest.counts) == ({"ok": 12, "error": 0}, {"ok": 6, "error": 0})


def test_plain_repair__says_that_it_did_not_look_at_segments(append: Append, images: Path, tmp_path: Path) -> None:
    append()
    others = draw(tmp_path / "others", ["d/1.png"])
    report = append(source=[others])  # another folder of the same store
    assert "6 rows stay" in report.about_append[0]
    assert "rows 0 to 5" in append(append=False, repair=True).about_append[0]
    store = FeatureStore(tmp_path / "store")
    assert len(store.source(trust_names=True)) == 7
    with pytest.raises(ValueError, match=r"there are 6.*7 rows.*d/1\.png is not among them"):
        store.source([images])
