"""Training: the loop over the steps of a run, and what it writes as it goes and at the end."""

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.checkpoints.run_folder import CHECKPOINTS_FOLDER, PREVIEWS_FOLDER
from stellar_hub.training.checkpoints.run_state import write_random_state, write_run
from stellar_hub.training.exports import MODEL_FOLDER, card_facts, export_model, is_exported, push_export
from stellar_hub.training.monitoring.collapse_meters import collapse_meters
from stellar_hub.training.monitoring.previews import draw_preview
from stellar_hub.training.monitoring.progress import RunProgress
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.run import Run, build_run
from stellar_hub.training.sharding import inference_model
from stellar_hub.training.step import StepResult
from stellar_hub.training.stopping import StopRequest


class Stopped(Exception):  # noqa: N818  # not an error: the user stopped the run
    """A signal stopped a run, and its checkpoint is saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped at step {step}, checkpoint saved; --resume auto continues")
        self.signal_number = signal_number


def train(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    cpu: bool = False,
    reference_batch_size: int | None = None,
) -> Path:
    """Trains by a recipe. It runs alone, or in each process of `accelerate launch`.

    Args:
        recipe: The recipe, from `load_recipe`, with sources of images and with `model.init`.
        output: Folder of the run: `recipe.yaml`, `metrics.jsonl`, `curves.png`, `previews/`, `checkpoints/`, and at
            the end `model/`.
        resume: None starts a new run, and refuses a folder that holds one. "auto" resumes the folder's newest
            checkpoint, or starts. A path resumes that checkpoint. A resumed run ends with the same weights as one that
            was never interrupted, on CPUs bit for bit.
        cpu: Whether to stay on the CPU even if there is a GPU.
        reference_batch_size: Batch size that the recipe was made for; a note says if the batch is far below it.

    Returns:
        The folder of the model for inference, OUTPUT/model.

    Raises:
        ValueError: if recipe, data, model and number of processes do not fit each other, or a checkpoint is of another
            run.
        OSError: if something cannot be read or written; earlier checkpoints stay complete.
        Stopped: if SIGTERM or Ctrl-C stopped the run, after a checkpoint was saved. A second signal ends the process at
            once, without a checkpoint.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    checkpoints = Checkpoints(Path(output) / CHECKPOINTS_FOLDER, recipe.run.keep_checkpoints)
    with memory_errors(checkpoints):  # a run does steps as it begins, to measure them
        run = build_run(recipe, output, resume=resume, cpu=cpu, reference_batch_size=reference_batch_size)
    try:
        with memory_errors(checkpoints):
            run_steps(run)
            run.accelerator.wait_for_everyone()
            model = export_last(run)
        # No process waits for the first one from here on: an upload may take longer than a collective is allowed to.
        if model is not None and run.recipe.run.push_to_hub is not None:
            push_export(run.folder.path, model, run.recipe.run)
    finally:
        run.folder.release()
        if run.recipe.run.trackers:
            run.accelerator.end_training()
    return Path(output) / MODEL_FOLDER


@contextmanager
def memory_errors(checkpoints: Checkpoints) -> Iterator[None]:
    """Says in one sentence that the memory is used up, and what to do, in place of the allocator's own words."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        where = "the GPU's memory" if isinstance(error, torch.OutOfMemoryError) else "the memory"
        kept = checkpoints.latest()
        raise RuntimeError(
            f"{where} is used up: lower optimization.batch_size or data.num_workers, or set "
            f"run.gradient_checkpointing=true; {f'the last checkpoint is {kept}' if kept else 'there is no checkpoint'}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that no memory is left, on the device or in the machine."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def run_steps(run: Run) -> None:
    """Does all steps that are left.

    Raises:
        Stopped: if a signal stopped the run; a checkpoint is saved first.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    batch_size = run.recipe.optimization.batch_size * run.recipe.optimization.gradient_accumulation_steps
    progress = RunProgress(run.num_steps, run.start_step, batch_size, run.is_main, run.recipe.run.log_every)
    with progress, StopRequest(progress.note) as request:
        for note in run.notes:
            progress.note(note)
        previous: StepResult | None = None
        for step, (batches, waited, started) in enumerate(timed(run.batches.steps()), start=run.start_step):
            # The numbers of a step are checked when the next one starts: by then the device has computed them.
            if previous is not None:
                run.check(step, previous)
            run.skipped.add(batches)
            previous = run.stepper.step(step, batches)
            run.batches.note_read(batches)
            after_step(run, progress, step + 1, previous, waited, started)
            for number, entry in run.skipped.new_entries():
                progress.note(f"skipped image {number}: {entry}")
            signal_number = run.agree_on_signal(request.signal_number)
            if signal_number is not None:
                save(run, step + 1, previous)
                raise Stopped(signal_number, step + 1)
        if previous is not None:
            save(run, run.num_steps, previous)


def timed(groups: Iterator[list[dict[str, Any]]]) -> Iterator[tuple[list[dict[str, Any]], float, float]]:
    """Yields the batches of each step with the seconds waited for them, and the time at which the wait began."""
    while True:
        started = time.perf_counter()
        group = next(groups, None)
        if group is None:
            return
        yield group, time.perf_counter() - started, started


