import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import TarStream
from stellar_hub.data.streams.reading_order import MAX_IN_SHARD
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features import preparation
from stellar_hub.features.in_memory import extract_features
from stellar_hub.features.preparation import (
    PreparedBatches,
    StreamedBatches,
    batch_loader,
    check_fixed_size,
    prepare_row,
    refuse_errors,
    stack_pixels,
)
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from tests.stellar_hub.data.sources.conftest import png, write_tar


@pytest.fixture
def processor(pixel_model: StellarModel) -> StellarImageProcessor:
    return StellarImageProcessor.from_config(pixel_model.config)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pixels__are_those_of_the_processor(source: JoinedSources, processor: StellarImageProcessor, fit: str) -> None:
    processor.fit = fit  # type: ignore[assignment]
    record, pixels = prepare_row(source, 3, processor)
    expected = processor(source[3], return_tensors="pt", return_geometry=True)
    assert pixels is not None
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(pixels.float() / 255, expected["pixel_values"][0], atol=0, rtol=0)
    assert record.original_size == tuple(expected["original_sizes"][0].tolist())
    assert record.crop_box == tuple(expected["crop_boxes"][0].tolist())


def test_bad_image__keeps_its_row_with_its_error(source: JoinedSources, processor: StellarImageProcessor) -> None:
    batch = PreparedBatches(source, processor, [range(3, 6)])[0]
    assert [record.row for record in batch.records] == [3, 4, 5]
    assert [record.status for record in batch.records] == ["ok", "error", "ok"]
    assert "0004.png cannot be read as an image" in str(batch.records[1].error)
    assert batch.pixel_values is not None
    assert batch.pixel_values.shape == (2, 3, 32, 32)


def test_missing_file__is_an_error_of_its_row(processor: StellarImageProcessor, tmp_path: Path) -> None:
    record, pixels = prepare_row([tmp_path / "gone.png"], 0, processor)
    assert pixels is None
    assert record.image == str(tmp_path / "gone.png")
    assert "no such image file" in str(record.error)


def test_full_machine__is_no_error_of_a_row(
    source: JoinedSources, processor: StellarImageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError, match=r"Too many open files.*0000\.png"):
        prepare_row(source, 0, processor)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
