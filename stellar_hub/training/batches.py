"""The batches of a run: the views of a recipe, and the loaders that make them."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import ImageStream, Readers
from stellar_hub.data.streams.reading_order import Cursor
from stellar_hub.data.streams.stream_batches import StreamBatches
from stellar_hub.data.views.crops import ViewSettings
from stellar_hub.data.views.multi_crop_dataset import MultiCropDataset, ResumableBatchSampler
from stellar_hub.data.views.view_maker import ViewMaker, collate_samples
from stellar_hub.data.workers import ImageLoader, default_num_workers
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.training.model.ordered_tokens import num_tokens_sampler
from stellar_hub.training.model.views import MaskStrategy, draw_kept_patches
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.stopping import leave_signals_to_parent


@dataclass(frozen=True)
class KeptPatchSampler:
    """Draws the patches that a sample's masked views keep, `(num_views, kept)`. Workers get it pickled."""

    num_views: int
    grid_size: tuple[int, int]
    mask_ratio: float
    strategy: MaskStrategy
    focal_probability: float

    def __call__(self, generator: torch.Generator) -> Tensor:
        """Draws for one sample."""
        options = (self.num_views, self.grid_size, self.mask_ratio, self.strategy, self.focal_probability)
        return draw_kept_patches(*options, generator=generator)


def kept_patch_sampler(recipe: Recipe, config: StellarConfig) -> KeptPatchSampler | None:
    """Returns the sampler of kept patches for a recipe; None where the model has no masked views."""
    if config.mask_ratio is None:
        return None
    side = view_sizes(recipe)[0] // config.patch_size
    strategy, probability = config.mask_strategy, config.focal_probability
    return KeptPatchSampler(recipe.data.num_global_views, (side, side), config.mask_ratio, strategy, probability)


def view_settings(recipe: Recipe) -> ViewSettings:
    """Returns the recipe's views: how many, their sizes and areas."""
    names = [field.name for field in dataclasses.fields(ViewSettings) if field.name != "aspect_ratio"]
    values = {name: getattr(recipe.data, name) for name in names}
    return ViewSettings(**{**values, "device_crops": bool(recipe.data.device_crops)})


def view_sizes(recipe: Recipe) -> tuple[int, int]:
    """Returns the sides of global and of local views in pixels; the recipe's sizes must be resolved."""
    data = recipe.data
    assert data.image_size is not None
    assert data.local_size is not None
    return data.image_size, data.local_size


