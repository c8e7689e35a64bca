from collections import Counter
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

from stellar_hub.data.streams import Cursor, Readers, StreamBatches, TarStream
from stellar_hub.data.streams.stream_batches import StreamParts
from stellar_hub.data.views import ViewMaker, ViewSettings
from stellar_hub.data.views.view_maker import read_planned
from tests.stellar_hub.data.sources.conftest import png, write_tar

VIEWS = ViewSettings(8, 4, 1, 1, (0.5, 1.0), (0.5, 1.0), 0.5)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    """Four unequal tars, 30 images, one of which is damaged."""
    folder, paths, color = tmp_path_factory.mktemp("shards"), [], 0
    for shard, count in enumerate((3, 12, 5, 10)):
        members = {}
        for number in range(count):
            members[f"{shard}-{number}.png"] = b"damaged" if (shard, number) == (1, 4) else png(color, side=12)
            color += 1
        paths.append(str(write_tar(folder / f"{shard}.tar", members)))
    return Readers(TarStream(paths), seed=3)


def batches(
    readers: Readers, batch_size: int, count: int, num_workers: int = 0, **options: Any
) -> list[dict[str, Any]]:
    return list(StreamBatches(readers, ViewMaker(VIEWS, None), batch_size, count, num_workers=num_workers, **options))


def names(found: list[dict[str, Any]]) -> list[list[str]]:
    return [batch["paths"] for batch in found]


def test_batches__are_the_same_for_any_number_of_workers(readers: Readers) -> None:
    expected = batches(readers, 7, 6)
    for num_workers in (1, 2, 4):
        found = batches(readers, 7, 6, num_workers=num_workers)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def test_batch_smaller_than_the_workers__has_every_sample(readers: Readers) -> None:
    expected = batches(readers, 3, 8)
    for one, other in zip(batches(readers, 3, 8, num_workers=4), expected, strict=True):
        assert_equal(one, other)


def test_kept_patches_of_several_views__stay_with_their_images(readers: Readers) -> None:
    maker = ViewMaker(ViewSettings(8, 4, 2, 1, (0.5, 1.0), (0.5, 1.0), 0.5), None, draw_two)
    expected = list(StreamBatches(readers, maker, 6, 2, num_workers=0))
    found = list(StreamBatches(readers, maker, 6, 2, num_workers=2))
    assert found[0]["kept_patches"].shape == (12, 3)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


def draw_two(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(9, (2, 3), generator=generator)


def test_images_that_the_device_cuts__are_the_same(readers: Readers) -> None:
    maker = ViewMaker(replace(VIEWS, device_crops=True), None)
    expected = list(StreamBatches(readers, maker, 6, 2, num_workers=0))
    found = list(StreamBatches(readers, maker, 6, 2, num_workers=2))
    for one, other in zip(found, expected, strict=True):
        assert one["paths"] == other["paths"]
        assert all(torch.equal(mine, its) for mine, its in zip(one["images"], other["images"], strict=True))


def test_worker__sends_few_tensors(readers: Readers) -> None:
    parts = StreamParts(readers, [0, 1, 2, 3], {}, ViewMaker(replace(VIEWS, device_crops=True), None), 64)
    sent = ForkingPickler.dumps(next(iter(parts)))
    assert bytes(sent).count(b"rebuild_storage_fd") <= 5


@pytest.mark.slow
def test_spawned_workers__make_the_same_batches(readers: Readers) -> None:
    expected = batches(readers, 6, 2)
    found = batches(readers, 6, 2, num_workers=2, multiprocessing_context="spawn")
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes__share_the_batches_of_one(readers: Readers, num_processes: int) -> None:
    expected = names(batches(readers, 8, 6))
    parts = [
        names(batches(readers, 8 // num_processes, 6, process_index=rank, num_processes=num_processes))
        for rank in range(num_processes)
    ]
    for number, whole in enumerate(expected):
        assert Counter(name for part in parts for name in part[number]) == Counter(whole)


@pytest.mark.parametrize(("stop", "num_workers"), [(1, 0), (3, 2), (5, 0)])
def test_cursors__continue_where_a_run_stopped(readers: Readers, stop: int, num_workers: int) -> None:
    expected = batches(readers, 6, 7)
    cursors: dict[int, Cursor] = {}
    for batch in batches(readers, 6, stop):
        cursors |= batch["cursors"]
    cursors = {reader: Cursor(*list(cursor)) for reader, cursor in cursors.items()}  # as a checkpoint returns them
    found = batches(readers, 6, 7, start_batch=stop, cursors=cursors, num_workers=num_workers)
    assert names(found) == names(expected[stop:])


@pytest.mark.parametrize(
    ("num_workers", "cores", "expected"), [(0, 4, 0), (1, 4, 1), (3, 4, 2), (None, 3, 2), (None, 64, 4)]
)
def test_workers__are_as_many_as_share_the_readers_evenly(
    readers: Readers, monkeypatch: pytest.MonkeyPatch, num_workers: int | None, cores: int, expected: int
) -> None:
    monkeypatch.setattr("stellar_hub.data.workers.num_cores", lambda: cores)
    made = StreamBatches(readers, ViewMaker(VIEWS, None), 6, 4, start_batch=1, num_workers=num_workers)
    assert made.loader.num_workers == expected
    assert len(made) == 3


def test_pinned_batches__are_pinned(readers: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 0 if self.is_floating_point() else self[:1])
    (batch,) = batches(readers, 2, 1, pin_memory=True)
    assert batch["global_views"].shape[0] == 1
    assert len(batch["paths"]) == 2


def test_damaged_image__is_named_and_replaced_by_the_next(readers: Readers) -> None:
    found = batches(readers, 6, 12)
    skipped = {entry for batch in found for entry in batch["skipped"]}
    assert len(skipped) == 1
    assert "1.tar/1-4.png: " in skipped.pop()
    assert all(len(batch["paths"]) == 6 for batch in found)


def test_too_many_damaged_images__end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.data.streams.stream_batches.MAX_TRIES", 5)
    tar = write_tar(tmp_path / "a.tar", {f"{number}.png": b"damaged" for number in range(3)})
    with pytest.raises(ValueError, match=r"none of 6 images .*a\.tar"):
        batches(Readers(TarStream([str(tar)]), 0), 2, 1)


@pytest.mark.parametrize(("error", "is_machine"), [(TypeError("odd"), False), (MemoryError("full"), True)])
def test_error_nobody_foresaw__costs_an_image_and_a_full_machine_ends_the_run(
    readers: Readers, monkeypatch: pytest.MonkeyPatch, error: Exception, is_machine: bool
) -> None:
    def read(image: Any, *arguments: Any) -> Any:
        if "0-1.png" in str(image):
            raise error
        return read_planned(image, *arguments)

    monkeypatch.setattr("stellar_hub.data.views.view_maker.read_planned", read)
    if is_machine:
        with pytest.raises(MemoryError):
            batches(readers, 6, 12)
    else:
        assert any("0-1.png: odd" in entry for batch in batches(readers, 6, 12) for entry in batch["skipped"])