def after_step(run: Run, progress: RunProgress, done: int, result: StepResult, waited: float, started: float) -> None:
    """Writes journal, probe, preview, checkpoint and export, each when it is due after `done` steps."""
    settings = run.recipe.run
    values: dict[str, float] = {}
    if is_due(done, settings.log_every, run.num_steps):
        values = measure(run, result)
    if values or run.accelerator.num_processes == 1:
        run.skipped.share()
    facts = progress.update(done, values, waited, time.perf_counter() - started)
    probed = probe(run, progress, done, time.perf_counter() - started)
    values = (values | facts if values else {}) | probed
    if values and run.is_main:
        run.folder.journal.write(done, values)
        if settings.trackers:
            run.accelerator.log(values, step=done)
    if done % settings.save_every == 0 and done < run.num_steps:  # first, so that a disk that fills up costs no steps
        save(run, done, result)
    if settings.preview_every and done % settings.preview_every == 0:
        write_preview(run, done)
    if settings.export_every and done % settings.export_every == 0 and done < run.num_steps:
        run.check(done, result)
        export(run, done)


def is_due(done: int, every: int, total: int) -> bool:
    """Returns whether something that comes every `every` steps, and at the first and last one, is due now."""
    return done % every == 0 or done in (1, total)


def measure(run: Run, result: StepResult) -> dict[str, float]:
    """Returns losses and meters of a step. They are means over processes; token meters are those of the main one."""
    names = list(result.losses)
    losses = run.accelerator.reduce(torch.stack([result.losses[name] for name in names]), reduction="mean")
    values = dict(zip(names, losses.tolist(), strict=True))
    if result.output.mean_assignment is not None:
        result.output.mean_assignment = run.accelerator.reduce(result.output.mean_assignment, reduction="mean")
    if run.is_main:
        values |= collapse_meters(result.output)
    values["gradient_norm"] = float(result.gradient_norm)
    values["learning_rate"] = max(group["lr"] for group in run.stepper.optimizer.param_groups)
    return values


def probe(run: Run, progress: RunProgress, done: int, step_seconds: float) -> dict[str, float]:
    """Measures the probe if it is due after `done` steps. All processes call it; the main one measures.

    Others wait for it at their next exchange, as for a preview; a probe gives up before they would wait too long.
    """
    if run.probe is None:
        return {}
    run.probe.note_step(step_seconds)
    if not is_due(done, run.recipe.run.probe_every, run.num_steps):
        return {}
    model = inference_model(run.model, run.is_main)
    if model is None:
        return {}
    values = run.probe.measure(model, autocast=run.accelerator.autocast())
    for line in run.probe.lines(done, values):
        progress.note(line)
    return values


def save(run: Run, done: int, result: StepResult) -> None:
    """Writes a checkpoint after `done` steps, unless this run has just written it.

    Raises:
        NonFiniteLossError: if a number of the step is not finite.
    """
    run.check(done, result)
    if done == run.folder.saved_step:
        return
    run.skipped.share()
    images = run.batches.facts
    facts = {**images, "step": done, "stamps": run.batches.stamps, "config": run.model.config.to_dict()}
    facts["skipped"] = list(run.skipped.numbers)
    if images["num_images"] is None:
        facts["cursors"] = dict(sorted(gather_object(list(run.batches.cursors.items()))))
    write = partial(write_checkpoint, run, facts)
    run.folder.checkpoints.save(done, write, is_main=run.is_main, barrier=run.accelerator.wait_for_everyone)
    run.folder.saved_step = done


def write_checkpoint(run: Run, facts: dict[str, object], folder: Path) -> None:
    """Writes this process's files of a checkpoint."""
    write_run(folder, run.model, run.stepper.optimizer.optimizer, run.accelerator.scaler, facts, run.is_main)
    write_random_state(folder, run.accelerator.process_index)


def write_preview(run: Run, done: int) -> None:
    """Writes the preview after `done` steps. All processes call it, and the main one draws."""
    model = inference_model(run.model, run.is_main)
    if model is not None:
        path = run.folder.path / PREVIEWS_FOLDER / f"step-{done:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, preview_png(model, run, done))


def preview_png(model: StellarModel, run: Run, done: int) -> bytes:
    """Returns the preview, a PNG: the fixed images with their reconstructions and maps."""
    buffer = io.BytesIO()
    draw_preview(model, run.fixed_images, f"step {done}").save(buffer, format="PNG")
    return buffer.getvalue()


def export_last(run: Run) -> StellarModel | None:
    """Exports the model after the last step, unless an earlier start of the run has done that.

    All processes call it; the main one returns the model.
    """
    if run.is_finished and is_exported(run.folder.path, run.num_steps):
        return inference_model(run.model, run.is_main)
    return export(run, run.num_steps)


def export(run: Run, done: int) -> StellarModel | None:
    """Writes the model for inference after `done` steps. All processes call it; the main one writes and returns it."""
    model = inference_model(run.model, run.is_main)
    if model is not None:
        export_model(run.folder.path, model, run.recipe, card_facts(run, done), preview_png(model, run, done))
    return model
