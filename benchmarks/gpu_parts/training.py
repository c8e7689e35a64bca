"""A training step as `stellar-hub train` does it, compared with the same encoding and naive losses."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainer_step import build
from training_step import Step

from gpu_parts.inference import TINY
from gpu_parts.measure import Bench, medians, own_memory
from stellar_hub.training.recipes.files import load_recipe, save_recipe
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.step_choices import noise_batch

NAIVE, PLAIN, TRAIN = "naive losses", "ours, one operation after the other", "ours, as train runs it"
SMOKE_CONFIG = TINY | {
    "intermediate_size": 96,
    "image_size": 64,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "reconstruction_head": "pixel",
    "num_prototypes": 64,
    "prototype_dim": 16,
    "prototype_hidden_size": 32,
}


def training_step(bench: Bench, recipe_name: str, images: int) -> None:
    """Measures the steps of one recipe. A step is forward, backward, the optimizer and what belongs to it."""
    group, images = f"training step {recipe_name}, {images} images", 2 if bench.smoke else images
    recipe = recipe_of(bench, recipe_name, images)
    with own_memory(bench.device):
        bench.attempt(group, NAIVE, 10, lambda: measure_naive(bench, group, recipe, images))
    with own_memory(bench.device):
        bench.attempt(group, TRAIN, 10, lambda: measure_train(bench, group, recipe))


def recipe_of(bench: Bench, name: str, images: int) -> Recipe:
    """Returns a recipe with this batch size, in a smoke run with a tiny model."""
    sets = [f"optimization.batch_size={images}", "optimization.epochs=null", "optimization.steps=1000"]
    if bench.smoke:
        sets += [f"model.config.{key}={value}" for key, value in SMOKE_CONFIG.items()]
        sets += ["data.image_size=64", "data.local_size=32"]
    return load_recipe(name, sets)


def measure_naive(bench: Bench, group: str, recipe: Recipe, images: int) -> bool:
    """Measures `benchmarks/training_step.py`'s step with naive losses and with ours, one operation after the other."""
    with tempfile.TemporaryDirectory() as folder:
        save_recipe(recipe, Path(folder) / "recipe.yaml")
        options = {"images": images, "device": bench.device.type, "precision": "bfloat16"}
        step = Step(argparse.Namespace(recipe=str(Path(folder) / "recipe.yaml"), **options))
    calls: dict[str, Callable[[], Any]] = {NAIVE: lambda: step.run("naive losses"), PLAIN: lambda: step.run("ours")}
    emit(bench, group, medians(calls, bench), images)
    return True


def measure_train(bench: Bench, group: str, recipe: Recipe) -> bool:
    """Measures the step of a run, with what it chooses at its start."""
    recipe, stepper, notes = build(recipe, bench.device.type, plain=False)
    batch = noise_batch(recipe, stepper)
    batch = {name: pinned(value, bench.device) for name, value in batch.items()}
    seconds = medians({TRAIN: lambda: stepper.step(1, [batch])}, bench)
    emit(bench, group, seconds, recipe.optimization.batch_size, "; ".join(notes))
    stepper.captured = None
    return True


def pinned(value: Any, device: torch.device) -> Any:
    """Returns a tensor in pinned memory if it goes to a GPU, as data loaders give it."""
    return value.pin_memory() if isinstance(value, torch.Tensor) and device.type == "cuda" else value


def emit(bench: Bench, group: str, seconds: dict[str, float], images: int, report: str = "") -> None:
    """Emits a row for each way."""
    alone = bench.device.type == "cuda" and len(seconds) == 1  # else the peak is that of the others, too
    peak = torch.cuda.max_memory_allocated() / 1e9 if alone else None
    for name, each in seconds.items():
        values = {"ms": 1e3 * each, "per_second": images / each, "peak_gb": peak}
        bench.row(group, name, **values, **({"report": report} if report else {}))