def num_local_processes(num_processes: int) -> int:
    """Returns how many training processes run on this machine. Launchers of several machines set LOCAL_WORLD_SIZE."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_processes))


def num_data_workers(recipe: Recipe, num_processes: int) -> int:
    """Returns how many worker processes read images for each training process."""
    if recipe.data.num_workers is not None:
        return recipe.data.num_workers
    return default_num_workers(num_local_processes(num_processes))


@dataclass
class TrainingBatches:
    """The batches of this process.

    Attributes:
        loader: Batches that are left.
        per_step: Number of batches of one optimizer step.
        facts: Facts of the images, for checkpoints: "fingerprint" and "num_images", which is None for a stream.
        stamps: Digest of the images' stamps, in the main process; None where it is not known.
        cursors: Position of each of a stream's readers, after the batches so far; empty for other sources.
    """

    loader: Any
    per_step: int
    facts: dict[str, Any]
    stamps: str | None = None
    cursors: dict[int, Cursor] = field(default_factory=dict)

    def steps(self) -> Iterator[list[dict[str, Any]]]:
        """Yields the batches of each step that is left."""
        return group_batches(self.loader, self.per_step)

    def note_read(self, batches: list[dict[str, Any]]) -> None:
        """Moves the cursors past batches that a step has used."""
        for batch in batches:
            self.cursors |= batch.get("cursors", {})


class SkippedImages:
    """The images that a run could not read, each counted once over all processes.

    Args:
        entries: Images that earlier parts of the run could not read, in words.
    """

    def __init__(self, entries: list[str] | None = None):
        self.numbers = {entry: number for number, entry in enumerate(entries or [], start=1)}
        self._num_announced = len(self.numbers)
        self._unshared: list[str] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def add(self, batches: list[dict[str, Any]]) -> None:
        """Notes the images that this process could not read for these batches."""
        found = (entry for batch in batches for entry in batch["skipped"])
        self._unshared += [one_line(mask_secrets(entry)) for entry in found]

    def share(self) -> None:
        """Counts the images that any process has noted. All processes call it, in the same steps."""
        for entry in gather_object(self._unshared):
            self.numbers.setdefault(entry, len(self.numbers) + 1)
        self._unshared = []

    def new_entries(self) -> list[tuple[int, str]]:
        """Returns number and words of the images that earlier calls did not return."""
        new = [(self.numbers[entry], entry) for entry in list(self.numbers)[self._num_announced :]]
        self._num_announced = len(self.numbers)
        return new


def source_facts(source: JoinedSources | ImageStream) -> dict[str, Any]:
    """Returns the facts of images by which a resumed run recognizes them."""
    num_images = len(source) if isinstance(source, JoinedSources) else None
    return {"fingerprint": source.fingerprint(), "num_images": num_images}


def stamps_digest(source: JoinedSources | ImageStream) -> str | None:
    """Returns a digest that changes when the file of an image changes; None for a stream, or without stamps."""
    if not isinstance(source, JoinedSources):
        return None
    digest, found = hashlib.sha256(), False
    for part in source.sources:
        for index in range(len(part)) if hasattr(part, "stamp") else ():
            try:
                text = part.stamp(index)
            except (ValueError, OSError):  # the image will be skipped
                text = ""
            found = found or bool(text)
            digest.update(f"{text}\0".encode(errors="surrogateescape"))
    return digest.hexdigest() if found else None


def build_batches(
    recipe: Recipe,
    source: JoinedSources | ImageStream,
    config: StellarConfig,
    accelerator: Accelerator,
    num_steps: int,
    state: Mapping[str, Any],
    facts: dict[str, Any],
    stamps: str | None = None,
) -> TrainingBatches:
    """Builds the batches of this process. They do not depend on the number of workers and processes.

    Args:
        recipe: The recipe, with resolved sizes.
        source: The images.
        config: Configuration of the model.
        accelerator: The accelerator, which knows the processes.
        num_steps: Number of optimizer steps of the whole run.
        state: State of the checkpoint: its "step", and for a stream its "cursors".
        facts: Facts of the images, from `source_facts`.
        stamps: Digest of the images' stamps, from `stamps_digest`.

    Raises:
        ValueError: if the batch, or the stream's readers, cannot be divided evenly among the processes.
    """
    per_step = recipe.optimization.gradient_accumulation_steps
    num_batches, start_batch = num_steps * per_step, state["step"] * per_step
    if isinstance(source, JoinedSources):
        loader: Any = build_loader(recipe, source, config, accelerator, num_batches, start_batch)
        return TrainingBatches(loader, per_step, facts, stamps)
    cursors = {int(reader): Cursor(*position) for reader, position in state.get("cursors", {}).items()}
    loader = build_stream_loader(recipe, source, config, accelerator, num_batches, start_batch, cursors)
    return TrainingBatches(loader, per_step, facts, stamps, cursors)


def build_loader(
    recipe: Recipe,
    source: JoinedSources,
    config: StellarConfig,
    accelerator: Accelerator,
    num_batches: int,
    start_batch: int,
) -> ImageLoader[dict[str, Any]]:
    """Builds the loader of images that are read by their number, from batch `start_batch` on.

    Raises:
        ValueError: if the batch cannot be divided evenly among the processes.
    """
    sampler = ResumableBatchSampler(
        len(source),
        recipe.optimization.batch_size,
        recipe.run.seed,
        num_batches,
        start_batch,
        accelerator.process_index,
        accelerator.num_processes,
    )
    samplers = kept_patch_sampler(recipe, config), num_tokens_sampler(config)
    return ImageLoader(
        MultiCropDataset(source, view_settings(recipe), recipe.augmentation, recipe.run.seed, *samplers),
        num_data_workers(recipe, accelerator.num_processes),
        leave_signals_to_parent,
        batch_sampler=sampler,
        collate_fn=collate_samples,
        pin_memory=accelerator.device.type == "cuda",
    )


def build_stream_loader(
    recipe: Recipe,
    stream: ImageStream,
    config: StellarConfig,
    accelerator: Accelerator,
    num_batches: int,
    start_batch: int,
    cursors: Mapping[int, Cursor],
) -> StreamBatches:
    """Builds the loader of a stream, from batch `start_batch` on; its readers start at `cursors`.

    Raises:
        ValueError: if the batch, or the stream's readers, cannot be divided evenly among the processes.
    """
    batch_size, processes = recipe.optimization.batch_size, accelerator.num_processes
    if batch_size % processes:
        raise ValueError(
            f"optimization.batch_size is {batch_size}, which {processes} processes cannot share evenly: "
            f"choose a multiple of {processes}"
        )
    return StreamBatches(
        Readers(stream, recipe.run.seed),
        ViewMaker(
            view_settings(recipe), recipe.augmentation, kept_patch_sampler(recipe, config), num_tokens_sampler(config)
        ),
        batch_size // processes,
        num_batches,
        start_batch,
        cursors,
        accelerator.process_index,
        processes,
        num_data_workers(recipe, processes),
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=leave_signals_to_parent,
    )


def group_batches(loader: Any, per_step: int) -> Iterator[list[dict[str, Any]]]:
    """Yields the batches of one optimizer step after the other; a last group that is incomplete is left out."""
    group: list[dict[str, Any]] = []
    for batch in loader:
        group.append(batch)
        if len(group) == per_step:
            yield group
            group = []
