"""What is settled before a run starts: the accelerator, values that the recipe leaves open, and notes for the user."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from stellar_hub.data.workers import num_cores
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.input_checks import nearest_multiples
from stellar_hub.training.batches import num_data_workers, num_local_processes
from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.checkpoints.run_folder import check_space
from stellar_hub.training.model import StellarForPreTraining
from stellar_hub.training.model.baselines import check_baseline
from stellar_hub.training.model.sop_parts import check_memories
from stellar_hub.training.recipes.sections import Recipe, config_fields
from stellar_hub.training.sharding import USE_FSDP2, fsdp_plugin

PUBLISHED_VIEW_SIZES = (224, 96)  # sides of a global and a local view in pixels
# Variables by which launchers tell each process how many there are.
NUMBERS_OF_LAUNCHERS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PMIX_RANK")
SUPPORTED_LAUNCHES = (
    *("NO", "FSDP", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU"),
    *("MULTI_SDAA", "MULTI_MUSA", "MULTI_HPU"),
)


class AcceleratorSettings(Protocol):
    """What decides the accelerator: a `RunRecipe`, or the settings of a run that trains a classifier."""

    @property
    def precision(self) -> str:
        """Precision of the computation, such as "fp32" or "auto"."""

    @property
    def trackers(self) -> Sequence[str]:
        """Names of trackers."""


def build_accelerator(recipe: AcceleratorSettings, output: Path, cpu: bool = False) -> Accelerator:
    """Builds the accelerator with the recipe's precision; "auto" is bfloat16 on GPUs that support it, else float32.

    Raises:
        ImportError: if a tracker is not installed.
        ValueError: if a launcher started several processes that accelerate does not bring together, or it is set to a
            kind of training that this trainer does not support.
    """
    check_launcher()
    for tracker in recipe.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ImportError(f"run.trackers has {tracker}, which is not installed: pip install {tracker}")
    precision = recipe.precision
    if precision == "auto":
        on_gpu = torch.cuda.is_available() and not cpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if on_gpu else "fp32"
    # accelerate keeps device and precision for the whole process and refuses others: a notebook trains more than once.
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not in_group)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=precision if precision in ("bf16", "fp16") else "no",
        log_with=list(recipe.trackers) or None,
        project_dir=str(output),
        fsdp_plugin=fsdp_plugin(),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    check_launch(accelerator, int(os.environ.get("WORLD_SIZE", "1")))
    return accelerator


def check_launcher() -> None:
    """Checks that `accelerate launch` has started as many processes as it was asked for.

    On a machine without a GPU it silently starts one, with the address at which several would meet.

    Raises:
        ValueError: if it was asked for several and started one.
    """
    simple = "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ  # what it sets for such a process
    if simple and not any(name in os.environ for name in NUMBERS_OF_LAUNCHERS):
        raise ValueError(
            "`accelerate launch` was asked for several processes, but started one: it does so on CPUs. Write "
            "`accelerate launch --multi_gpu --num_processes 2 -m stellar_hub train ... --cpu`, where --cpu after "
            "train makes both train on the CPU, or launch 1 process"
        )


def check_launch(accelerator: Accelerator, num_launched: int) -> None:
    """Checks that the processes of a launcher train together, in a way that this trainer supports.

    Raises:
        ValueError: if each process would train alone, all into the same folder, or if the launcher's settings are for
            something else than plain data parallelism or FSDP2.
    """
    kind = accelerator.distributed_type.value
    if kind not in SUPPORTED_LAUNCHES:
        raise ValueError(
            f"accelerate is set up for {kind}, which this trainer does not support: choose plain data parallelism with "
            f"`accelerate launch --multi_gpu` or, for a model that does not fit, FSDP2 with {USE_FSDP2}"
        )
    if accelerator.parallelism_config is not None:
        raise ValueError(
            "accelerate is set up with a parallelism_config, which this trainer does not support: leave it out, and "
            f"for a model that does not fit use {USE_FSDP2}"
        )
    if accelerator.num_processes < num_launched:
        raise ValueError(
            f"{num_launched} processes were launched, but each would train alone, because this machine has no GPU: "
            "pass --cpu to train together on the CPU, or launch 1 process"
        )


def check_same_step(accelerator: Accelerator, output: Path, step: int) -> None:
    """Checks that all processes start from the same step, which they do if they see the same folder.

    Raises:
        ValueError: if they do not; in every process.
    """
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes see different checkpoints in {output}, those of steps {', '.join(map(str, steps))}: "
            "--output must be on a disk that all machines share"
        )


def resolve_recipe(recipe: Recipe, config: StellarConfig) -> Recipe:
    """Returns the recipe with the values that follow from the model: sizes of views, and the whole configuration.

    Raises:
        ValueError: if a side is not a multiple of the patch size, there are too few views or images for a term, or a
            memory of SOP is smaller than what is drawn from it or than the batch.
    """
    check_memories(config, recipe.optimization.batch_size)
    recipe = resolve_sizes(recipe, config)
    data = recipe.data
    check_baseline(config, data.num_global_views, data.num_local_views, recipe.optimization.batch_size)
    values = config.to_dict()
    own = {name: values[name] for name in config_fields()}
    return recipe.with_values("model", config=own)


def resolve_sizes(recipe: Recipe, config: StellarConfig) -> Recipe:
    """Returns the recipe with the sizes of views that follow from the model.

    Raises:
        ValueError: if a side is not a multiple of the patch size, or there are too few global views.
    """
    data, patch = recipe.data, config.patch_size
    image_size = data.image_size or config.image_size
    published_global, published_local = PUBLISHED_VIEW_SIZES
    local_size = data.local_size or max(1, image_size * published_local // (published_global * patch)) * patch
    for name, size in (("image_size", image_size), ("local_size", local_size)):
        if size % patch:
            allowed = " or ".join(str(multiple) for multiple in nearest_multiples(size, patch))
            raise ValueError(f"data.{name} must be a multiple of the patch size {patch}, such as {allowed}; got {size}")
    if (config.teacher_momentum is not None or config.use_global_align) and data.num_global_views < 2:
        raise ValueError(
            f"data.num_global_views must be at least 2, got {data.num_global_views}: teacher_momentum and "
            "use_global_align read global view 1"
        )
    num_local_views = data.num_local_views if config.use_local_views else 0
    sizes = {"image_size": image_size, "local_size": local_size}
    return recipe.with_values("data", num_local_views=num_local_views, **sizes)


def describe_devices(accelerator: Accelerator, sharded: bool) -> str:
    """Returns the devices of a run in words, such as "8 x cuda, sharded"."""
    return f"{accelerator.num_processes} x {accelerator.device.type}" + (", sharded" if sharded else "")


def describe_start(
    recipe: Recipe,
    model: StellarForPreTraining,
    accelerator: Accelerator,
    num_images: int | None,
    steps: tuple[int, int],
    sharded: bool,
) -> str:
    """Returns the first line of a run: its steps, images, batch, devices, precision and parameters.

    Args:
        recipe: The recipe.
        model: The model.
        accelerator: The accelerator.
        num_images: Number of images; None for a stream.
        steps: The step that the run starts from, and the number of its last one.
        sharded: Whether the model is sharded.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    precision = "fp32" if recipe.run.precision == "auto" else recipe.run.precision
    precision = accelerator.mixed_precision if accelerator.mixed_precision != "no" else precision
    return (
        f"{'resuming ' if steps[0] else ''}from step {steps[0]} to {steps[1]}: {num_images or 'a stream of'} images, "
        f"batch {recipe.optimization.batch_size} on {describe_devices(accelerator, sharded)}, {precision}, "
        f"{trained / 1e6:.1f} M parameters in training"
    )


