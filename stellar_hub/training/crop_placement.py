"""Where views are cut, in the data workers or on the device. A run measures it where the recipe leaves it open."""

import dataclasses
import itertools
import statistics
import time
from typing import Any

from accelerate.utils import broadcast_object_list

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import ImageStream
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.image_loading import is_fault_of_machine
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.training.batches import kept_patch_sampler, num_data_workers, view_settings
from stellar_hub.training.model.ordered_tokens import num_tokens_sampler
from stellar_hub.training.monitoring.previews import some_images
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.step import Stepper
from stellar_hub.training.step_choices import time_step

NUM_TIMED_IMAGES = 12
MIN_WORKER_SPEED = 1.1  # images that workers make for each one that a step takes; below, the device would wait


def choose_crop_placement(
    recipe: Recipe, source: JoinedSources | ImageStream, stepper: Stepper
) -> tuple[Recipe, list[str]]:
    """Decides whether workers or the device cut the views, where the recipe leaves it open; by measuring, on a GPU.

    All processes call it.

    Returns:
        The recipe with `data.device_crops` set, and notes that say why.

    Raises:
        ValueError: if none of the images tried can be read.
    """
    accelerator = stepper.accelerator
    if recipe.data.device_crops is not None:
        return recipe, []
    if accelerator.device.type == "cpu":
        return with_device_crops(recipe, False), []
    num_workers = num_data_workers(recipe, accelerator.num_processes)
    samples, seconds = time_samples(recipe, source, stepper.model.config)
    worker_speed = max(1, num_workers) / seconds
    share = recipe.optimization.batch_size // accelerator.num_processes
    step_speed = share / time_step(stepper, repeat_samples(samples, share))[0]
    on_device = broadcast_object_list([worker_speed < MIN_WORKER_SPEED * step_speed])[0]
    where = "the device cuts the views" if on_device else "the workers cut the views"
    speeds = f"{num_workers} workers would cut {worker_speed:.0f} images per second, training takes {step_speed:.0f}"
    return with_device_crops(recipe, on_device), [f"{where}: {speeds}"]


def with_device_crops(recipe: Recipe, device_crops: bool | None) -> Recipe:
    """Returns the recipe with a value for `data.device_crops`."""
    return recipe.with_values("data", device_crops=device_crops)


def time_samples(
    recipe: Recipe, source: JoinedSources | ImageStream, config: StellarConfig
) -> tuple[list[dict[str, Any]], float]:
    """Returns samples as a worker makes them, and the median number of seconds that one takes."""
    settings = dataclasses.replace(view_settings(recipe), device_crops=False)
    samplers = kept_patch_sampler(recipe, config), num_tokens_sampler(config)
    make_views = ViewMaker(settings, recipe.augmentation, *samplers)
    problems: list[str] = []
    samples, seconds = [], []
    for index, image in enumerate(itertools.islice(some_images(source, problems), 4 * NUM_TIMED_IMAGES)):
        start = time.perf_counter()
        try:
            sample = make_views(image, sample_generator(recipe.run.seed, 0, index))
        except Exception as error:
            if is_fault_of_machine(error):
                raise
            problems.append(str(error))
            continue
        seconds.append(time.perf_counter() - start)
        samples.append({**sample, "path": "", "skipped": []})
        if len(samples) == NUM_TIMED_IMAGES:
            break
    if not samples:
        first = f"; the first: {one_line(mask_secrets(problems[0]))}" if problems else ""
        raise ValueError(f"none of the images tried can be read: check data.sources{first}")
    return samples, statistics.median(seconds)


def repeat_samples(samples: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Returns a batch of `count` samples, which repeats those that are given."""
    return collate_samples(list(itertools.islice(itertools.cycle(samples), count)))
