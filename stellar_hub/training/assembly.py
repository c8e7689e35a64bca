"""From a recipe to the parts of a run: accelerator, data, sizes."""

import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.utils.data import DataLoader

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.streams import ImageStream, Readers
from stellar_hub.data.streams.reading_order import Cursor
from stellar_hub.data.streams.stream_batches import StreamBatches
from stellar_hub.data.views.crops import ViewSettings
from stellar_hub.data.views.dataset import MultiCropDataset, ResumableBatchSampler
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.input_checks import nearest_multiples
from stellar_hub.training.model.masking import draw_kept_patches
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.recipes.sections import Recipe, RunRecipe, config_fields
from stellar_hub.training.sharding import USE_FSDP2, launched_sharding, transformer_blocks
from stellar_hub.training.stopping import leave_to_parent

MAX_WORKERS = 8  # per training process, where the recipe leaves it to the machine
LOCAL_SHARE = (96, 224)  # sides of a local and a global view, as published
PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA", "MULTI_HPU")


def build_accelerator(recipe: RunRecipe, output: Path, cpu: bool = False) -> Accelerator:
    """accelerate, with the recipe's precision; "auto" is bfloat16 on GPUs that have it, else float32.

    Raises:
        ImportError: if a tracker is not installed.
        ValueError: if a launcher started several processes that accelerate does not bring together, or asks for a kind
            of training that this trainer does not do.
    """
    for tracker in recipe.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise ImportError(f"run.trackers names {tracker}, which is not installed: pip install {tracker}")
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
        fsdp_plugin=launched_sharding(),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    check_together(accelerator, int(os.environ.get("WORLD_SIZE", "1")))
    return accelerator


def check_together(accelerator: Accelerator, num_launched: int) -> None:
    """Refuse processes that a launcher started together but that would train alone, all into the same folder.

    Raises:
        ValueError: if there are such, or the launcher's settings ask for what is neither plain data parallelism nor
            FSDP2.
    """
    kind = accelerator.distributed_type.value
    if kind not in (*PLAIN, "FSDP"):
        raise ValueError(
            f"accelerate is set up for {kind}, which this trainer does not do: choose plain data parallelism, with "
            "`accelerate config` or `accelerate launch --multi_gpu`, or, for a model that does not fit, FSDP2, with "
            f"{USE_FSDP2}"
        )
    if accelerator.parallelism_config is not None:
        raise ValueError(
            "accelerate is set up with a parallelism_config, but this trainer shares data and weights among all "
            f"processes alike: leave it out, and for a model that does not fit use {USE_FSDP2}"
        )
    if accelerator.num_processes < num_launched:
        raise ValueError(
            f"{num_launched} processes were launched, but each would train alone, as there are no GPUs: pass --cpu to "
            "train together on the CPU, or launch one"
        )


def resolve_sizes(recipe: Recipe, config: StellarConfig) -> Recipe:
    """Fill in the sizes of views that follow from the model, and check that they are whole patches.

    Raises:
        ValueError: if a side is no multiple of the patch, naming the nearest that are; or fewer global views are asked
            for than are read.
    """
    data, patch = recipe.data, config.patch_size
    image_size = data.image_size or config.image_size
    local_size = data.local_size or max(1, image_size * LOCAL_SHARE[0] // (LOCAL_SHARE[1] * patch)) * patch
    for name, size in (("image_size", image_size), ("local_size", local_size)):
        if size % patch:
            allowed = " or ".join(str(multiple) for multiple in nearest_multiples(size, patch))
            raise ValueError(f"data.{name} {size} is not a multiple of the patch size {patch}; nearest: {allowed}")
    if (config.teacher_momentum is not None or config.use_global_align) and data.num_global_views < 2:
        raise ValueError(
            f"data.num_global_views is {data.num_global_views}, but teacher_momentum and use_global_align read global "
            "view 1: set it to 2 or more"
        )
    num_local_views = data.num_local_views if config.use_local_views else 0
    resolved = dataclasses.replace(data, image_size=image_size, local_size=local_size, num_local_views=num_local_views)
    return dataclasses.replace(recipe, data=resolved)


def resolve_config(recipe: Recipe, config: StellarConfig) -> Recipe:
    """State the whole configuration, as the model has it: what a default or a checkpoint gave is then written down."""
    values = config.to_dict()
    own = {name: values[name] for name in config_fields()}
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, config=own))


@dataclass(frozen=True)
class KeptPatches:
    """Draws the patches that masked views keep, `(num_views, kept)`, from a sample's generator."""

    num_views: int
    grid_size: tuple[int, int]
    mask_ratio: float
    strategy: Any
    focal_probability: float

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draw for one sample."""
        options = (self.num_views, self.grid_size, self.mask_ratio, self.strategy, self.focal_probability)
        return draw_kept_patches(*options, generator=generator)


def kept_patches_of(recipe: Recipe, config: StellarConfig) -> KeptPatches | None:
    """How a recipe's samples draw their kept patches; None where nothing is masked."""
    if config.mask_ratio is None:
        return None
    assert recipe.data.image_size is not None
    side = recipe.data.image_size // config.patch_size
    strategy, probability = config.mask_strategy, config.focal_probability
    return KeptPatches(recipe.data.num_global_views, (side, side), config.mask_ratio, strategy, probability)


