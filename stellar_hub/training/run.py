"""A run and its parts: built from a recipe, started or resumed."""

import errno
import hashlib
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import ImageStream, open_images
from stellar_hub.modeling.safe_text import mask_secrets
from stellar_hub.store.lock import StoreLock
from stellar_hub.training.batches import (
    SkippedImages,
    TrainingBatches,
    build_batches,
    source_facts,
    stamps_digest,
    view_sizes,
)
from stellar_hub.training.checkpoints.checkpoints import Checkpoints, read_state
from stellar_hub.training.checkpoints.run_folder import (
    CHECKPOINTS_FOLDER,
    RECIPE_FILE,
    check_same_run,
    find_start,
    holds_run,
)
from stellar_hub.training.checkpoints.run_state import load_run
from stellar_hub.training.crop_placement import choose_crop_placement
from stellar_hub.training.initialization import initialize, initialize_resumed
from stellar_hub.training.model import StellarForPreTraining
from stellar_hub.training.model.baselines import require_lightly
from stellar_hub.training.monitoring.journal import Journal
from stellar_hub.training.monitoring.previews import fixed_images
from stellar_hub.training.monitoring.probe_images import build_probe, open_probe
from stellar_hub.training.monitoring.probes import Probe
from stellar_hub.training.recipes.files import save_recipe, to_dict
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.sharding import is_sharded, shard_if_launched
from stellar_hub.training.start import (
    build_accelerator,
    check_same_step,
    describe_start,
    resolve_recipe,
    space_warning,
    warnings_at_start,
)
from stellar_hub.training.step import Stepper, StepResult, build_optimizer, build_schedule, count_steps
from stellar_hub.training.step_choices import choose_by_device, choose_step, restore_choices
from stellar_hub.training.stopping import agree_on_signal, check_finite

JOURNAL_FILE = "metrics.jsonl"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network disks


class RunFolder:
    """The folder of a run, and what is written there as it goes.

    Args:
        path: The folder; `begin` creates it.
        keep_checkpoints: Number of checkpoints that are kept, the newest ones.

    Attributes:
        checkpoints: The run's checkpoints.
        journal: The run's journal, `metrics.jsonl`.
        saved_step: Step of the last checkpoint that this process wrote, or None.
    """

    def __init__(self, path: Path, keep_checkpoints: int):
        self.path = path
        self.checkpoints = Checkpoints(path / CHECKPOINTS_FOLDER, keep_checkpoints)
        self.journal = Journal(path / JOURNAL_FILE)
        self.saved_step: int | None = None
        self._lock: StoreLock | None = None

    def lock(self) -> None:
        """Keeps other runs from the folder until `release`, or the end of this process; the folder must exist.

        Raises:
            BlockingIOError: if another run uses the folder.
        """
        if self._lock is not None:
            return
        rank, num_processes = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
        lock = StoreLock(self.path, rank, num_processes)
        try:
            self._lock = lock.__enter__()
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another run uses the folder {self.path}: wait until it ends, or name another --output"
            ) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise

    def release(self) -> None:
        """Lets other runs use the folder."""
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None

    def begin(self, recipe: Recipe, start_step: int, accelerator: Accelerator) -> list[str]:
        """Creates the folder with the recipe; see `begin_with`."""
        return self.begin_with(RECIPE_FILE, partial(save_recipe, recipe, private=True), start_step, accelerator)

    def begin_with(
        self, file: str, save: Callable[[Path], None], start_step: int, accelerator: Accelerator
    ) -> list[str]:
        """Creates the folder with the run's settings, and removes journal lines of steps that will be done again.

        Args:
            file: Name of the file of the settings.
            save: Function that writes it.
            start_step: Number of steps that were done before.
            accelerator: The accelerator.

        Returns:
            A sentence on the journal if it had such lines.

        Raises:
            BlockingIOError: if another run uses the folder.
            FileNotFoundError: if this process does not see what the main one has written.
        """
        notes = []
        if accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            self.checkpoints.remove_unfinished()
            save(self.path / file)
            aside = self.journal.truncate_after(start_step)
            notes = [f"the journal went further than step {start_step}: {aside} keeps all of it"] if aside else []
        accelerator.wait_for_everyone()
        if not (self.path / file).is_file():
            raise FileNotFoundError(
                f"process {accelerator.process_index} does not see {self.path / file}, which process 0 has "
                "written: --output must be on a disk that all machines share"
            )
        self.lock()
        return notes


