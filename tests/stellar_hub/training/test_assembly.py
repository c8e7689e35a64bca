"""From a recipe to the parts of a run, and what is wrong with one before time is spent on it."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from hypothesis import assume, given
from hypothesis import strategies as st

from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarConfig
from stellar_hub.training import assembly as module
from stellar_hub.training.assembly import (
    KeptPatches,
    batches_of_steps,
    build_accelerator,
    build_loader,
    compile_blocks,
    kept_patches_of,
    resolve_sizes,
    warnings_at_start,
)
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.recipes.sections import Recipe
from tests.stellar_hub.training.conftest import changed, recipe_for, tiny_recipe_values

CONFIG = tiny_recipe_values()["model"]["config"]


def config(**options: Any) -> StellarConfig:
    return StellarConfig(**(CONFIG | options))


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe, without images."""
    return recipe_for(Path("images"))


class TestAccelerator:
    @pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("auto", "no"), ("bf16", "bf16"), ("fp64", "no")])
    def test_precision__on_a_cpu(self, recipe: Recipe, tmp_path: Path, precision: str, mixed: str) -> None:
        accelerator = build_accelerator(changed(recipe, f"precision={precision}").run, tmp_path, cpu=True)
        assert accelerator.mixed_precision == mixed
        assert accelerator.device == torch.device("cpu")

    @pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
    def test_tracker__that_is_not_installed_is_named_with_the_way_to_get_it(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
    ) -> None:
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        message = rf"run\.trackers names {tracker}, which is not installed: pip install {tracker}"
        with pytest.raises(ImportError, match=message):
            build_accelerator(changed(recipe, f"trackers=[{tracker}]").run, tmp_path)

    def test_another_precision__may_follow_in_the_same_process(self, recipe: Recipe, tmp_path: Path) -> None:
        for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
            accelerator = build_accelerator(changed(recipe, f"precision={precision}").run, tmp_path, cpu=True)
            assert accelerator.mixed_precision == mixed


@pytest.mark.parametrize("kind", ["DEEPSPEED", "MEGATRON_LM", "XLA"])
def test_other_kinds_of_training__are_refused(kind: str) -> None:
    accelerator: Any = SimpleNamespace(distributed_type=DistributedType(kind), num_processes=2)
    message = rf"accelerate is set up for {kind}, .* choose plain data parallelism.* `accelerate launch --use_fsdp"
    with pytest.raises(ValueError, match=message):
        module.check_together(accelerator, 2)


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU", "FSDP"])
def test_data_parallel_and_sharded_training__are_done(kind: str) -> None:
    accelerator: Any = SimpleNamespace(distributed_type=DistributedType(kind), num_processes=2, parallelism_config=None)
    module.check_together(accelerator, 2)
    accelerator.parallelism_config = SimpleNamespace()
    with pytest.raises(ValueError, match=r"accelerate is set up with a parallelism_config, .* leave it out"):
        module.check_together(accelerator, 2)


def test_first_version_of_fsdp__is_refused_on_a_cpu_too(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match=r"FSDP 1 is asked for, .* `accelerate launch --use_fsdp --fsdp_version 2`"):
        build_accelerator(recipe.run, tmp_path, cpu=True)