def test_passing_fault__is_not_the_images(
    source: JoinedSources, processor: StellarImageProcessor, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(code, "try again")

    monkeypatch.setattr("builtins.open", fail)
    record, pixels = prepare_row(source, 0, processor)
    assert pixels is None
    assert str(record.error).startswith("not the image's fault: ")
    assert "0000.png" in str(record.error)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")])
def test_source_that_fails__costs_one_row(processor: StellarImageProcessor, error: Exception) -> None:
    class Failing(list[Path]):
        def __getitem__(self, row: Any) -> Any:
            raise error

    record, pixels = prepare_row(Failing(), 7, processor)
    assert pixels is None
    assert record.image == "image 7"
    assert "image 7: " in str(record.error)


def test_memory_that_ends__ends_the_run(processor: StellarImageProcessor) -> None:
    class Failing(list[Path]):
        def __getitem__(self, row: Any) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        prepare_row(Failing(), 7, processor)


def test_float_images__make_a_float_batch() -> None:
    bytes_, floats = torch.full((3, 2, 2), 255, dtype=torch.uint8), torch.full((3, 2, 2), 0.5)
    stacked = stack_pixels([bytes_, floats])
    assert stacked is not None
    torch.testing.assert_close(stacked, torch.stack([torch.ones(3, 2, 2), floats]), atol=0, rtol=0)


def test_batch_of_bad_images__has_no_pixels(tmp_path: Path, processor: StellarImageProcessor) -> None:
    batch = PreparedBatches([tmp_path / "a.png", tmp_path / "b.png"], processor, [range(2)])[0]
    assert batch.pixel_values is None
    assert len(batch.records) == 2


def test_workers__change_nothing(source: JoinedSources, processor: StellarImageProcessor) -> None:
    batches = PreparedBatches(source, processor, [range(0, 5), range(5, 9)])
    for alone, parallel in zip(batch_loader(batches, 0, False), batch_loader(batches, 2, False), strict=True):
        assert alone.records == parallel.records
        assert torch.equal(alone.pixel_values, parallel.pixel_values)


@pytest.mark.slow
def test_spawned_workers__change_nothing(
    source: JoinedSources, shards: list[str], processor: StellarImageProcessor
) -> None:
    for batches in (
        PreparedBatches(source, processor, [range(0, 5), range(5, 9)]),
        StreamedBatches(TarStream(shards), processor, 4),
    ):
        spawned = batch_loader(batches, 1, False, multiprocessing_context="spawn")
        for alone, parallel in zip(batch_loader(batches, 0, False), spawned, strict=True):
            assert alone.records == parallel.records
            assert torch.equal(alone.pixel_values, parallel.pixel_values)


@pytest.mark.parametrize(("batches", "num_workers"), [([range(0, 9)], 0), ([range(0, 5), range(5, 9)], 2)])
def test_workers__are_at_most_one_for_each_batch(
    source: JoinedSources,
    processor: StellarImageProcessor,
    batches: list[range],
    num_workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "default_num_workers", lambda num_local_processes: 8)
    assert batch_loader(PreparedBatches(source, processor, batches), None, False).num_workers == num_workers


def test_errors__are_refused_where_every_row_is_needed(source: JoinedSources, processor: StellarImageProcessor) -> None:
    batches = PreparedBatches(source, processor, [range(0, 4), range(4, 9)])
    refusing = refuse_errors(batch_loader(batches, 0, False))
    assert len(next(refusing).records) == 4
    with pytest.raises(ValueError, match=r"0004\.png"):
        next(refusing)


def test_view__replaces_the_whole_image(source: JoinedSources, processor: StellarImageProcessor) -> None:
    view = AugmentedView(1, seed=3)
    batch = PreparedBatches(source, processor, [range(3, 5)], view)[0]
    assert [record.status for record in batch.records] == ["ok", "error"]
    assert batch.pixel_values is not None
    torch.testing.assert_close(batch.pixel_values[0], view.prepare(processor, source[3], 3), atol=0, rtol=0)


def test_animated_image__counts_with_its_first_frame(processor: StellarImageProcessor, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((40, 40, 3), value, dtype=np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    _, pixels = prepare_row([tmp_path / "moving.gif"], 0, processor)
    assert pixels is not None
    assert pixels.unique().tolist() == [10]


def test_decompression_bomb__is_an_error_of_its_row(
    source: JoinedSources, processor: StellarImageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", "200")
    record, pixels = prepare_row(source, 0, processor)
    assert pixels is None
    assert "the limit is 200" in str(record.error)


@pytest.mark.parametrize("data", [b"", b"GIF89a"])
def test_empty_or_cut_short__is_an_error_of_its_row(
    data: bytes, processor: StellarImageProcessor, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    record, pixels = prepare_row([tmp_path / "bad.png"], 0, processor)
    assert pixels is None
    assert "cannot be read as an image" in str(record.error)


def test_cut_short_inside__is_an_error_of_its_row(
    source: JoinedSources, processor: StellarImageProcessor, tmp_path: Path
) -> None:
    whole = Path(str(source[0])).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    record, pixels = prepare_row([tmp_path / "half.png"], 0, processor)
    assert pixels is None
    assert "cannot be read as an image" in str(record.error)


def test_images_of_many_sizes__are_refused(processor: StellarImageProcessor) -> None:
    assert check_fixed_size(processor) == (32, 32)
    processor.fit = "aspect"
    with pytest.raises(ValueError, match="fit='aspect'"):
        check_fixed_size(processor)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Three unequal tars, with a damaged image, and one that is cut short."""
    paths = []
    for shard, count in enumerate((5, 2, 4)):
        members = {f"{n}.png": png(10 * shard + n, side=40) for n in range(count)}
        paths.append(
            str(write_tar(tmp_path / f"{shard}.tar", members | ({"bad.png": b"damaged"} if shard == 0 else {})))
        )
    whole = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(whole[: 2 * 1024 + 530])
    return paths


ROWS = [0, 1, 2, 3, 4, 5, *(MAX_IN_SHARD + n for n in range(2)), *(2 * MAX_IN_SHARD + n for n in range(3))]
WITH_ERROR = [5, 2 * MAX_IN_SHARD + 2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stream__gives_every_image_once(pixel_model: StellarModel, shards: list[str], num_workers: int) -> None:
    batches = list(extract_features(pixel_model, TarStream(shards), ["S"], batch_size=4, num_workers=num_workers))
    rows = torch.cat([batch.row_ids for batch in batches])
    ok = torch.cat([batch.ok for batch in batches])
    assert sorted(rows.tolist()) == ROWS
    assert sorted(rows[~ok].tolist()) == WITH_ERROR
    errors = {record.row: record.error for batch in batches for record in batch.records if record.error}
    assert "2.tar" in errors[WITH_ERROR[1]]


def test_shards_without_images_or_missing__cost_a_row_each(
    pixel_model: StellarModel, shards: list[str], tmp_path: Path
) -> None:
    (tmp_path / "empty.tar").write_bytes(b"")
    stream = TarStream([str(tmp_path / "empty.tar"), str(tmp_path / "gone.tar"), shards[1]])
    records = [r for batch in extract_features(pixel_model, stream, ["S"], num_workers=0) for r in batch.records]
    assert [record.row for record in records if record.error] == [0, MAX_IN_SHARD]
    assert [record.row for record in records if not record.error] == [2 * MAX_IN_SHARD, 2 * MAX_IN_SHARD + 1]


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes__share_the_shards(
    pixel_model: StellarModel, shards: list[str], num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    for rank in range(num_processes):
        monkeypatch.setenv("RANK", str(rank))
        for batch in pixel_model.extract("stream:" + shards[0].replace("0.tar", "{0..2}.tar"), ["S"]):
            rows += batch.row_ids.tolist()
    assert sorted(rows) == ROWS


def test_features__are_those_of_the_same_image_elsewhere(
    pixel_model: StellarModel, shards: list[str], tmp_path: Path
) -> None:
    (tmp_path / "one.png").write_bytes(png(11, side=40))
    (expected,) = extract_features(pixel_model, [tmp_path / "one.png"], ["S"])
    (batch,) = extract_features(pixel_model, TarStream(shards[1:2]), ["S"])
    torch.testing.assert_close(batch["S"][1:], expected["S"], rtol=1e-5, atol=1e-5)
