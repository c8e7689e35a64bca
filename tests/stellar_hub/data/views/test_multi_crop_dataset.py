import errno
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from stellar_hub.data.random_numbers import epoch_permutation, sample_generator
from stellar_hub.data.sources import open_sources
from stellar_hub.data.views import (
    MultiCropDataset,
    PhotometricSettings,
    ResumableBatchSampler,
    ViewSettings,
    collate_samples,
    draw_photometric,
    draw_views,
)
from stellar_hub.data.views.multi_crop_dataset import MAX_TRIES, SampleKey
from stellar_hub.data.views.photometric import identity_parameters
from stellar_hub.data.views.view_maker import to_uint8
from stellar_hub.modeling.image_loading import load_rgb
from tests.stellar_hub.data.sources.conftest import png, write_tar

KEYS = [[(2, 2), (2, 1), (2, 6), (2, 0)], [(2, 3), (3, 4), (3, 3), (3, 0)]]


def stream(num_samples: int, seed: int, length: int) -> list[SampleKey]:
    """The first keys of the sequence of all epochs, by its definition."""
    epochs = range(length // num_samples + 1)
    keys = chain.from_iterable(
        [(epoch, index) for index in epoch_permutation(seed, epoch, num_samples).tolist()] for epoch in epochs
    )
    return list(islice(keys, length))


@given(
    num_samples=st.integers(1, 30),
    share=st.integers(1, 7),
    num_processes=st.integers(1, 4),
    seed=st.integers(0, 5),
    num_batches=st.integers(0, 9),
    skipped=st.integers(0, 9),
)
def test_sampler__processes_share_the_stream_from_any_batch_on(
    num_samples: int, share: int, num_processes: int, seed: int, num_batches: int, skipped: int
) -> None:
    batch_size = share * num_processes
    start_batch = min(skipped, num_batches)
    samplers = [
        ResumableBatchSampler(num_samples, batch_size, seed, num_batches, start_batch, process, num_processes)
        for process in range(num_processes)
    ]
    assert {len(sampler) for sampler in samplers} == {num_batches - start_batch}
    batches = [list(chain.from_iterable(parts)) for parts in zip(*samplers, strict=True)]
    expected = stream(num_samples, seed, num_batches * batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * (num_batches - start_batch)
    assert list(chain.from_iterable(batches)) == expected[start_batch * batch_size :]


def test_sampler__a_folder_smaller_than_a_batch_repeats() -> None:
    assert list(ResumableBatchSampler(1, 3, seed=0, num_batches=2)) == [
        [(0, 0), (1, 0), (2, 0)],
        [(3, 0), (4, 0), (5, 0)],
    ]


def test_sampler__keys_never_change() -> None:
    # A run that is resumed after an update depends on them.
    sampler = ResumableBatchSampler(7, 4, seed=0, num_batches=6, start_batch=4)
    assert list(sampler) == list(sampler) == KEYS


def test_sampler__starts_anywhere_without_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    def recorded(seed: int, epoch: int, num_samples: int) -> Any:
        epochs.append(epoch)
        return epoch_permutation(seed, epoch, num_samples)

    monkeypatch.setattr("stellar_hub.data.views.multi_crop_dataset.epoch_permutation", recorded)
    sampler = ResumableBatchSampler(100, 10, seed=0, num_batches=10**9, start_batch=10**8)
    assert len(list(islice(sampler, 20))) == 20
    assert epochs == [10**7, 10**7 + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples .* got 0"),
        ({"batch_size": 0}, "batch_size .* got 0"),
        ({"start_batch": 6}, r"start_batch .* 5\], got 6"),
        ({"process_index": 1}, r"process_index .*\[0, 0\], got 1"),
        ({"num_processes": 3}, "batch_size .* 4 .* multiple of 3"),
    ],
)
def test_sampler__refuses_numbers_out_of_range(changes: dict[str, int], message: str) -> None:
    arguments = {"num_samples": 10, "batch_size": 4, "seed": 0, "num_batches": 5} | changes
    with pytest.raises(ValueError, match=message):
        ResumableBatchSampler(**arguments)


VIEWS = ViewSettings(16, 8, 3, 2, (0.36, 1.0), (0.06, 0.36), 0.5)
PHOTOMETRIC = PhotometricSettings(True, 0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.5, (0.1, 2.0), 9)
NUM_GOOD = 6


def draw_kept(generator: torch.Generator) -> Tensor:
    """Three of nine patches for each global view."""
    return torch.rand(VIEWS.num_global_views, 9, generator=generator).argsort(dim=1)[:, :3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six readable images of noise."""
    random = np.random.default_rng(0)
    for index in range(NUM_GOOD):
        values = random.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"good-{index}.png")
    return tmp_path


@pytest.fixture
def damaged_folder(folder: Path) -> Path:
    """The six images, and four that cannot be read: cut short, empty, text, noise after a good beginning."""
    whole = (folder / "good-0.png").read_bytes()
    (folder / "bad-cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "bad-empty.jpg").write_bytes(b"")
    (folder / "bad-text.webp").write_text("not an image")
    (folder / "bad-rubbish.png").write_bytes(whole[:60] + b"\xff" * 500)
    return folder


def dataset_of(folder: Path, **options: Any) -> MultiCropDataset:
    arguments: dict[str, Any] = {"views": VIEWS, "photometric": PHOTOMETRIC, "seed": 0, "draw_kept": draw_kept}
    return MultiCropDataset(open_sources([folder]), **(arguments | options))


def batches_of(dataset: MultiCropDataset, num_workers: int, **options: Any) -> list[dict[str, Any]]:
    arguments: dict[str, Any] = {"batch_size": 4, "seed": 0, "num_batches": 5}
    sampler = ResumableBatchSampler(len(dataset), **(arguments | options))
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_samples)
    return [{name: value.clone() if isinstance(value, Tensor) else value for name, value in b.items()} for b in loader]


def assert_same(first: Any, second: Any) -> None:
    """Bit for bit, names and texts included."""
    torch.testing.assert_close(tensors_of(first), tensors_of(second), rtol=0, atol=0)
    assert texts_of(first) == texts_of(second)


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One batch of two."""
    return {
        name: torch.cat([value, second[name]]) if isinstance(value, Tensor) else value + second[name]
        for name, value in first.items()
    }


def tensors_of(batches: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    return [{name: value for name, value in batch.items() if isinstance(value, Tensor)} for batch in batches]


def texts_of(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in batch.items() if not isinstance(value, Tensor)} for batch in batches]


class TestSample:
    def test_sample__has_the_parts_and_shapes(self, folder: Path) -> None:
        sample = dataset_of(folder)[0, 2]
        assert {name: tuple(value.shape) for name, value in sample.items() if isinstance(value, Tensor)} == {
            "global_views": (3, 3, 16, 16),
            "local_views": (2, 3, 8, 8),
            "photometric": (5, 6),
            "kept_patches": (3, 3),
        }
        assert sample["global_views"].dtype == sample["local_views"].dtype == torch.uint8
        assert sample["photometric"].dtype == torch.float32
        assert sample["path"] == str(folder / "good-2.png")
        assert sample["skipped"] == []

    def test_sample__leaves_out_what_is_not_drawn(self, folder: Path) -> None:
        sample = dataset_of(folder, views=replace(VIEWS, num_local_views=0), draw_kept=None)[0, 0]
        assert sorted(sample) == ["global_views", "path", "photometric", "skipped"]
        assert sample["photometric"].shape == (3, 6)

    def test_sample__draws_differ_between_epochs_images_and_seeds(self, folder: Path) -> None:
        dataset, reseeded = dataset_of(folder), dataset_of(folder, seed=1)
        samples = [dataset[0, 0], dataset[1, 0], dataset[0, 1], dataset[1, 1], reseeded[0, 0]]
        for name in ("global_views", "local_views", "photometric", "kept_patches"):
            assert len({sample[name].numpy().tobytes() for sample in samples}) == len(samples), name

    def test_sample__draws_come_from_one_generator_in_the_stated_order(self, folder: Path) -> None:
        states: list[Tensor] = []

        def record(generator: torch.Generator) -> Tensor:
            states.append(generator.get_state())
            return draw_kept(generator)

        sample = dataset_of(folder, draw_kept=record)[2, 1]
        generator = sample_generator(0, 2, 1)
        global_views, local_views = draw_views(load_rgb(folder / "good-1.png"), VIEWS, generator)
        torch.testing.assert_close(sample["global_views"], global_views, rtol=0, atol=0)
        torch.testing.assert_close(sample["local_views"], local_views, rtol=0, atol=0)
        torch.testing.assert_close(sample["photometric"], draw_photometric(5, PHOTOMETRIC, generator), rtol=0, atol=0)
        assert torch.equal(generator.get_state(), states[0])
        torch.testing.assert_close(sample["kept_patches"], draw_kept(generator), rtol=0, atol=0)

    def test_sample__global_views_can_stay_as_they_are_without_changing_the_rest(self, folder: Path) -> None:
        changed = dataset_of(folder)[0, 0]
        plain = dataset_of(folder, photometric=replace(PHOTOMETRIC, global_views=False))[0, 0]
        torch.testing.assert_close(plain["photometric"][:3], identity_parameters(3), rtol=0, atol=0)
        assert not torch.equal(plain["photometric"], changed["photometric"])
        plain["photometric"][:3] = changed["photometric"][:3]
        assert_same([plain], [changed])

    def test_sample__without_photometric_all_parameters_are_the_identity(self, folder: Path) -> None:
        sample = dataset_of(folder, photometric=None)[0, 0]
        torch.testing.assert_close(sample["photometric"], identity_parameters(5), rtol=0, atol=0)

    def test_sample__images_of_one_pixel_and_of_floats(self, tmp_path: Path) -> None:
        Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
        Image.fromarray(np.full((5, 7), 0.5, dtype=np.float32)).save(tmp_path / "b.tiff")
        dataset = dataset_of(tmp_path)
        assert dataset[0, 0]["global_views"].flatten(2).unique(dim=2).flatten(1).tolist() == [[10, 20, 30]] * 3
        assert dataset[0, 1]["local_views"].unique().tolist() == [128]

    def test_to_uint8__rounds_floats_and_clips_overshoot(self) -> None:
        values = torch.tensor([-0.01, 0.0, 0.5, 1.0, 1.02])
        assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]


class TestDamagedImages:
    def test_damaged__are_replaced_and_named_with_the_reason(self, damaged_folder: Path) -> None:
        dataset = dataset_of(damaged_folder)
        for index in range(len(dataset)):
            sample, own = dataset[0, index], str(dataset.source[index])
            assert Path(sample["path"]).name.startswith("good-")
            assert (sample["path"] == own) == (not sample["skipped"])
            if sample["skipped"]:
                assert sample["skipped"][0].startswith(f"{own}: ")
                assert len(set(sample["skipped"])) == len(sample["skipped"])

    def test_damaged__replacement_differs_between_epochs(self, damaged_folder: Path) -> None:
        dataset = dataset_of(damaged_folder)
        assert str(dataset.source[0]).endswith("bad-cut.png")
        assert len({dataset[epoch, 0]["path"] for epoch in range(30)}) == NUM_GOOD

    def test_damaged__an_image_that_was_deleted_is_skipped(self, folder: Path) -> None:
        dataset = dataset_of(folder)
        (folder / "good-0.png").unlink()
        sample = dataset[0, 0]
        assert sample["path"] != str(folder / "good-0.png")
        assert len(sample["skipped"]) == 1
        assert sample["skipped"][0].startswith(f"{folder / 'good-0.png'}: ")

    def test_damaged__one_good_image_among_many_is_found(self, folder: Path) -> None:
        for index in range(1, NUM_GOOD):
            (folder / f"good-{index}.png").write_bytes(b"")
        sample = dataset_of(folder)[0, 3]
        assert sample["path"] == str(folder / "good-0.png")

    def test_damaged__nothing_readable_says_how_many_were_tried(self, tmp_path: Path) -> None:
        for index in range(3):
            (tmp_path / f"{index}.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"none of 3 images .*1\.png: "):
            dataset_of(tmp_path)[0, 1]

    def test_damaged__tries_end(self, tmp_path: Path) -> None:
        (tmp_path / "0.png").write_bytes(b"")
        source = open_sources([tmp_path], repeats=[10 * MAX_TRIES])
        with pytest.raises(ValueError, match=f"none of {MAX_TRIES + 1} images"):
            MultiCropDataset(source, VIEWS, None, seed=0)[0, 1]

    def test_damaged__other_mistakes_are_not_hidden(self, folder: Path) -> None:
        def fail(generator: torch.Generator) -> Tensor:
            raise ValueError("a mistake in draw_kept")

        with pytest.raises(ValueError, match="a mistake in draw_kept"):
            dataset_of(folder, draw_kept=fail)[0, 0]


class TestBatches:
    def test_batches__are_the_same_for_any_number_of_workers(self, damaged_folder: Path) -> None:
        dataset = dataset_of(damaged_folder)
        alone = batches_of(dataset, num_workers=0)
        assert any(batch["skipped"] for batch in alone)
        assert_same(alone, batches_of(dataset, num_workers=2))

    def test_batches__of_all_processes_together_are_those_of_one(self, damaged_folder: Path) -> None:
        dataset = dataset_of(damaged_folder)
        shares = [batches_of(dataset, 0, process_index=process, num_processes=2) for process in range(2)]
        joined = [join(*parts) for parts in zip(*shares, strict=True)]
        assert_same(joined, batches_of(dataset, 0))

    def test_batches__continue_where_a_run_stopped(self, damaged_folder: Path) -> None:
        dataset = dataset_of(damaged_folder)
        assert_same(batches_of(dataset, 0, start_batch=3), batches_of(dataset, 0)[3:])

    @pytest.mark.slow
    def test_batches__are_the_same_from_spawned_workers(self, damaged_folder: Path, tmp_path: Path) -> None:
        tar = write_tar(tmp_path / "a.tar", {f"{color}.png": png(color) for color in range(4)})
        dataset = MultiCropDataset(open_sources([damaged_folder, tar]), VIEWS, PHOTOMETRIC, seed=0)
        sampler = ResumableBatchSampler(len(dataset), 4, seed=0, num_batches=2)
        loader = DataLoader(
            dataset, batch_sampler=sampler, num_workers=1, collate_fn=collate_samples, multiprocessing_context="spawn"
        )
        assert_same(list(loader), batches_of(dataset, 0, num_batches=2))


def test_collate__stacks_samples_with_the_view_index_fastest(folder: Path) -> None:
    samples = [dataset_of(folder)[0, index] for index in range(2)]
    samples[0]["skipped"], samples[1]["skipped"] = ["a: why"], ["b: why", "c: why"]
    batch = collate_samples(samples)
    assert batch["global_views"].shape == (2, 3, 3, 16, 16)
    assert batch["local_views"].shape == (2, 2, 3, 8, 8)
    assert batch["photometric"].shape == (2, 5, 6)
    assert batch["kept_patches"].shape == (6, 3)
    torch.testing.assert_close(batch["kept_patches"][3:], samples[1]["kept_patches"], rtol=0, atol=0)
    assert batch["paths"] == [str(folder / "good-0.png"), str(folder / "good-1.png")]
    assert batch["skipped"] == ["a: why", "b: why", "c: why"]


def test_dataset__refuses_an_empty_source() -> None:
    with pytest.raises(ValueError, match="no images"):
        MultiCropDataset([], VIEWS, None, seed=0)


class TestFaults:
    @pytest.mark.parametrize("error", [IndexError("x"), TypeError("x"), RuntimeError("x"), KeyError("x")])
    def test_whatever_one_image_raises__is_skipped_with_its_name(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        dataset = dataset_of(folder)
        make = dataset.view_maker

        def fail_once(image: Path, generator: torch.Generator) -> dict[str, Any]:
            if Path(image).name == "good-1.png":
                raise error
            return make(image, generator)

        monkeypatch.setattr(dataset, "view_maker", fail_once)
        (entry,) = dataset[0, 1]["skipped"]
        assert entry.startswith(f"{folder / 'good-1.png'}: ")

    def test_source_that_cannot_give_one_image__is_skipped_too(self, folder: Path) -> None:
        class Failing(list[Path]):
            def __getitem__(self, index: Any) -> Any:
                if index == 1:
                    raise FileNotFoundError("gone")
                return super().__getitem__(index)

        dataset = MultiCropDataset(Failing(sorted(folder.iterdir())), VIEWS, None, 0)
        assert dataset[0, 1]["skipped"] == ["image 1: gone"]

    @pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "x")])
    def test_full_machine__ends_the_run(self, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        def fail(image: Path, generator: torch.Generator) -> dict[str, Any]:
            raise error

        dataset = dataset_of(folder)
        monkeypatch.setattr(dataset, "view_maker", fail)
        with pytest.raises(type(error)):
            dataset[0, 1]