class TestSizes:
    @pytest.mark.parametrize(
        ("image_size", "patch_size", "local_size"),
        [(224, 16, 96), (224, 14, 84), (64, 8, 24), (32, 8, 8), (16, 16, 16)],
    )
    def test_sizes__follow_from_the_model(
        self, recipe: Recipe, image_size: int, patch_size: int, local_size: int
    ) -> None:
        open_sizes = changed(recipe, "data.image_size=null", "local_size=null")
        found = resolve_sizes(open_sizes, config(image_size=image_size, patch_size=patch_size)).data
        assert (found.image_size, found.local_size) == (image_size, local_size)

    @given(st.integers(1, 40), st.integers(1, 32))
    def test_sizes__are_whole_patches(self, side: int, patch_size: int) -> None:
        open_sizes = recipe_for(Path("images"), "data.image_size=null", "local_size=null")
        found = resolve_sizes(open_sizes, config(image_size=side * patch_size, patch_size=patch_size)).data
        assert found.local_size is not None
        assert found.image_size == side * patch_size
        assert 0 < found.local_size <= found.image_size
        assert found.local_size % patch_size == 0

    def test_given_sizes__are_kept_and_nothing_else_changes(self, recipe: Recipe) -> None:
        assert resolve_sizes(recipe, config()) == recipe
        larger = changed(recipe, "data.image_size=64", "local_size=24")
        assert resolve_sizes(larger, config()) == larger

    @given(st.integers(1, 100), st.sampled_from(["image_size", "local_size"]))
    def test_other_sizes__are_refused_with_the_nearest(self, size: int, name: str) -> None:
        assume(size % 8)
        nearest = " or ".join(str(near) for near in (size // 8 * 8, size // 8 * 8 + 8) if near)
        message = rf"data\.{name} {size} is not a multiple of the patch size 8; nearest: {nearest}$"
        with pytest.raises(ValueError, match=message):
            resolve_sizes(recipe_for(Path("images"), f"data.{name}={size}"), config())

    @pytest.mark.parametrize("options", [{"teacher_momentum": 0.9}, {"use_global_align": True}])
    def test_one_global_view__is_too_few_for_a_second(self, recipe: Recipe, options: dict[str, Any]) -> None:
        message = r"data\.num_global_views is 1, but teacher_momentum and use_global_align .* 2 or more"
        with pytest.raises(ValueError, match=message):
            resolve_sizes(changed(recipe, "num_global_views=1"), config(**options))

    def test_one_global_view__is_enough_otherwise(self, recipe: Recipe) -> None:
        assert resolve_sizes(changed(recipe, "num_global_views=1"), config()).data.num_global_views == 1

    def test_local_views__are_not_read_where_the_model_has_no_use_for_them(self, recipe: Recipe) -> None:
        assert resolve_sizes(recipe, config(use_local_views=False)).data.num_local_views == 0


class TestKeptPatches:
    def test_kept__are_of_each_global_view(self, recipe: Recipe) -> None:
        draw = kept_patches_of(recipe, config())
        assert draw is not None
        kept = draw(torch.Generator().manual_seed(0))
        assert kept.shape == (2, 8)  # half of 16 patches
        torch.testing.assert_close(draw(torch.Generator().manual_seed(0)), kept)

    def test_kept__reach_workers_that_are_spawned(self, recipe: Recipe) -> None:
        draw = kept_patches_of(recipe, config())
        assert pickle.loads(pickle.dumps(draw)) == draw
        assert isinstance(draw, KeptPatches)

    def test_kept__is_none_without_masks(self, recipe: Recipe) -> None:
        assert kept_patches_of(recipe, config(mask_ratio=None)) is None


def loader_of(folder: Path, *overrides: str, process: int = 0, processes: int = 1, start: int = 0) -> Any:
    accelerator: Any = SimpleNamespace(process_index=process, num_processes=processes, device=torch.device("cpu"))
    return build_loader(recipe_for(folder, *overrides), open_sources([folder]), config(), accelerator, 5, start)


class TestLoader:
    def test_batches__have_what_the_recipe_asks_for(self, image_folder: Path) -> None:
        batches = list(loader_of(image_folder))
        assert len(batches) == 5
        assert batches[0]["global_views"].shape == (4, 2, 3, 32, 32)
        assert batches[0]["local_views"].shape == (4, 2, 3, 16, 16)
        assert batches[0]["kept_patches"].shape == (8, 8)
        assert len(batches[0]["paths"]) == 4

    def test_start__leaves_out_what_is_done(self, image_folder: Path) -> None:
        whole, rest = list(loader_of(image_folder)), list(loader_of(image_folder, start=3))
        assert len(rest) == 2
        torch.testing.assert_close(rest[0]["global_views"], whole[3]["global_views"], rtol=0, atol=0)
        assert rest[1]["paths"] == whole[4]["paths"]

    def test_processes__share_the_batch(self, image_folder: Path) -> None:
        whole = next(iter(loader_of(image_folder)))
        halves = [next(iter(loader_of(image_folder, process=process, processes=2))) for process in (0, 1)]
        for name in ("global_views", "local_views", "kept_patches", "photometric"):
            torch.testing.assert_close(torch.cat([half[name] for half in halves]), whole[name], rtol=0, atol=0)

    def test_batch__that_processes_cannot_share_is_refused(self, image_folder: Path) -> None:
        message = "batch_size is 4 over all processes, which 3 processes cannot share evenly; choose a multiple of 3"
        with pytest.raises(ValueError, match=message):
            loader_of(image_folder, processes=3)


class TestWarnings:
    def test_nothing_unusual__is_said_nothing_of(self, recipe: Recipe) -> None:
        assert warnings_at_start(recipe, 4, 6, 1) == []

    def test_batch__far_below_the_recipes(self, recipe: Recipe) -> None:
        assert warnings_at_start(recipe, 16, 6, 1) == []
        (found,) = warnings_at_start(recipe, 17, 6, 1)
        assert found.startswith("the batch is 4, the recipe was made for 17: prototypes are balanced over one batch")
        assert "lower model.config.num_prototypes" in found

    def test_accumulation__does_not_enlarge_what_is_balanced(self, recipe: Recipe) -> None:
        (found,) = warnings_at_start(changed(recipe, "gradient_accumulation_steps=2"), 4, 6, 1)
        assert found.startswith("gradient accumulation does not enlarge what prototypes are balanced over")
        assert found.endswith("batch of 4")

    def test_few_images__come_more_than_once_in_a_batch(self, recipe: Recipe) -> None:
        (found,) = warnings_at_start(recipe, 4, 3, 1)
        assert found == "there are 3 images for a batch of 4: it holds some more than once"

    def test_many_workers__for_few_cores(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "num_cores", lambda: 4)
        assert warnings_at_start(changed(recipe, "num_workers=2"), 4, 6, 2) == []
        (found,) = warnings_at_start(changed(recipe, "num_workers=2"), 4, 6, 3)
        assert found == "2 data workers for each of 3 processes, on 4 cores"

    @pytest.mark.parametrize(
        ("cores", "num_processes", "expected"), [(1, 1, 1), (2, 1, 2), (4, 2, 2), (2, 8, 1), (64, 1, 8), (64, 16, 4)]
    )
    def test_open_number_of_workers__is_what_the_machine_has(
        self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, cores: int, num_processes: int, expected: int
    ) -> None:
        monkeypatch.setattr(module, "num_cores", lambda: cores)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        open_number = changed(recipe, "num_workers=null", "batch_size=16")
        assert module.num_data_workers(open_number, num_processes) == expected
        assert warnings_at_start(open_number, 16, 16, num_processes) == []

    def test_workers__are_counted_per_machine(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "num_cores", lambda: 8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert module.num_data_workers(changed(recipe, "num_workers=null"), num_processes=16) == 2
        assert warnings_at_start(changed(recipe, "num_workers=2"), 4, 6, num_processes=16) == []


@pytest.mark.parametrize("options", [{}, {"teacher_momentum": 0.9}, {"use_decoder": False}])
def test_compiled_blocks__keep_the_names_of_weights(options: dict[str, Any]) -> None:
    model = StellarForPreTraining(config(**options))
    names = list(model.state_dict())
    compile_blocks(model)
    assert list(model.state_dict()) == names


@given(st.integers(0, 9), st.integers(1, 4))
def test_batches_of_steps__are_whole_groups_in_order(num_batches: int, per_step: int) -> None:
    loader: Any = [{"index": index} for index in range(num_batches)]
    groups = list(batches_of_steps(loader, per_step))
    assert len(groups) == num_batches // per_step
    assert [batch["index"] for group in groups for batch in group] == list(range(len(groups) * per_step))
