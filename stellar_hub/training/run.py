"""A run with all its parts: put together from a recipe, begun or resumed."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from stellar_hub.data.sources import JoinedSources
from stellar_hub.data.streams import open_images
from stellar_hub.data.streams.reading_order import Cursor
from stellar_hub.training.assembly import (
    batches_of_steps,
    build_accelerator,
    build_loader,
    build_stream_loader,
    compile_blocks,
    num_data_workers,
    resolve_config,
    resolve_sizes,
    view_sizes,
    warnings_at_start,
)
from stellar_hub.training.checkpoints.checkpoints import Checkpoints, read_state
from stellar_hub.training.checkpoints.run_folder import (
    CHECKPOINTS_FOLDER,
    RECIPE_FILE,
    check_same_run,
    check_space,
    find_start,
)
from stellar_hub.training.checkpoints.run_state import load_run
from stellar_hub.training.crop_placement import place_crops, remember_crops
from stellar_hub.training.exports import last_part
from stellar_hub.training.initialization import initialize, initialize_resumed
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.monitoring.journal import Journal
from stellar_hub.training.monitoring.previews import fixed_images
from stellar_hub.training.optimization import build_optimizer, build_schedule, count_steps
from stellar_hub.training.recipes.files import save_recipe, to_dict
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.sharding import is_sharded, shard_if_asked
from stellar_hub.training.step import Stepper, StepResult
from stellar_hub.training.stopping import check_finite
from stellar_hub.version import __version__


@dataclass
class Run:
    """The parts of a run.

    Attributes:
        recipe: With sizes resolved.
        output: Its folder.
        accelerator: accelerate.
        model: The model itself, unwrapped.
        stepper: Does the steps.
        loader: This process's batches from `start_step` on.
        checkpoints: Where checkpoints are kept.
        journal: `metrics.jsonl`.
        fixed_images: `(N, 3, H, W)`, for images.
        num_steps: Of the whole run.
        start_step: Steps that are done already.
        facts: Of the data, for checkpoints; "num_images" is None where it is unknown.
        cursors: How far this process has read each of a stream's readers; empty for sources read by number.
        notes: Sentences to say at the start.
        skipped: Images that could not be read so far, by any process, and the number of each.
        announced: How many of these were named.
        unshared: Those of this process that the others do not know of yet.
        saved_step: The last step this process wrote a checkpoint of, or None.
        started: When this process began.
    """

    recipe: Recipe
    output: Path
    accelerator: Accelerator
    model: StellarForPreTraining
    stepper: Stepper
    loader: Any
    checkpoints: Checkpoints
    journal: Journal
    fixed_images: Tensor
    num_steps: int
    start_step: int
    facts: dict[str, Any]
    cursors: dict[int, Cursor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    announced: int = 0
    unshared: list[str] = field(default_factory=list)
    saved_step: int | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows."""
        return self.accelerator.is_main_process

    @property
    def devices(self) -> str:
        """What the run is on, such as "8 x cuda, sharded"."""
        sharded = ", sharded" if is_sharded(self.model) else ""
        return f"{self.accelerator.num_processes} x {self.accelerator.device.type}{sharded}"

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """The batches of each step that is left."""
        return batches_of_steps(self.loader, self.recipe.optimization.gradient_accumulation_steps)

    def check(self, step: int, result: StepResult) -> None:
        """Raise NonFiniteLossError if a step's numbers are not finite."""
        check_finite(step, result, self.checkpoints.latest(), scaled=self.accelerator.scaler is not None)

    def agree(self, signal_number: int | None) -> int | None:
        """The signal that any process has received.

        Asked in every step: launchers kill their processes some seconds after SIGTERM, and a step may take long.
        """
        if self.accelerator.num_processes == 1:
            return signal_number
        numbers = torch.tensor([signal_number or 0], device=self.accelerator.device)
        return int(self.accelerator.gather(numbers).max()) or None

    def card_facts(self, done: int) -> dict[str, object]:
        """What the model's card says of the run."""
        optimization = self.recipe.optimization
        seconds = time.monotonic() - self.started
        return {
            "steps": f"{done} of {self.num_steps}",
            "images seen": done * optimization.batch_size * optimization.gradient_accumulation_steps,
            "images in the data": self.facts["num_images"],
            "images that could not be read": len(self.skipped) or None,
            "began from": last_part(self.recipe.model.init),
            "device": self.devices,
            "precision": self.accelerator.mixed_precision if self.accelerator.mixed_precision != "no" else "float32",
            "time": f"{seconds / 60:.1f} minutes" + (f" since step {self.start_step}" if self.start_step else ""),
            "library": f"stellar_hub {__version__}, torch {torch.__version__}",
        }


