"""Extractions that go on, that share a store, and that meet what is in their way."""

import dataclasses
import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.features.processes import Processes
from stellar_hub.modeling import StellarImageProcessor, StellarModel, atomic_write
from stellar_hub.store import extract_shards as shard_work
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store
from tests.stellar_hub.data.conftest import exif, jpeg

from .conftest import BAD, COUNT, OPTIONS, draw_images, files_of

Extract = Callable[..., Path]


def test_store__has_every_row_with_its_status(extract: Extract, image_folder: Path) -> None:
    store = FeatureStore(extract())
    assert len(store) == COUNT
    assert [row.record.row for row in store] == list(range(COUNT))
    assert [row.record.row for row in store if row.record.status == "error"] == list(BAD)
    assert [row.record.image for row in store] == [str(image_folder / f"{index:04d}.png") for index in range(COUNT)]
    assert store.manifest.counts == {"ok": COUNT - len(BAD), "error": len(BAD)}


def test_source__may_be_a_name(pixel_model: StellarModel, image_folder: Path, tmp_path: Path) -> None:
    for number, source in enumerate((str(image_folder), image_folder, [image_folder])):
        extract_to_store(pixel_model, source, tmp_path / str(number), num_workers=0, show_progress=False)
        store = FeatureStore(tmp_path / str(number))
        assert len(store) == COUNT
        assert list(store.manifest.source["names"]) == [str(image_folder)]