def view_settings(recipe: Recipe) -> ViewSettings:
    """The recipe's views."""
    names = [field.name for field in dataclasses.fields(ViewSettings) if field.name != "aspect_ratio"]
    values = {name: getattr(recipe.data, name) for name in names}
    return ViewSettings(**{**values, "device_crops": bool(recipe.data.device_crops)})


def view_sizes(recipe: Recipe) -> tuple[int, int]:
    """Sides of global and of local views, in pixels, once they are resolved."""
    data = recipe.data
    assert data.image_size is not None
    assert data.local_size is not None
    return data.image_size, data.local_size


def build_stream_loader(
    recipe: Recipe,
    stream: ImageStream,
    config: StellarConfig,
    accelerator: Accelerator,
    num_batches: int,
    start_batch: int,
    cursors: Mapping[int, Cursor],
) -> StreamBatches:
    """The same out of a stream, whose readers go on from `cursors`.

    Raises:
        ValueError: if the batch or the stream's readers do not divide among the processes.
    """
    batch_size, processes = recipe.optimization.batch_size, accelerator.num_processes
    if batch_size % processes:
        raise ValueError(f"the batch of {batch_size} cannot be shared evenly by {processes} processes")
    return StreamBatches(
        Readers(stream, recipe.run.seed),
        ViewMaker(view_settings(recipe), recipe.augmentation, kept_patches_of(recipe, config)),
        batch_size // processes,
        num_batches,
        start_batch,
        cursors,
        accelerator.process_index,
        processes,
        num_data_workers(recipe, processes),
        pin_memory=accelerator.device.type == "cuda",
    )


def build_loader(
    recipe: Recipe,
    source: ImageSource,
    config: StellarConfig,
    accelerator: Accelerator,
    num_batches: int,
    start_batch: int,
) -> DataLoader[dict[str, Any]]:
    """Batches of this process, from `start_batch` on; the same whatever the number of workers and processes.

    Raises:
        ValueError: if the batch does not divide among the processes.
    """
    dataset = MultiCropDataset(
        source, view_settings(recipe), recipe.augmentation, recipe.run.seed, kept_patches_of(recipe, config)
    )
    sampler = ResumableBatchSampler(
        len(source),
        recipe.optimization.batch_size,
        recipe.run.seed,
        num_batches,
        start_batch,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_data_workers(recipe, accelerator.num_processes),
        collate_fn=collate_samples,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=leave_to_parent,
    )


def warnings_at_start(
    recipe: Recipe, reference_batch_size: int, num_images: int | None, num_processes: int
) -> list[str]:
    """What should be known before the time is spent, in sentences."""
    optimization = recipe.optimization
    batch, found = optimization.batch_size, []
    if batch * 4 < reference_batch_size:
        found.append(
            f"the batch is {batch}, the recipe was made for {reference_batch_size}: prototypes are balanced over one "
            "batch, so that each image is spread over many of them and its targets say little; lower "
            "model.config.num_prototypes, and the learning rate with it"
        )
    if optimization.gradient_accumulation_steps > 1:
        found.append(
            "gradient accumulation does not enlarge what prototypes are balanced over: that is one forward's "
            f"batch of {batch}"
        )
    if num_images is not None and num_images < batch:
        found.append(f"there are {num_images} images for a batch of {batch}: it holds some more than once")
    workers, local = num_data_workers(recipe, num_processes), local_processes(num_processes)
    if workers * local > max(num_cores(), local):
        found.append(f"{workers} data workers for each of {local} processes, on {num_cores()} cores")
    return found


def num_data_workers(recipe: Recipe, num_processes: int) -> int:
    """Processes that read images, for each training process."""
    if recipe.data.num_workers is not None:
        return recipe.data.num_workers
    return min(MAX_WORKERS, max(1, num_cores() // local_processes(num_processes)))


def local_processes(num_processes: int) -> int:
    """How many of the group's processes share this machine; launchers say so where there are several machines."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))


def num_cores() -> int:
    """Cores this process may use; containers and job schedulers often give fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_blocks(model: StellarForPreTraining) -> None:
    """Compile the transformer blocks one by one: quick, and names in the state dict stay as they are."""
    for block in transformer_blocks(model):
        block.compile(dynamic=True)


def batches_of_steps(loader: DataLoader[dict[str, Any]], per_step: int) -> Iterator[list[dict[str, Any]]]:
    """Group batches into those of one optimizer step."""
    group: list[dict[str, Any]] = []
    for batch in loader:
        group.append(batch)
        if len(group) == per_step:
            yield group
            group = []