def warnings_at_start(
    recipe: Recipe, reference_batch_size: int, num_images: int | None, num_processes: int
) -> list[str]:
    """Returns sentences about settings that may waste a run.

    Args:
        recipe: The recipe.
        reference_batch_size: Batch size that the recipe was made for.
        num_images: Number of images; None for a stream.
        num_processes: Number of training processes.
    """
    optimization = recipe.optimization
    batch, found = optimization.batch_size, []
    balanced = recipe.model.config.get("token_objective", "prototypes") == "prototypes"
    if balanced and batch * 4 < reference_batch_size:
        found.append(
            f"the batch has {batch} images, but the recipe was made for {reference_batch_size}. Assignments balance "
            "the prototypes over one batch, so in a small batch the targets say little: lower "
            "model.config.num_prototypes and the learning rate"
        )
    if balanced and optimization.gradient_accumulation_steps > 1:
        found.append(
            f"gradient accumulation does not enlarge the batch of {batch} images over which assignments balance the "
            "prototypes"
        )
    if num_images is not None and num_images < batch:
        found.append(f"there are {num_images} images for a batch of {batch}, so some come more than once in a batch")
    if recipe.data.probe is not None and not recipe.run.probe_every:
        found.append("data.probe is not used, as run.probe_every is 0")
    workers, local = num_data_workers(recipe, num_processes), num_local_processes(num_processes)
    if workers * local > max(num_cores(), local):
        found.append(f"{local} processes have {workers} data workers each, but there are {num_cores()} cores")
    return found


def space_warning(output: Path, model: StellarForPreTraining, checkpoints: Checkpoints) -> str | None:
    """Returns a sentence if the disk has too little room for the run's checkpoints, and None otherwise."""
    # The weights, and AdamW's two means of those in training. A new checkpoint is complete before an old one goes.
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size = sum(tensor.nbytes for tensor in model.state_dict().values()) + 2 * 4 * trained
    return check_space(output, size * (checkpoints.keep + 1 - len(checkpoints.steps())))