def test_rows__are_those_of_the_loop(extract: Extract, pixel_model: StellarModel, image_folder: Path) -> None:
    store = FeatureStore(extract())
    for batch in pixel_model.extract(image_folder, batch_size=3):
        stored = store.read("S", range(int(batch.row_ids[0]), int(batch.row_ids[-1]) + 1))
        torch.testing.assert_close(stored, batch["S"], atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers__change_no_byte(extract: Extract) -> None:
    assert files_of(extract("one")) == files_of(extract("other", num_workers=2))


def test_processes__change_no_byte(extract: Extract) -> None:
    for rank in reversed(range(4)):
        extract("shared", processes=Processes(rank, 4))
    assert files_of(extract("alone")) == files_of(extract("shared"))


def test_failure__leaves_whole_shards_and_goes_on_to_the_same_bytes(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[Path] = []
    write_shard = shard_work.write_shard

    def fail_at_the_second(path: Path, *arguments: Any) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_shard(path, *arguments)

    expected = files_of(extract("undisturbed"))
    monkeypatch.setattr(shard_work, "write_shard", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        extract()
    assert {name for name in files_of(tmp_path / "store") if "shards" in name} == {"shards/000000.safetensors"}
    with pytest.raises(ValueError, match="not complete"):
        FeatureStore(tmp_path / "store")
    monkeypatch.undo()
    assert files_of(extract()) == expected


def test_full_disk__leaves_nothing_half_written(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = files_of(extract("undisturbed"))
    real_fsync = os.fsync

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 10_000:  # the manifest still finds room, a shard does not
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fsync(descriptor)

    monkeypatch.setattr(atomic_write.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*000000\.safetensors"):
        extract()
    assert set(files_of(tmp_path / "store")) == {".lock", "manifest.json"}
    monkeypatch.undo()
    assert files_of(extract()) == expected


def test_leftovers_of_a_kill__are_gone_in_the_end(extract: Extract, tmp_path: Path) -> None:
    expected = files_of(extract("undisturbed"))
    (tmp_path / "store" / "shards").mkdir(parents=True)
    for name in ("shards/.000001.safetensors.0a.part", ".index.parquet.0b.part", ".manifest.json.0c.part"):
        (tmp_path / "store" / name).write_text("half")
    assert files_of(extract()) == expected


def test_complete_store__is_left_as_it_is(extract: Extract, pixel_model: StellarModel) -> None:
    expected = files_of(extract())

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("there is nothing to compute")

    pixel_model.forward = fail  # type: ignore[method-assign]
    assert files_of(extract()) == expected


def test_other_options__are_refused_and_named(extract: Extract, pixel_model: StellarModel) -> None:
    extract()
    with pytest.raises(FileExistsError, match=r"features\.dtype: float32 in the store, float16 now"):
        extract(options=dataclasses.replace(OPTIONS, dtype="float16"))
    with torch.no_grad():
        pixel_model.encoder.cls_token += 1
    with pytest.raises(FileExistsError, match=r"model: the weights of .* have changed"):
        extract()


def test_other_images__are_refused(extract: Extract, tmp_path: Path) -> None:
    extract()
    with pytest.raises(FileExistsError, match=r"images: 23 of .* in the store, 5 of .* now"):
        extract(source=open_sources([draw_images(tmp_path / "others", 5, ())]))


def test_folder_of_something_else__is_refused(extract: Extract, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("important")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        extract()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file: name a folder"):
        extract("file")


def test_output_below_a_file__cannot_be_made(extract: Extract, tmp_path: Path) -> None:
    """Unwritable for everyone, root too."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        extract("file/store")


def test_second_run__is_refused_while_the_first_goes_on(extract: Extract, tmp_path: Path) -> None:
    extract()
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "store", ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(BlockingIOError, match="another run"):
            extract()
        with pytest.raises(BlockingIOError, match="another run"):
            extract(processes=Processes(1, 2))
    finally:
        done.set()
        holder.join()
    extract()


def hold(folder: Path, ready: Any, done: Any) -> None:
    """Keep a store locked for a while, in a process of its own."""
    with StoreLock(folder):
        ready.set()
        done.wait(60)


def test_damage__is_named_and_repaired_to_the_same_bytes(extract: Extract, pixel_model: StellarModel) -> None:
    folder = extract()
    expected = files_of(folder)
    shard = folder / "shards" / "000001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-10] ^= 1
    shard.write_bytes(data)
    assert FeatureStore(folder).verify() == [f"rows 8 to 15 cannot be trusted: {shard} is not what was written"]
    forward, seen = pixel_model.forward, []

    def count(pixel_values: torch.Tensor) -> Any:
        seen.append(len(pixel_values))
        return forward(pixel_values)

    pixel_model.forward = count  # type: ignore[method-assign]
    assert files_of(extract(repair=True)) == expected
    assert seen == [3, 3, 2]  # just these rows


@pytest.mark.parametrize("name", ["shards/000001.safetensors", "index.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_any_damaged_file__is_repaired_to_the_same_bytes(extract: Extract, name: str, damage: str) -> None:
    folder = extract()
    expected = files_of(folder)
    data = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises((ValueError, FileNotFoundError), match=name.split("/")[-1].replace(".", r"\.")):
        FeatureStore(folder).read("S", range(8, 16))
    assert files_of(extract(repair=True)) == expected


def test_cut_shard__stops_a_run_that_is_not_to_repair(extract: Extract) -> None:
    folder = extract()
    (folder / "shards" / "000001.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"rows 8 to 15 .*--repair"):
        extract()


def test_shard_of_another_store__is_not_taken(extract: Extract) -> None:
    folder = extract()
    other = extract("other", options=dataclasses.replace(OPTIONS, precision="bfloat16"))
    (folder / "shards" / "000001.safetensors").write_bytes((other / "shards" / "000001.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"rows 8 to 15 .*another extraction.*--repair"):
        FeatureStore(folder)[9]


def test_full_memory__is_reported(
    pixel_model: StellarModel, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pixel_model.forward

    def limited(pixel_values: torch.Tensor) -> Any:
        if len(pixel_values) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(pixel_values)

    monkeypatch.setattr(pixel_model, "forward", limited)
    options = ExtractionOptions(batch_size=8, shard_rows=8)
    report = extract_to_store(
        pixel_model, open_sources([image_folder]), tmp_path / "store", options, show_progress=False
    )
    assert report.largest_piece == 1 or report.largest_piece == 2
    assert (report.rows, report.errors) == (COUNT, len(BAD))
    assert FeatureStore(tmp_path / "store").ok.sum() == COUNT - len(BAD)


def test_padded_images__keep_their_geometry(extract: Extract, pixel_model: StellarModel) -> None:
    processor = StellarImageProcessor.from_config(pixel_model.config, fit="pad")
    store = FeatureStore(extract(processor=processor))
    geometry = processor.geometry(torch.zeros(3, 40, 60))
    assert store[0].record.crop_box == geometry.crop_box
    assert store[0].record.original_size == (40, 60)


def test_missing_pyarrow__is_said_before_the_work(extract: Extract, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[extract\]'"):
        extract()


@pytest.fixture
def jpegs(tmp_path: Path) -> JoinedSources:
    """23 JPEGs: plain ones, turned ones, progressive ones, and two that are damaged."""
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for number in range(COUNT):
        kinds: list[dict[str, Any]] = [{}, {"exif": exif(6)}, {"progressive": True}, {"mode": "L"}]
        data = jpeg(quality=50 + number, **kinds[number % 4])
        (folder / f"{number:02d}.jpg").write_bytes(data[:-60] if number in BAD else data)
    return open_sources([folder])


@pytest.mark.parametrize("decoder", ["pillow", "torchvision"])
def test_each_decoder__goes_on_to_the_same_bytes(extract: Extract, jpegs: JoinedSources, decoder: str) -> None:
    options = dataclasses.replace(OPTIONS, decoder=decoder)
    folder = extract(options=options, source=jpegs)
    expected = files_of(folder)
    assert FeatureStore(folder).manifest.counts == {"ok": COUNT - len(BAD), "error": len(BAD)}
    (folder / "shards" / "000001.safetensors").unlink()
    auto = dataclasses.replace(options, decoder="auto", precision="auto")
    assert files_of(extract(options=auto, source=jpegs)) == expected
    other = {"pillow": "torchvision", "torchvision": "pillow"}[decoder]
    names = {"pillow": "pillow", "torchvision": "libjpeg-turbo"}
    with pytest.raises(FileExistsError, match=f"decoder: {names[decoder]} in the store, {names[other]} now"):
        extract(options=dataclasses.replace(options, decoder=other), source=jpegs)


@pytest.mark.gpu
def test_nvjpeg__goes_on_to_the_same_bytes(extract: Extract, jpegs: JoinedSources, pixel_model: StellarModel) -> None:
    options = dataclasses.replace(OPTIONS, decoder="torchvision", precision="auto")
    model = pixel_model.to("cuda")
    folder = extract(options=options, source=jpegs, model=model)
    expected = files_of(folder)
    assert (FeatureStore(folder).manifest.decoder, FeatureStore(folder).manifest.features["precision"]) == (
        "nvjpeg",
        "bfloat16",
    )
    (folder / "shards" / "000001.safetensors").unlink()
    auto = dataclasses.replace(options, decoder="auto")
    assert files_of(extract(options=auto, source=jpegs, model=model, num_workers=1)) == expected


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_torchvision__gives_the_same_rows_from_workers_and_from_processes(
    extract: Extract, jpegs: JoinedSources
) -> None:
    options = dataclasses.replace(OPTIONS, decoder="torchvision")
    expected = files_of(extract("one", options=options, source=jpegs))
    assert files_of(extract("workers", options=options, source=jpegs, num_workers=2)) == expected
    for rank in range(2):
        extract("processes", options=options, source=jpegs, processes=Processes(rank, 2))
    assert files_of(extract("processes", options=options, source=jpegs)) == expected


def test_failed_rows__are_tried_again_with_torchvision(extract: Extract, jpegs: JoinedSources, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, decoder="torchvision")
    path = tmp_path / "jpegs" / "00.jpg"
    data, times = path.read_bytes(), os.stat(path)
    expected = files_of(extract("expected", options=options, source=jpegs))
    path.write_bytes(data[:-60] + bytes(60))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    folder = extract(options=options, source=jpegs)
    assert FeatureStore(folder)[0].record.error is not None
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert files_of(extract(options=options, source=jpegs, retry_errors=True)) == expected


def test_extraction__imports_no_pandas(image_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from stellar_hub.data import open_sources; from stellar_hub.modeling import StellarModel; "
        "from stellar_hub.store import extract_to_store; model = StellarModel.from_pretrained('stellar-tiny'); "
        "before = 'pandas' in sys.modules; "  # by transformers 5.17, where scikit-learn is installed
        f"extract_to_store(model, open_sources([{str(image_folder)!r}]), {str(tmp_path / 'store')!r}, num_workers=0); "
        "print('pandas' in sys.modules and not before)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
