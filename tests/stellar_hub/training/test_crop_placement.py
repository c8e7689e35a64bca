"""Where views are cut: decided by a measurement, kept by a resumed run, and nearly the same weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from stellar_hub.data.sources import open_sources
from stellar_hub.training import crop_placement as module
from stellar_hub.training.crop_placement import (
    choose_crop_placement,
    repeat_samples,
    time_samples,
)
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import Run, build_run
from stellar_hub.training.step_choices import time_step
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import changed, recipe_for


@pytest.fixture
def run(tiny_recipe: Recipe, tmp_path: Path) -> Run:
    return build_run(tiny_recipe, tmp_path / "run", cpu=True)


def place(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, step: float, sample: float) -> Any:
    """Where crops go on a GPU whose step takes `step` seconds, and whose four workers take `sample` for one."""
    accelerator = SimpleNamespace(device=torch.device("cuda"), num_processes=1)
    stepper: Any = SimpleNamespace(accelerator=accelerator, model=run.model)
    monkeypatch.setattr(module, "time_samples", lambda *args: ([], sample))
    monkeypatch.setattr(module, "repeat_samples", lambda samples, count: None)
    monkeypatch.setattr(module, "time_step", lambda *args: (step, 0.0))
    monkeypatch.setattr(module, "broadcast_object_list", lambda values: values)
    recipe = changed(run.recipe, "data.device_crops=null", "optimization.batch_size=8", "num_workers=4")
    source: Any = open_sources([folder])
    return choose_crop_placement(recipe, source, stepper)


@pytest.mark.parametrize(("step", "sample", "expected"), [(0.1, 0.01, False), (0.1, 0.1, True)])
def test_null__is_decided_by_what_was_measured(
    run: Run, image_folder: Path, monkeypatch: pytest.MonkeyPatch, step: float, sample: float, expected: bool
) -> None:
    recipe, (sentence,) = place(run, image_folder, monkeypatch, step, sample)
    assert recipe.data.device_crops is expected
    for words in ("device" if expected else "the workers cut", "4 workers", f"{4 / sample:.0f} images", "takes 80"):
        assert words in sentence


def test_null_on_a_cpu__is_in_the_workers(tiny_recipe: Recipe, tmp_path: Path) -> None:
    run = build_run(changed(tiny_recipe, "data.device_crops=null"), tmp_path / "run", cpu=True)
    assert run.recipe.data.device_crops is False


def test_measuring__leaves_model_and_random_numbers_as_they_were(run: Run, image_folder: Path) -> None:
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    state = torch.get_rng_state()
    samples, seconds = time_samples(run.recipe, open_sources([image_folder]), run.model.config)
    assert len(samples) == 6
    assert seconds > 0
    assert time_step(run.stepper, repeat_samples(samples, 4))[0] > 0
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_training_with_views_cut_by_the_device__is_nearly_that_of_the_workers(
    image_folder: Path, tmp_path: Path
) -> None:
    weights = []
    for choice in ("true", "false"):
        recipe = recipe_for(image_folder, f"data.device_crops={choice}", "optimization.optimizer=sgd", "steps=2")
        weights.append(load_file(train(recipe, tmp_path / choice, cpu=True) / "model.safetensors"))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-2, atol=1e-3)
