"""How a step is computed where the recipe leaves it open: chosen by the device, or measured at the start of a run.

Each choice computes the same numbers up to rounding. A resumed run keeps the choices of the run.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from stellar_hub.data.views.photometric import draw_photometric
from stellar_hub.modeling.inference_optimization import compile_blocks
from stellar_hub.modeling.maskgit_vqgan import ResidualBlock
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.training.batches import kept_patch_sampler, view_settings
from stellar_hub.training.captured_step import CapturedStep, Graph
from stellar_hub.training.checkpoints.run_folder import RECIPE_FILE
from stellar_hub.training.model import StellarForPreTraining
from stellar_hub.training.model.ordered_tokens import num_tokens_sampler
from stellar_hub.training.recipes.files import load_recipe
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.sharding import is_sharded, transformer_blocks
from stellar_hub.training.step import Stepper, augmented_inputs, move_views

OPEN_CHOICES = (
    ("data", "device_crops"),
    ("optimization", "prototype_precision"),
    ("run", "compile"),
    ("run", "cuda_graphs"),
)
NUM_ROUNDS = 5
MAX_GRAPHS = 64  # that torch compiles for one class of blocks; beyond its own limit of 8 it would stop to compile
MAX_TIME_RATIO = 0.97  # a variant must take at most this share of the time without it; more may be noise


def restore_choices(recipe: Recipe, start: Path | None) -> Recipe:
    """Returns the recipe with the choices of the run that is resumed, where the recipe leaves them open."""
    saved = None if start is None else start.absolute().parents[1] / RECIPE_FILE
    if saved is None or not saved.is_file():
        return recipe
    before = load_recipe(saved)
    for section, key in OPEN_CHOICES:
        if getattr(getattr(recipe, section), key) is None:
            recipe = recipe.with_values(section, **{key: getattr(getattr(before, section), key)})
    return recipe


def choose_by_device(recipe: Recipe, accelerator: Accelerator) -> Recipe:
    """Returns the recipe with the choices that need no measurement: all of them on a CPU."""
    if recipe.optimization.prototype_precision is None:
        # Embeddings that come out of bfloat16 have fewer digits than TF32 keeps.
        rounded = accelerator.device.type == "cuda" and accelerator.mixed_precision != "no"
        recipe = recipe.with_values("optimization", prototype_precision="tf32" if rounded else "fp32")
    if accelerator.device.type == "cuda":
        return recipe
    run = recipe.run
    return recipe.with_values("run", compile=bool(run.compile), cuda_graphs=bool(run.cuda_graphs))


class StepMeasurement:
    """The times of ways to do a step, and what became of each in words.

    Args:
        stepper: The stepper.
        batch: A batch of the run's size.
    """

    def __init__(self, stepper: Stepper, batch: dict[str, Any]):
        self.stepper = stepper
        self.batch = batch
        self.found: list[str] = []
        self._best, _ = time_step(stepper, batch)

    def attempt(self, wanted: bool | None, name: str, apply: Callable[[], None], undo: Callable[[], None]) -> bool:
        """Tries one more way, on top of those that were kept, and returns whether it is kept.

        Args:
            wanted: True keeps it whatever its time, None keeps it if it is faster, False does not try it.
            name: Its name in words.
            apply: Changes model or stepper.
            undo: Takes that back.

        Raises:
            Exception: if it fails and `wanted` is True, or if memory does not suffice in one of several processes.
        """
        if wanted is False:
            return False
        try:
            start = time.perf_counter()
            apply()
            seconds, first = time_step(self.stepper, self.batch)
        except Exception as error:  # by the compiler, the driver, or for want of memory: the run goes on without it
            # A compiler fails in all processes, but memory in one alone: the others would wait for it in an exchange.
            is_alone = self.stepper.accelerator.num_processes > 1 and should_reduce_batch_size(error)
            if wanted or is_alone:
                raise
            undo()
            self.stepper.optimizer.zero_grad(set_to_none=True)
            self.found.append(f"{name} failed ({one_line(error, 200)})")
            return False
        cost = first - start
        kept = bool(wanted or broadcast_object_list([seconds <= MAX_TIME_RATIO * self._best])[0])
        times = f"{1e3 * self._best:.1f} to {1e3 * seconds:.1f} ms"
        self.found.append(f"{name} {times}, {'kept' if kept else 'not kept'}, {cost:.0f} s at the start")
        if kept:
            self._best = seconds
        else:
            undo()
        return kept


def choose_step(
    recipe: Recipe, stepper: Stepper, make_graph: Callable[[], Graph] | None = None, measure: bool | None = None
) -> tuple[Recipe, list[str]]:
    """Decides how a step is computed, and prepares the stepper for it. All processes call it, with weights loaded.

    Args:
        recipe: The recipe, with resolved sizes.
        stepper: The stepper, whose model is not compiled yet.
        make_graph: Makes the graph that a step is captured into; None makes CUDA graphs.
        measure: Whether to measure what the recipe leaves open; None does so on CUDA alone.

    Returns:
        The recipe with `run.compile` and `run.cuda_graphs` set, and a line that says what was tried, what it costs at
        the start and what it brings.

    Raises:
        Exception: if the recipe asks for compiled blocks or a graph, and that fails.
    """
    model, measure = stepper.model, stepper.accelerator.device.type == "cuda" if measure is None else measure
    obstacle = None if make_graph else capture_obstacle(recipe, stepper)
    compiled, captured = recipe.run.compile, False if obstacle else recipe.run.cuda_graphs
    if is_sharded(model) or not measure:
        compiled, captured = bool(compiled), bool(captured)
    notes = [f"no CUDA graph: {obstacle}"] if obstacle and recipe.run.cuda_graphs else []
    batch = noise_batch(recipe, stepper) if measure or captured else {}
    if not measure or not (compiled is None or captured is None or model.tokenizer_encoder is not None):
        if compiled:
            compile_step(stepper)
        if captured:
            capture(stepper, batch, make_graph)
    else:
        steps = StepMeasurement(stepper, batch)
        undo: Callable[[], None]
        apply, undo = lambda: compile_step(stepper), lambda: undo_compiling(stepper)
        compiled = steps.attempt(compiled, "blocks compiled", apply, undo)
        apply, undo = lambda: set_channels_last(model, True), lambda: set_channels_last(model, False)
        steps.attempt(None if model.tokenizer_encoder is not None else False, "tokenizer channels last", apply, undo)
        apply, undo = lambda: capture(stepper, batch, make_graph), lambda: forget_capture(stepper)
        captured = steps.attempt(captured, "one CUDA graph", apply, undo)
        notes += [f"forward and backward of a step: {'; '.join(steps.found)}"] if steps.found else []
    recipe = recipe.with_values("run", compile=compiled, cuda_graphs=captured)
    chosen = describe_choices(recipe, stepper)
    return recipe, [*notes, f"steps are computed with {chosen}"] if chosen else notes


def describe_choices(recipe: Recipe, stepper: Stepper) -> str | None:
    """Returns how the steps of a run are computed, where that is not the plain way."""
    choices = {
        "compiled blocks": recipe.run.compile,
        "a CUDA graph": recipe.run.cuda_graphs,
        "prototype scores in TF32": recipe.optimization.prototype_precision == "tf32",
        "a fused update": any(group.get("fused") for group in stepper.optimizer.param_groups),
    }
    return ", ".join(name for name, chosen in choices.items() if chosen) or None


def capture_obstacle(recipe: Recipe, stepper: Stepper) -> str | None:
    """Returns why a step of this run cannot be one CUDA graph, or None."""
    accelerator = stepper.accelerator
    obstacles = {
        "it needs a CUDA device": accelerator.device.type != "cuda",
        "several processes exchange gradients": accelerator.num_processes > 1 or is_sharded(stepper.model),
        "SOP draws other anchors in each step": stepper.model.config.token_objective.startswith("sop"),
        "LeJEPA draws other directions in each step": stepper.model.config.baseline_loss == "lejepa",
        "the gradients of several batches are added": recipe.optimization.gradient_accumulation_steps > 1,
        "fp16 scales its gradients": accelerator.scaler is not None,
        "gradient checkpointing looks at the state of random numbers": recipe.run.gradient_checkpointing,
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), None)


def noise_batch(recipe: Recipe, stepper: Stepper) -> dict[str, Any]:
    """Returns a batch of noise, of this process's size and as the workers make it."""
    generator = torch.Generator().manual_seed(0)  # not the global one, whose state belongs to the run
    size = max(1, recipe.optimization.batch_size // stepper.accelerator.num_processes)
    views = view_settings(recipe)
    counts = {"global_views": (views.num_global_views, views.image_size)}
    if views.num_local_views:
        counts["local_views"] = (views.num_local_views, views.local_size)
    batch: dict[str, Any] = {
        name: torch.randint(256, (size, count, 3, side, side), dtype=torch.uint8, generator=generator)
        for name, (count, side) in counts.items()
    }
    num_views = views.num_global_views + views.num_local_views
    batch["photometric"] = torch.stack(
        [draw_photometric(num_views, recipe.augmentation, generator) for _ in range(size)]
    )
    sample_patches = kept_patch_sampler(recipe, stepper.model.config)
    if sample_patches is not None:
        batch["kept_patches"] = torch.cat([sample_patches(generator) for _ in range(size)])
    sample_num_tokens = num_tokens_sampler(stepper.model.config)
    if sample_num_tokens is not None:
        batch["num_tokens"] = torch.stack([sample_num_tokens(generator) for _ in range(size)])
    return {**batch, "paths": [], "skipped": []}


def time_step(stepper: Stepper, batch: dict[str, Any]) -> tuple[float, float]:
    """Times forward and backward of a batch, and leaves the model as it was.

    Returns:
        The median seconds, without a first call, and the time at which that one had ended.
    """
    ends = []
    for _ in range(NUM_ROUNDS + 1):
        stepper.forward_backward(batch, is_last=True)
        stepper.optimizer.zero_grad(set_to_none=True)
        if stepper.accelerator.device.type == "cuda":
            torch.cuda.synchronize(stepper.accelerator.device)
        ends.append(time.perf_counter())
    return statistics.median(end - start for start, end in itertools.pairwise(ends)), ends[0]


def compiled_parts(model: StellarForPreTraining) -> list[nn.Module]:
    """Returns the modules that are compiled one by one: transformer blocks, and the blocks that give the codes."""
    tokenizer = model.tokenizer_encoder
    residual = [] if tokenizer is None else [part for part in tokenizer.modules() if isinstance(part, ResidualBlock)]
    return [*transformer_blocks(model), *residual]


def compile_step(stepper: Stepper) -> None:
    """Compiles the model's blocks and, on a GPU, the augmentation, whose many small operations become few."""
    # Blocks of one class share their graphs: one for each kind of weights and of memory, far fewer than blocks.
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_GRAPHS)
    compile_blocks(compiled_parts(stepper.model))
    if stepper.accelerator.device.type == "cuda":  # on a CPU, compiling it takes a minute and saves little
        stepper.augment = torch.compile(augmented_inputs, dynamic=False)


def undo_compiling(stepper: Stepper) -> None:
    """Calls everything as it was written again."""
    stepper.augment = augmented_inputs
    for block in compiled_parts(stepper.model):
        block._compiled_call_impl = None


def set_channels_last(model: StellarForPreTraining, on: bool) -> None:
    """Sets the order in which the tokenizer's encoder holds its weights, and so its images."""
    assert model.tokenizer_encoder is not None
    model.tokenizer_encoder.to(memory_format=torch.channels_last if on else torch.contiguous_format)


def capture(stepper: Stepper, batch: dict[str, Any], make_graph: Callable[[], Graph] | None = None) -> None:
    """Captures forward and backward of batches of this shape."""
    moved = move_views(batch, stepper.accelerator.device, stepper.view_sizes)
    stepper.captured = CapturedStep(stepper.compute, stepper.parameters, moved, make_graph() if make_graph else None)


def forget_capture(stepper: Stepper) -> None:
    """Computes batches one operation after the other again, and frees the memory of the graph."""
    stepper.captured = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
