"""What is settled before a run starts: the accelerator, sizes of views, notes for the user."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.modeling import StellarConfig
from stellar_hub.training import start as module
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.start import (
    build_accelerator,
    check_launch,
    check_launcher,
    check_same_step,
    resolve_recipe,
    resolve_sizes,
    warnings_at_start,
)
from tests.stellar_hub.training.conftest import SOP, changed, recipe_for, tiny_recipe_values

CONFIG = tiny_recipe_values()["model"]["config"]


def config(**options: Any) -> StellarConfig:
    return StellarConfig(**(CONFIG | options))


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe, without images."""
    return recipe_for(Path("images"))


class TestAccelerator:
    def test_precision__may_change_within_a_process(self, recipe: Recipe, tmp_path: Path) -> None:
        for precision, mixed in (("fp32", "no"), ("bf16", "bf16"), ("auto", "no"), ("fp64", "no")):
            accelerator = build_accelerator(changed(recipe, f"precision={precision}").run, tmp_path, cpu=True)
            assert accelerator.mixed_precision == mixed
            assert accelerator.device == torch.device("cpu")

    @pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
    def test_tracker__that_is_not_installed_is_named(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
    ) -> None:
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=rf"run\.trackers .*pip install {tracker}"):
            build_accelerator(changed(recipe, f"trackers=[{tracker}]").run, tmp_path)

    def test_first_version_of_fsdp__is_refused_on_a_cpu_too(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "1")
        with pytest.raises(ValueError, match=r"FSDP 1.*--fsdp_version 2"):
            build_accelerator(recipe.run, tmp_path, cpu=True)


class TestLaunch:
    @staticmethod
    def launched(kind: str, num_processes: int = 2, parallelism: object = None) -> Any:
        return SimpleNamespace(
            distributed_type=DistributedType(kind), num_processes=num_processes, parallelism_config=parallelism
        )

    @pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU", "FSDP"])
    def test_data_parallel_and_sharded_training__are_supported(self, kind: str) -> None:
        check_launch(self.launched(kind), 2)

    @pytest.mark.parametrize(
        ("accelerator", "message"),
        [
            (("DEEPSPEED",), "DEEPSPEED.*--use_fsdp"),
            (("XLA",), "XLA"),
            (("MULTI_GPU", 2, SimpleNamespace()), "parallelism_config"),
            (("NO", 1), "2 processes.*--cpu"),
        ],
    )
    def test_others__are_refused(self, accelerator: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_launch(self.launched(*accelerator), 2)

    def test_launcher__that_starts_one_process_for_several_is_refused_with_what_to_write(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match="accelerate launch --multi_gpu --num_processes 2"):
            build_accelerator(recipe.run, tmp_path, cpu=True)
        monkeypatch.setenv("WORLD_SIZE", "2")
        check_launcher()

    def test_launcher__of_one_process_is_fine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
        check_launcher()

    def test_processes__that_see_other_checkpoints_are_refused(self, tmp_path: Path) -> None:
        accelerator: Any = SimpleNamespace(device=torch.device("cpu"), gather=lambda step: torch.tensor([200, 0]))
        with pytest.raises(ValueError, match=r"steps 200, 0: --output"):
            check_same_step(accelerator, tmp_path, 200)


class TestMemories:
    def test_batch_above_a_memory__is_an_error_before_the_run(self, recipe: Recipe) -> None:
        sop = changed(recipe, *SOP)
        options = sop.model.config
        assert resolve_recipe(sop, StellarConfig(**options)).model.config["sop_memory_size"] == 18
        with pytest.raises(ValueError, match=r"memory of tokens .*global batch, 15"):
            resolve_recipe(changed(sop, "batch_size=15"), StellarConfig(**options))

    def test_balance_of_prototypes__is_no_concern(self, recipe: Recipe) -> None:
        assert warnings_at_start(changed(recipe, *SOP, "gradient_accumulation_steps=2"), 2048, 6, 1) == []


class TestSizes:
    @pytest.mark.parametrize(
        ("image_size", "patch_size", "local_size"), [(224, 16, 96), (224, 14, 84), (32, 8, 8), (16, 16, 16)]
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
        larger = changed(recipe, "data.image_size=64", "local_size=24")
        assert resolve_sizes(larger, config()) == larger

    @pytest.mark.parametrize("name", ["image_size", "local_size"])
    @pytest.mark.parametrize(("size", "nearest"), [(1, "8"), (20, "16 or 24")])
    def test_other_sizes__are_refused_with_the_nearest(
        self, recipe: Recipe, name: str, size: int, nearest: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"data\.{name} must .* patch size 8, such as {nearest}; got {size}"):
            resolve_sizes(changed(recipe, f"data.{name}={size}"), config())

    @pytest.mark.parametrize("options", [{"teacher_momentum": 0.9}, {"use_global_align": True}])
    def test_one_global_view__is_enough_only_without_teacher_and_align(
        self, recipe: Recipe, options: dict[str, Any]
    ) -> None:
        one = changed(recipe, "num_global_views=1")
        assert resolve_sizes(one, config()).data.num_global_views == 1
        with pytest.raises(ValueError, match=r"data\.num_global_views must be at least 2, got 1"):
            resolve_sizes(one, config(**options))

    def test_local_views__are_not_read_where_the_model_has_no_use_for_them(self, recipe: Recipe) -> None:
        assert resolve_sizes(recipe, config(use_local_views=False)).data.num_local_views == 0


class TestWarnings:
    @pytest.mark.parametrize(
        ("overrides", "arguments", "words"),
        [
            ((), (16, 6, 1), []),
            ((), (17, 6, 1), ["17", "model.config.num_prototypes"]),
            (("gradient_accumulation_steps=2",), (4, 6, 1), ["accumulation"]),
            ((), (4, 3, 1), ["3 images", "batch of 4"]),
            (("num_workers=2",), (4, 6, 2), []),
            (("num_workers=2",), (4, 6, 3), ["3 processes", "2 data workers", "4 cores"]),
        ],
    )
    def test_settings_that_may_waste_a_run__are_named(
        self,
        recipe: Recipe,
        monkeypatch: pytest.MonkeyPatch,
        overrides: tuple[str, ...],
        arguments: tuple[int, int, int],
        words: list[str],
    ) -> None:
        monkeypatch.setattr(module, "num_cores", lambda: 4)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        found = warnings_at_start(changed(recipe, *overrides), *arguments)
        assert len(found) == bool(words)
        assert all(word in found[0] for word in words)

    def test_workers__are_counted_per_machine(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "num_cores", lambda: 8)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert warnings_at_start(changed(recipe, "num_workers=2"), 4, 6, num_processes=16) == []
