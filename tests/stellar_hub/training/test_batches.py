"""The batches of a run: views of a recipe, loaders, and the images that could not be read."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.data.sources import JoinedSources, open_sources
from stellar_hub.data.workers import default_num_workers
from stellar_hub.modeling import StellarConfig
from stellar_hub.training.batches import (
    SkippedImages,
    build_loader,
    group_batches,
    kept_patch_sampler,
    num_data_workers,
    stamps_digest,
)
from stellar_hub.training.recipes.sections import Recipe
from tests.stellar_hub.training.conftest import changed, draw_images, recipe_for, tiny_recipe_values


def config(**options: Any) -> StellarConfig:
    return StellarConfig(**(tiny_recipe_values()["model"]["config"] | options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six images."""
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe, without images."""
    return recipe_for(Path("images"))


class TestKeptPatches:
    def test_kept__are_those_of_each_global_view(self, recipe: Recipe) -> None:
        draw = kept_patch_sampler(recipe, config())
        assert draw is not None
        kept = draw(torch.Generator().manual_seed(0))
        assert kept.shape == (2, 8)  # half of 16 patches
        again = pickle.loads(pickle.dumps(draw))  # as workers that are spawned get it
        torch.testing.assert_close(again(torch.Generator().manual_seed(0)), kept)

    def test_sampler__is_none_without_masks(self, recipe: Recipe) -> None:
        assert kept_patch_sampler(recipe, config(mask_ratio=None)) is None


def loader_of(
    folder: Path, *overrides: str, process: int = 0, processes: int = 1, start: int = 0, **options: Any
) -> Any:
    accelerator: Any = SimpleNamespace(process_index=process, num_processes=processes, device=torch.device("cpu"))
    source: Any = open_sources([folder])
    return build_loader(recipe_for(folder, *overrides), source, config(**options), accelerator, 5, start)


class TestLoader:
    def test_batches__have_the_views_of_the_recipe(self, folder: Path) -> None:
        batches = list(loader_of(folder))
        assert len(batches) == 5
        assert batches[0]["global_views"].shape == (4, 2, 3, 32, 32)
        assert batches[0]["local_views"].shape == (4, 2, 3, 16, 16)
        assert batches[0]["kept_patches"].shape == (8, 8)
        assert len(batches[0]["paths"]) == 4

    def test_num_tokens__are_drawn_beside_the_views_and_change_nothing_else(self, folder: Path) -> None:
        plain, ordered = next(iter(loader_of(folder))), next(iter(loader_of(folder, nested_dropout=0.5)))
        assert (ordered["num_tokens"].shape, ordered["num_tokens"].dtype) == ((4,), torch.int64)
        assert "num_tokens" not in plain
        for name in ("global_views", "local_views", "photometric", "kept_patches"):
            torch.testing.assert_close(ordered[name], plain[name], rtol=0, atol=0)

    def test_start__leaves_out_what_is_done(self, folder: Path) -> None:
        whole, rest = list(loader_of(folder)), list(loader_of(folder, start=3))
        assert len(rest) == 2
        torch.testing.assert_close(rest[0]["global_views"], whole[3]["global_views"], rtol=0, atol=0)
        assert rest[1]["paths"] == whole[4]["paths"]

    def test_processes__share_the_batch(self, folder: Path) -> None:
        whole = next(iter(loader_of(folder)))
        halves = [next(iter(loader_of(folder, process=process, processes=2))) for process in (0, 1)]
        for name in ("global_views", "local_views", "kept_patches", "photometric"):
            torch.testing.assert_close(torch.cat([half[name] for half in halves]), whole[name], rtol=0, atol=0)

    def test_batch__that_processes_cannot_share_is_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"batch_size is 4.* 3 processes"):
            loader_of(folder, processes=3)


def test_num_workers__is_given_or_a_share_of_this_machines_cores(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert num_data_workers(changed(recipe, "num_workers=3"), num_processes=16) == 3
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    open_number = changed(recipe, "num_workers=null")
    assert num_data_workers(open_number, num_processes=1) == default_num_workers()
    monkeypatch.setattr("stellar_hub.data.workers.num_cores", lambda: 8)
    assert num_data_workers(open_number, num_processes=4) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert num_data_workers(open_number, num_processes=4) == 4


@given(st.integers(0, 9), st.integers(1, 4))
def test_grouped_batches__are_complete_and_in_order(num_batches: int, per_step: int) -> None:
    loader: Any = [{"index": index} for index in range(num_batches)]
    groups = list(group_batches(loader, per_step))
    assert len(groups) == num_batches // per_step
    assert [batch["index"] for group in groups for batch in group] == list(range(len(groups) * per_step))


def test_skipped_images__are_counted_once_and_announced_once() -> None:
    skipped = SkippedImages(["old.png"])
    skipped.add([{"skipped": ["old.png", "a.png"]}, {"skipped": ["a.png", "b.png"]}])
    assert len(skipped) == 1
    skipped.share()
    assert skipped.new_entries() == [(2, "a.png"), (3, "b.png")]
    assert skipped.new_entries() == []
    assert len(skipped) == 3


@pytest.mark.slow
@pytest.mark.parametrize("device_crops", ["false", "true"])
def test_loader__makes_the_same_batches_in_workers_that_are_spawned(folder: Path, device_crops: str) -> None:
    crops = f"device_crops={device_crops}"
    loader = loader_of(folder, "num_workers=1", crops)
    loader.multiprocessing_context = "spawn"
    for found, expected in zip(loader, loader_of(folder, crops), strict=True):
        assert found["paths"] == expected["paths"]
        torch.testing.assert_close(list(found.get("images", [])), list(expected.get("images", [])), rtol=0, atol=0)
        torch.testing.assert_close(found["photometric"], expected["photometric"], rtol=0, atol=0)


def test_skipped_images__are_kept_without_secrets_and_on_one_line() -> None:
    skipped = SkippedImages()
    skipped.add([{"skipped": ["https://me:SECRET@host/a.tar?sig=SECRET/x\x1b[2J.png: it is\ncut short"]}])
    skipped.share()
    ((number, entry),) = skipped.new_entries()
    assert number == 1
    assert "SECRET" not in entry
    assert entry.startswith("https://***@host/a.tar")
    assert entry.isprintable()


class TestStamps:
    def digest(self, *stamps: str) -> str | None:
        """The digest of sources whose images have these stamps."""

        class Part(list[str]):
            def stamp(self, index: int) -> str:
                return self[index]

        source: Any = Part(stamps)
        return stamps_digest(JoinedSources([source]))

    def test_digest__changes_with_a_stamp(self) -> None:
        assert self.digest("1 2", "3") == self.digest("1 2", "3") != self.digest("1", "2 3")
        assert self.digest("1 2", "3") != self.digest("1 2", "4")

    def test_digest__is_unknown_without_stamps(self) -> None:
        assert self.digest("", "") is None
        source: Any = SimpleNamespace(shards=("a.tar",))
        assert stamps_digest(source) is None

    def test_digest__of_a_folder_changes_with_the_time_of_a_file(self, tmp_path: Path) -> None:
        folder = draw_images(tmp_path / "images", 2)
        before = stamps_digest(open_sources([folder]))
        os.utime(folder / "image-1.png", ns=(1, 1))
        assert before is not None
        assert stamps_digest(open_sources([folder])) not in (before, None)
