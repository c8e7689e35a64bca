"""A run that trains a classifier, and its parts: built from settings and labelled images, started or resumed."""

import hashlib
import os
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from stellar_hub.data.labelled import LabelledImages, hold_out
from stellar_hub.data.sources import ImageSource, SampledImages
from stellar_hub.features.identity import load_processor
from stellar_hub.features.preparation import check_fixed_size
from stellar_hub.modeling import StellarForImageClassification, StellarImageProcessor, StellarModel
from stellar_hub.training.batches import SkippedImages
from stellar_hub.training.checkpoints.checkpoints import read_state
from stellar_hub.training.checkpoints.run_folder import FINETUNING_FILE, find_start, holds_run
from stellar_hub.training.checkpoints.run_state import load_run
from stellar_hub.training.exports import MODEL_FOLDER
from stellar_hub.training.finetuning.batches import (
    PreparedImages,
    TrainingCrops,
    measuring_loader,
    shared_batch_size,
    training_loader,
)
from stellar_hub.training.finetuning.models import build_classifier
from stellar_hub.training.finetuning.settings import FinetuneSettings, refuse_other_run
from stellar_hub.training.run import RunFolder
from stellar_hub.training.sharding import fsdp_plugin
from stellar_hub.training.start import build_accelerator, check_same_step
from stellar_hub.training.step import build_schedule


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        train: Images to learn from.
        test: Images to measure on; their labels are numbers of the classes of train.
        held_out: Whether the test images are a part of those that the user gave to learn from.
    """

    train: LabelledImages
    test: LabelledImages
    held_out: bool

    def facts(self) -> dict[str, Any]:
        """Returns what a resumed run must have in common with the run so far."""
        return {"classes": list(self.train.classes), "train": _identity(self.train), "test": _identity(self.test)}

    def notes(self) -> list[str]:
        """Returns what the user should know about the images."""
        notes = [note for each in (self.train, self.test) for note in each.notes]
        if self.held_out:
            total = len(self.train) + len(self.test)
            notes.append(f"no test images are given: {len(self.test)} of the {total} images are held out")
        elif shared := len(set(_paths(self.train.images)) & set(_paths(self.test.images))):
            notes.append(f"{shared} of {len(self.test)} test images are in train too: the accuracy is too good")
        alone = [name for name, count in zip(self.train.classes, self.train.counts(), strict=True) if not count]
        if alone:
            notes.append(f"classes without a training image: {', '.join(alone)}")
        return list(dict.fromkeys(notes))


def split_images(train: LabelledImages, test: LabelledImages | None, settings: FinetuneSettings) -> Images:
    """Returns the images of a run; without test images, a share of each class of train is held out.

    Raises:
        ValueError: if train has fewer than two classes, test has classes that train lacks, or nothing can be held out.
    """
    present = sum(count > 0 for count in train.counts())
    if present < 2:
        raise ValueError(f"{train.name} must have images of at least 2 classes, it has {present}")
    if test is not None:
        return Images(train, test.renumbered(train.classes), held_out=False)
    fitted, held = hold_out(torch.tensor(train.labels), settings.holdout, settings.seed)
    return Images(train.select(fitted.tolist()), train.select(held.tolist()), held_out=True)


def _identity(labelled: LabelledImages) -> str:
    """Returns the SHA-256 of images and labels; where the images are stored does not change it."""
    digest = hashlib.sha256()
    source = labelled.images
    if isinstance(source, SampledImages):
        digest.update(repr(source.indices).encode())
        source = source.source
    if hasattr(source, "fingerprint"):
        digest.update(source.fingerprint().encode())
    for path in _paths(source):
        digest.update(f"{os.path.basename(path)}\0".encode("utf-8", "surrogateescape"))
    digest.update("\0".join(labelled.classes[label] for label in labelled.labels).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _paths(source: ImageSource) -> list[str]:
    """Returns the paths of images that are files of their own; of images in tables and archives none."""
    if isinstance(source, SampledImages):
        inner = _paths(source.source)
        return [inner[index] for index in source.indices] if inner else []
    return [str(each) for each in source] if isinstance(source, list | tuple) else []


@dataclass
class FinetuneRun:
    """A run with its parts.

    Attributes:
        settings: The settings.
        images: The images.
        accelerator: The accelerator.
        model: The classifier itself, not wrapped.
        wrapped: The same as accelerate returned it.
        optimizer: The optimizer as accelerate returned it.
        schedule: Schedule of the learning rate.
        processor: The image processor of the saved model.
        folder: The run's folder.
        skipped: Training images that could not be read.
        batch_size: Number of images per step, over all processes.
        num_steps: Number of steps of the whole run.
        start_step: Number of steps that were done before.
        best: Accuracy and step of the weights that are kept, or None.
        notes: Lines to show at the start.
        started: Time at which this process began, in seconds of `time.monotonic`.
    """

    settings: FinetuneSettings
    images: Images
    accelerator: Accelerator
    model: StellarForImageClassification
    wrapped: nn.Module
    optimizer: Any
    schedule: CosineLRScheduler
    processor: StellarImageProcessor
    folder: RunFolder
    skipped: SkippedImages
    batch_size: int
    num_steps: int
    start_step: int = 0
    best: tuple[float, int] | None = None
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.accelerator.is_main_process

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return check_fixed_size(self.processor)

    def ends_epoch(self, done: int) -> bool:
        """Returns whether the last of `done` steps has completed a pass over the training images, or was the last."""
        count, size = len(self.images.train), self.batch_size
        return done == self.num_steps or done * size // count > (done - 1) * size // count

    def training_batches(self) -> Any:
        """Returns this process's batches that are left."""
        dataset = TrainingCrops(self.images.train, self.size[0], self.settings)
        return training_loader(
            dataset, self.settings, self.accelerator, self.batch_size, self.num_steps, self.start_step
        )

    def test_batches(self) -> Any:
        """Returns this process's part of the test images."""
        dataset = PreparedImages(self.images.test, self.size, self.processor)
        return measuring_loader(dataset, self.settings, self.accelerator, self.batch_size)