def build_run(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    cpu: bool = False,
    reference_batch_size: int | None = None,
) -> Run:
    """Put a run together, and load the checkpoint it goes on from.

    Args:
        recipe: The recipe.
        output: The run's folder.
        resume: None begins; "auto" goes on from the newest checkpoint, if there is one; a path from that one.
        cpu: Whether to stay on the CPU where there is a GPU.
        reference_batch_size: What the recipe was made for; a batch far below is said.

    Raises:
        OSError: if a folder, checkpoint or weight file cannot be had, or `output` holds a run not to be resumed.
        ValueError: if the recipe does not fit model, data or number of processes, or a checkpoint is of another run.
        ImportError: if a tracker is not installed.
    """
    output = Path(output)
    checkpoints = Checkpoints(output / CHECKPOINTS_FOLDER, recipe.run.keep_checkpoints)
    start = find_start(output, resume, checkpoints)
    source = open_images(recipe.data.sources, recipe.data.repeats)
    accelerator = build_accelerator(recipe.run, output, cpu)
    set_seed(recipe.run.seed)
    # A checkpoint brings its own weights: what the run began from may be gone by now.
    model = initialize(recipe.model) if start is None else initialize_resumed(start, recipe.model)
    recipe = resolve_config(resolve_sizes(recipe, model.config), model.config)
    num_images = len(source) if isinstance(source, JoinedSources) else None
    facts = {"fingerprint": source.fingerprint(), "num_images": num_images}
    recipe = remember_crops(recipe, start)
    if start is not None:
        check_same_run(start, recipe, facts, model.config.to_dict())
    stepper, num_steps = build_stepper(recipe, accelerator, model, num_images)
    state: dict[str, Any] = {"step": 0} if start is None else read_state(start)
    step = int(state["step"])
    check_same_folder(accelerator, output, step)
    recipe, placed = place_crops(recipe, source, stepper, num_data_workers(recipe, accelerator.num_processes))
    per_step = recipe.optimization.gradient_accumulation_steps
    batches = (model.config, accelerator, num_steps * per_step, step * per_step)
    loader: Any
    if isinstance(source, JoinedSources):
        cursors, loader = {}, build_loader(recipe, source, *batches)
    else:
        cursors = {int(reader): Cursor(*place) for reader, place in state.get("cursors", {}).items()}
        loader = build_stream_loader(recipe, source, *batches, cursors)
    if start is not None:
        bare_optimizer = stepper.optimizer.optimizer
        load_run(start, model, bare_optimizer, accelerator.scaler, accelerator.process_index)
    run = Run(
        recipe=recipe,
        output=output,
        accelerator=accelerator,
        model=model,
        stepper=stepper,
        loader=loader,
        checkpoints=checkpoints,
        journal=Journal(output / "metrics.jsonl"),
        fixed_images=fixed_images(source, model.config),
        num_steps=num_steps,
        start_step=step,
        facts=facts,
        cursors=cursors,
        skipped={entry: number for number, entry in enumerate(state.get("skipped", ()), start=1)},
    )
    run.announced = len(run.skipped)
    run.notes = notes_at_start(run, reference_batch_size)
    run.notes += placed
    run.notes += [f"note: images may be missing: {entry}" for entry in getattr(source, "damaged", ())]
    begin_folder(run)
    return run