@dataclass(frozen=True)
class Run:
    """A run with its parts.

    Attributes:
        recipe: The recipe, with all values resolved.
        accelerator: The accelerator.
        stepper: Model, optimizer and schedule, which do the steps.
        batches: The images: batches that are left, and how far they were read.
        folder: The run's folder: checkpoints and journal.
        skipped: Images that could not be read.
        start_step: Number of steps that were done before.
        fixed_images: Images of the previews, `(N, 3, H, W)`.
        notes: Lines to show at the start.
        probe: Images of the probes, in the main process; None in a run without probes.
        started: Time at which this process began, in seconds of `time.monotonic`.
    """

    recipe: Recipe
    accelerator: Accelerator
    stepper: Stepper
    batches: TrainingBatches
    folder: RunFolder
    skipped: SkippedImages
    start_step: int
    fixed_images: Tensor
    notes: list[str]
    probe: Probe | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def model(self) -> StellarForPreTraining:
        """The model itself, not wrapped."""
        return self.stepper.model

    @property
    def num_steps(self) -> int:
        """The number of steps of the whole run."""
        return self.stepper.num_steps

    @property
    def is_finished(self) -> bool:
        """Whether all steps were done before."""
        return self.start_step >= self.num_steps

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.accelerator.is_main_process

    def check(self, step: int, result: StepResult) -> None:
        """Raises NonFiniteLossError if a number of a step is not finite."""
        scaled = self.accelerator.scaler is not None
        check_finite(step, result, self.folder.checkpoints.latest(), scaled=scaled)

    def agree_on_signal(self, signal_number: int | None) -> int | None:
        """Returns the signal that any process has received, or None. All processes call it, in every step."""
        return agree_on_signal(self.accelerator, signal_number)


def build_run(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    cpu: bool = False,
    reference_batch_size: int | None = None,
) -> Run:
    """Builds a run, and loads the checkpoint that it resumes.

    Args:
        recipe: The recipe.
        output: Folder of the run.
        resume: None starts a new run; "auto" resumes the newest checkpoint, if there is one; a path resumes that one.
        cpu: Whether to stay on the CPU even if there is a GPU.
        reference_batch_size: Batch size that the recipe was made for; a note says if the batch is far below it.

    Raises:
        OSError: if a folder, checkpoint or weight file cannot be read, or `output` holds a run that is not resumed.
        ValueError: if the recipe does not fit model, data or number of processes, or a checkpoint is of another run.
        ImportError: if a tracker is not installed, or lightly for a baseline.
    """
    folder = RunFolder(Path(output), recipe.run.keep_checkpoints)
    try:
        return _build_in(folder, recipe, resume, cpu, reference_batch_size)
    except BaseException:
        folder.release()
        raise


def _build_in(
    folder: RunFolder,
    recipe: Recipe,
    resume: str | os.PathLike[str] | None,
    cpu: bool,
    reference_batch_size: int | None,
) -> Run:
    """Builds a run in a folder; see `build_run`."""
    if holds_run(folder.path, folder.checkpoints):  # a folder of something else stays as it is until the run begins
        folder.lock()
    if recipe.model.config.get("baseline_loss") is not None:
        require_lightly(recipe.model.config["baseline_loss"])  # before the images are listed
    start, start_notes = find_start(folder.path, resume, folder.checkpoints)
    source = open_images(recipe.data.sources, recipe.data.repeats, recipe.data.root)
    labelled = open_probe(recipe)
    accelerator = build_accelerator(recipe.run, folder.path, cpu)
    set_seed(recipe.run.seed)
    # A checkpoint has its own weights: what the run was initialized from may be gone by now.
    model = initialize(recipe.model) if start is None else initialize_resumed(start, recipe.model)
    facts = source_facts(source)
    recipe = choose_by_device(restore_choices(resolve_recipe(recipe, model.config), start), accelerator)
    if start is not None:
        check_same_run(start, recipe, facts, model.config.to_dict())
    stepper = build_stepper(recipe, accelerator, model, facts["num_images"])
    state: dict[str, Any] = {"step": 0} if start is None else read_state(start)
    check_same_step(accelerator, folder.path, state["step"])
    stamps = stamps_digest(source) if accelerator.is_main_process else None
    if start is not None:
        load_run(start, model, stepper.optimizer.optimizer, accelerator.scaler, accelerator.process_index)
    recipe, step_notes = choose_step(recipe, stepper)
    recipe, crop_notes = choose_crop_placement(recipe, source, stepper)
    batches = build_batches(recipe, source, model.config, accelerator, stepper.num_steps, state, facts, stamps)
    run = Run(
        recipe,
        accelerator,
        stepper,
        batches,
        folder,
        SkippedImages(state.get("skipped")),
        start_step=state["step"],
        fixed_images=fixed_images(source, model.config),
        notes=[],
        probe=build_probe(recipe, labelled, source, model.config, accelerator),
    )
    notes = [*start_notes, *change_notes(state.get("stamps"), stamps), *source_notes(source)]
    notes += run.probe.notes if run.probe is not None else []
    run.notes.extend([*notes_at_start(run, reference_batch_size), *step_notes, *crop_notes])
    run.notes.extend(f"note: {note}" for note in [*notes, *folder.begin(recipe, run.start_step, accelerator)])
    if recipe.run.trackers:
        init_trackers(run)
    return run


