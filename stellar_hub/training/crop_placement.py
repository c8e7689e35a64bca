"""Where views are cut, in the data workers or on the device: measured at the start where the recipe leaves it open."""

import dataclasses
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import ImageStream
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.training.assembly import kept_patches_of, view_settings
from stellar_hub.training.checkpoints.run_folder import RECIPE_FILE
from stellar_hub.training.monitoring.previews import first_images, spread_images
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.step import Stepper

NUM_TIMED = 12  # images
ENOUGH = 1.1  # images made for each that is taken; below, the device would wait


def remember_crops(recipe: Recipe, start: Path | None) -> Recipe:
    """A resumed run cuts its views where it has before."""
    saved = None if start is None else start.absolute().parents[1] / RECIPE_FILE
    if recipe.data.device_crops is not None or saved is None or not saved.is_file():
        return recipe
    return with_crops(recipe, load_recipe(saved).data.device_crops)


def place_crops(
    recipe: Recipe, source: JoinedSources | ImageStream, stepper: Stepper, num_workers: int
) -> tuple[Recipe, list[str]]:
    """Settle `data.device_crops`, and say why; all processes of a group call it together.

    Raises:
        ValueError: if none of the images tried can be read.
    """
    accelerator = stepper.accelerator
    if recipe.data.device_crops is not None:
        return recipe, []
    if accelerator.device.type == "cpu":
        return with_crops(recipe, False), []
    samples, seconds = time_samples(recipe, source, stepper.bare.config)
    made = max(1, num_workers) / seconds
    share = recipe.optimization.batch_size // accelerator.num_processes
    taken = share / time_step(stepper, repeated(samples, share))
    decided = broadcast_object_list([made < ENOUGH * taken])[0]
    where = "on the device" if decided else "in the workers"
    return with_crops(recipe, decided), [
        f"views are cut {where}: {num_workers} workers would cut those of {made:.0f} images a second, training takes "
        f"{taken:.0f}"
    ]


def with_crops(recipe: Recipe, device_crops: bool | None) -> Recipe:
    """The recipe with that value."""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, device_crops=device_crops))


def time_samples(
    recipe: Recipe, source: JoinedSources | ImageStream, config: Any
) -> tuple[list[dict[str, Any]], float]:
    """Samples as a worker makes them, and the median seconds that one takes."""
    settings = dataclasses.replace(view_settings(recipe), device_crops=False)
    make = ViewMaker(settings, recipe.augmentation, kept_patches_of(recipe, config))
    images = spread_images(source) if isinstance(source, JoinedSources) else first_images(source)
    samples, seconds = [], []
    for index, image in enumerate(itertools.islice(images, 4 * NUM_TIMED)):
        start = time.perf_counter()
        try:
            sample = make(image, sample_generator(recipe.run.seed, 0, index))
        except (ValueError, OSError):
            continue
        seconds.append(time.perf_counter() - start)
        samples.append({**sample, "path": "", "skipped": []})
        if len(samples) == NUM_TIMED:
            break
    if not samples:
        raise ValueError("none of the images tried can be read")
    return samples, statistics.median(seconds)


def repeated(samples: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """A batch of `count` samples."""
    return collate_samples(list(itertools.islice(itertools.cycle(samples), count)))


def time_step(stepper: Stepper, batch: dict[str, Any]) -> float:
    """Seconds of forward and backward of a batch, the second time; the model is left as it was."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        stepper.accumulate(batch, [batch])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    stepper.optimizer.zero_grad(set_to_none=True)
    return seconds