def build_stepper(
    recipe: Recipe, accelerator: Accelerator, model: StellarForPreTraining, num_samples: int | None
) -> tuple[Stepper, int]:
    """Optimizer, schedule and wrapped model, and the number of steps."""
    if recipe.run.precision == "fp64":
        model.double()
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if recipe.run.compile:
        compile_blocks(model)
    sharded = shard_if_asked(model, accelerator, recipe.optimization.optimizer)
    num_steps = count_steps(recipe.optimization, num_samples)
    optimizer = build_optimizer(model, recipe.optimization)
    schedule = build_schedule(optimizer, recipe.optimization, num_steps)
    if sharded:  # `prepare` would shard by its own rules; `evaluation_mode` is for the precision alone
        wrapped = accelerator.prepare_model(model, evaluation_mode=True)
        prepared = accelerator.prepare_optimizer(optimizer)
    else:
        wrapped, prepared = accelerator.prepare(model, optimizer)
    stepper = Stepper(
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
    )
    return stepper, num_steps


def notes_at_start(run: Run, reference_batch_size: int | None) -> list[str]:
    """What is said before the first step."""
    settings, accelerator, step = run.recipe.run, run.accelerator, run.start_step
    trained = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    precision = "fp32" if settings.precision == "auto" else settings.precision
    precision = accelerator.mixed_precision if accelerator.mixed_precision != "no" else precision
    images = f"{run.facts['num_images'] or 'a stream of'} images"
    first = (
        f"{'from' if not step else 'going on from'} step {step} to {run.num_steps}: {images}, "
        f"batch {run.recipe.optimization.batch_size} on {run.devices}, {precision}, "
        f"{trained / 1e6:.1f} M parameters in training"
    )
    reference = reference_batch_size or run.recipe.optimization.batch_size
    rest = warnings_at_start(run.recipe, reference, run.facts["num_images"], accelerator.num_processes)
    # The weights, and AdamW's two means of those in training; a new checkpoint is there before an old one goes.
    size = sum(tensor.nbytes for tensor in run.model.state_dict().values()) + 2 * 4 * trained
    space = check_space(run.output, size * (settings.keep_checkpoints + 1 - len(run.checkpoints.steps())))
    return [first, *(f"note: {sentence}" for sentence in [*rest, *([space] if space else [])])]


def begin_folder(run: Run) -> None:
    """Make the run's folder; after a resume, forget what the journal has of steps that are to be done again."""
    if run.is_main:
        run.output.mkdir(parents=True, exist_ok=True)
        run.checkpoints.remove_unfinished()
        save_recipe(run.recipe, run.output / RECIPE_FILE)
        run.journal.truncate_after(run.start_step)
    run.accelerator.wait_for_everyone()
    if not (run.output / RECIPE_FILE).is_file():
        raise FileNotFoundError(
            f"process {run.accelerator.process_index} does not see {run.output / RECIPE_FILE}, which process 0 has "
            "written: --output must lie on a disk that all machines share"
        )
    if run.recipe.run.trackers:
        sections = to_dict(run.recipe).items()
        flat = {f"{section}.{key}": str(value) for section, keys in sections for key, value in keys.items()}
        run.accelerator.init_trackers("stellar_hub", config=flat, init_kwargs={"wandb": wandb_options(run.output)})


def check_same_folder(accelerator: Accelerator, output: Path, step: int) -> None:
    """Refuse processes that would go on from different steps, as they do not see the same folder.

    Raises:
        ValueError: if they do, in every process.
    """
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes see different checkpoints in {output}, those of steps {', '.join(map(str, steps))}: "
            "--output must lie on a disk that all machines share"
        )


def wandb_options(output: Path) -> dict[str, str]:
    """Name of the run, and the id under which a resumed one goes on with its curves: a hash of the folder's path."""
    identity = hashlib.blake2b(os.fsencode(output.absolute()), digest_size=8).hexdigest()
    return {"name": output.absolute().name, "id": identity, "resume": "allow"}