def build_stepper(
    recipe: Recipe, accelerator: Accelerator, model: StellarForPreTraining, num_images: int | None
) -> Stepper:
    """Builds optimizer and schedule, and prepares model and optimizer for the run's processes."""
    if recipe.run.precision == "fp64":
        model.double()
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.prototype_precision = recipe.optimization.prototype_precision or "fp32"
    sharded = shard_if_launched(model, accelerator, recipe.optimization.optimizer)
    num_steps = count_steps(recipe.optimization, num_images)
    # Not in fp16, whose scaler would leave it to the fused kernel to skip a step.
    fused = accelerator.device.type == "cuda" and accelerator.scaler is None
    optimizer = build_optimizer(model, recipe.optimization, fused)
    schedule = build_schedule(optimizer, recipe.optimization, num_steps)
    if sharded:  # `prepare` would shard by its own rules; with `evaluation_mode` it only sets the precision
        wrapped = accelerator.prepare_model(model, evaluation_mode=True)
        prepared = accelerator.prepare_optimizer(optimizer)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # of new torch
            wrapped, prepared = accelerator.prepare(model, optimizer)
    return Stepper(
        accelerator,
        wrapped,
        model,
        prepared,
        schedule,
        recipe.augmentation,
        recipe.optimization.clip_norm,
        num_steps,
        torch.float64 if recipe.run.precision == "fp64" else torch.float32,
        view_sizes(recipe),
        recipe.run.seed,
    )


def notes_at_start(run: Run, reference_batch_size: int | None) -> list[str]:
    """Returns the lines to show before the first step."""
    num_images, accelerator = run.batches.facts["num_images"], run.accelerator
    if run.is_finished:
        return [f"the run is finished: all {run.num_steps} steps were done before"]
    steps = run.start_step, run.num_steps
    first = describe_start(run.recipe, run.model, accelerator, num_images, steps, is_sharded(run.model))
    reference = reference_batch_size or run.recipe.optimization.batch_size
    warnings = warnings_at_start(run.recipe, reference, num_images, accelerator.num_processes)
    space = space_warning(run.folder.path, run.model, run.folder.checkpoints)
    return [first, *(f"note: {sentence}" for sentence in [*warnings, *([space] if space else [])])]


def source_notes(source: JoinedSources | ImageStream) -> list[str]:
    """Returns a sentence for each thing that a source passed over, and for each archive that is damaged."""
    damaged = [f"images may be missing: {entry}" for entry in getattr(source, "damaged", ())]
    return [*getattr(source, "notes", ()), *damaged]


def change_notes(before: object, now: str | None) -> list[str]:
    """Returns a sentence if files of images have changed since the checkpoint, judged by their size and time."""
    if not before or now is None or before == now:
        return []
    return [
        "files of images have another size or time than in the run so far: if images were exchanged, the run goes on "
        "with the new ones"
    ]


def init_trackers(run: Run) -> None:
    """Starts the recipe's trackers, with the recipe as their configuration."""
    sections = to_dict(run.recipe).items()
    flat = {f"{section}.{key}": mask_secrets(str(value)) for section, keys in sections for key, value in keys.items()}
    options = {"wandb": wandb_options(run.folder.path)}
    run.accelerator.init_trackers("stellar_hub", config=flat, init_kwargs=options)


def wandb_options(output: Path) -> dict[str, str]:
    """Returns the run's name, and an id from the folder's path, under which a resumed run continues its curves."""
    identity = hashlib.blake2b(os.fsencode(output.absolute()), digest_size=8).hexdigest()
    return {"name": output.absolute().name, "id": identity, "resume": "allow"}