def build_run(
    folder: RunFolder,
    images: Images,
    settings: FinetuneSettings,
    resume: str | os.PathLike[str] | None,
    cpu: bool,
) -> FinetuneRun:
    """Builds a run in a folder, and loads the checkpoint that it resumes.

    Raises:
        ImportError: if peft or a tracker is not installed.
        OSError: if a model or checkpoint cannot be read, or the folder holds a run that is not resumed.
        ValueError: if settings, images and number of processes do not fit each other, or a checkpoint is of another
            run.
    """
    if holds_run(folder.path, folder.checkpoints):
        folder.lock()
    start, start_notes = find_start(folder.path, resume, folder.checkpoints)
    accelerator = build_accelerator(settings, folder.path, cpu)
    if fsdp_plugin() is not None:
        raise ValueError("a classifier is not trained with FSDP: launch plain processes, with --multi_gpu")
    state: dict[str, Any] = {"step": 0} if start is None else read_state(start)
    if start is not None:
        refuse_other_run(start, state, {"settings": settings.as_dict(), "data": images.facts()})
    batch_size = shared_batch_size(settings, len(images.train), accelerator.num_processes)
    num_steps = -(-settings.epochs * len(images.train) // batch_size)
    set_seed(settings.seed)
    model = build_classifier(settings, images.train.classes)
    processor = square_processor(settings, model)
    wrapped, optimizer, schedule = prepare(accelerator, model, settings, num_steps)
    set_seed(settings.seed, device_specific=True)  # each process drops other numbers
    check_same_step(accelerator, folder.path, state["step"])
    if start is not None:
        load_run(start, model, optimizer.optimizer, accelerator.scaler, accelerator.process_index)
    run = FinetuneRun(
        *(settings, images, accelerator, model, wrapped, optimizer, schedule, processor, folder),
        SkippedImages(state.get("skipped")),
        batch_size,
        num_steps,
        start_step=state["step"],
        best=tuple(state["best"]) if state.get("best") and (folder.path / MODEL_FOLDER).is_dir() else None,
    )
    run.notes.append(describe_start(run))
    notes = [*start_notes, *images.notes()]
    if batch_size < settings.batch_size:
        notes.append(f"a step has {batch_size} images, as there are no more")
    notes += folder.begin_with(FINETUNING_FILE, settings.write, run.start_step, accelerator)
    run.notes.extend(f"note: {note}" for note in notes)
    if settings.trackers:
        accelerator.init_trackers("stellar_hub", config=settings.as_dict())
    return run


def square_processor(settings: FinetuneSettings, model: StellarForImageClassification) -> StellarImageProcessor:
    """Returns the image processor of the model, with the size of the settings.

    Raises:
        ValueError: if its images are not square, all of one size, or their sides do not fit the patch size.
    """
    options = {} if settings.image_size is None else {"image_size": settings.image_size}
    encoder: StellarModel = model.stellar
    processor = load_processor(settings.model, encoder, **options)
    height, width = check_fixed_size(processor)
    if height != width:
        raise ValueError(f"training crops are square, but the image processor gives {height}x{width}: set image_size")
    model.stellar.grid_size(height, width)
    return processor


def prepare(
    accelerator: Accelerator, model: StellarForImageClassification, settings: FinetuneSettings, num_steps: int
) -> tuple[nn.Module, Any, CosineLRScheduler]:
    """Returns the model and timm's optimizer, both prepared by accelerate, and the schedule."""
    optimizer = create_optimizer_v2(
        model,
        opt=settings.optimizer,
        lr=settings.highest_rate,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
    )
    schedule = build_schedule(optimizer, settings, num_steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # of new torch
        wrapped, prepared = accelerator.prepare(model, optimizer)
    return wrapped, prepared, schedule


def describe_start(run: FinetuneRun) -> str:
    """Returns the first line of a run."""
    if run.start_step >= run.num_steps:
        return f"the run is finished: all {run.num_steps} steps were done before"
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    precision, device = run.accelerator.mixed_precision, run.accelerator.device.type
    return (
        f"{'resuming ' if run.start_step else ''}from step {run.start_step} to {run.num_steps}: "
        f"{len(run.images.train)} images of {len(run.images.train.classes)} classes, {len(run.images.test)} to measure "
        f"on, batch {run.batch_size} on {run.accelerator.num_processes} x {device}, "
        f"{'fp32' if precision == 'no' else precision}, {trained / 1e6:.2f} M parameters in training"
    )
