"""The training loop: steps, journal, images, checkpoints, and what is left at the end.

It knows neither the objective nor the optimizer: `step.py` does a step, `run.py` puts the parts together.
"""

import io
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather_object

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.training.checkpoints.run_folder import PREVIEWS_FOLDER
from stellar_hub.training.checkpoints.run_state import write_random_state, write_run
from stellar_hub.training.exports import export_model
from stellar_hub.training.monitoring.collapse_meters import collapse_meters
from stellar_hub.training.monitoring.previews import draw_preview
from stellar_hub.training.monitoring.progress import RunProgress
from stellar_hub.training.run import Run
from stellar_hub.training.sharding import inference_model
from stellar_hub.training.step import StepResult
from stellar_hub.training.stopping import StopRequest


class Stopped(Exception):  # noqa: N818  # no error: what was asked for
    """A run was asked to stop; its checkpoint is saved."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(f"stopped at step {step}, checkpoint saved; --resume auto goes on")
        self.signal_number = signal_number


def run_loop(run: Run) -> None:
    """Do all steps that are left.

    Raises:
        Stopped: if a signal asked for it; a checkpoint is saved first.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    batch_size = run.recipe.optimization.batch_size * run.recipe.optimization.gradient_accumulation_steps
    progress = RunProgress(run.num_steps, run.start_step, batch_size, run.is_main, run.recipe.run.log_every)
    with progress, StopRequest() as request:
        for sentence in run.notes:
            progress.note(sentence)
        previous: StepResult | None = None
        for step, (batches, waited, started) in enumerate(timed(run.batches()), start=run.start_step):
            # A step's numbers are looked at when the next one begins: the device has them by then.
            if previous is not None:
                run.check(step, previous)
            run.unshared += [entry for batch in batches for entry in batch["skipped"]]
            previous = run.stepper.step(step, batches)
            for batch in batches:
                run.cursors |= batch.get("cursors", {})
            after_step(run, progress, step + 1, previous, waited, started)
            announce_skipped(run, progress)
            stop = run.agree(request.signal_number)
            if stop is not None:
                save(run, step + 1, previous)
                raise Stopped(stop, step + 1)
        if previous is not None:
            save(run, run.num_steps, previous)


def timed(batches: Iterator[list[dict[str, Any]]]) -> Iterator[tuple[list[dict[str, Any]], float, float]]:
    """Each group of batches with the seconds waited for it, and when the wait began."""
    while True:
        started = time.perf_counter()
        group = next(batches, None)
        if group is None:
            return
        yield group, time.perf_counter() - started, started


def after_step(run: Run, progress: RunProgress, done: int, result: StepResult, waited: float, started: float) -> None:
    """Journal, image, checkpoint and export, each when it is due; `done` steps are done."""
    settings = run.recipe.run
    values: dict[str, float] = {}
    if due(done, settings.log_every, run.num_steps):
        values = measure(run, result)
    if values or run.accelerator.num_processes == 1:
        share_skipped(run)
    facts = progress.update(done, values, waited, time.perf_counter() - started)
    if values and run.is_main:
        run.journal.write(done, values | facts)
        if settings.trackers:
            run.accelerator.log(values | facts, step=done)
    if settings.preview_every and done % settings.preview_every == 0:
        draw(run, done)
    if done % settings.save_every == 0 and done < run.num_steps:
        save(run, done, result)
    if settings.export_every and done % settings.export_every == 0 and done < run.num_steps:
        run.check(done, result)
        export(run, done)


def due(done: int, every: int, total: int) -> bool:
    """Whether something happens after this step: every so many, after the first, and after the last."""
    return done % every == 0 or done in (1, total)


def measure(run: Run, result: StepResult) -> dict[str, float]:
    """Losses and meters: means over the processes, those of an image's tokens over this process's images."""
    names = list(result.losses)
    losses = run.accelerator.reduce(torch.stack([result.losses[name] for name in names]), reduction="mean")
    values = dict(zip(names, losses.tolist(), strict=True))
    result.output.mean_assignment = run.accelerator.reduce(result.output.mean_assignment, reduction="mean")
    if run.is_main:
        values |= collapse_meters(result.output)
    values["gradient_norm"] = float(result.gradient_norm)
    values["learning_rate"] = max(group["lr"] for group in run.stepper.optimizer.param_groups)
    return values


def save(run: Run, done: int, result: StepResult) -> None:
    """Write a checkpoint after `done` steps, if all is well and this run has not just written it."""
    run.check(done, result)
    if done == run.saved_step:
        return
    share_skipped(run)
    facts = {**run.facts, "step": done, "config": run.model.config.to_dict(), "skipped": list(run.skipped)}
    if run.facts["num_images"] is None:
        facts["cursors"] = dict(sorted(gather_object(list(run.cursors.items()))))

    def write(folder: Any) -> None:
        write_run(folder, run.model, run.stepper.optimizer.optimizer, run.accelerator.scaler, facts, run.is_main)
        write_random_state(folder, run.accelerator.process_index)

    run.checkpoints.save(done, write, is_main=run.is_main, barrier=run.accelerator.wait_for_everyone)
    run.saved_step = done


def draw(run: Run, done: int) -> None:
    """Write the image of what the model sees after `done` steps; all processes call it, the main one draws."""
    model = inference_model(run.model, run.is_main)
    if model is not None:
        path = run.output / PREVIEWS_FOLDER / f"step-{done:06d}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, preview_of(model, run, done))


def preview_of(model: StellarModel, run: Run, done: int) -> bytes:
    """The fixed images and what the model makes of them, a PNG."""
    buffer = io.BytesIO()
    draw_preview(model, run.fixed_images, f"step {done}").save(buffer, format="PNG")
    return buffer.getvalue()


def export(run: Run, done: int) -> StellarModel | None:
    """Write the model for inference after `done` steps; all processes call it, the main one writes and gets it."""
    model = inference_model(run.model, run.is_main)
    if model is not None:
        export_model(run.output, model, run.recipe, run.card_facts(done), preview_of(model, run, done))
    return model


def share_skipped(run: Run) -> None:
    """Count the images that any process could not read, each once; all processes call it in the same steps."""
    for entry in gather_object(run.unshared):
        run.skipped.setdefault(entry, len(run.skipped) + 1)
    run.unshared = []


def announce_skipped(run: Run, progress: RunProgress) -> None:
    """Name those that were not named yet."""
    for entry in list(run.skipped)[run.announced :]:
        progress.note(f"skipped image {run.skipped[entry]}: {entry}")
    run.announced = len(run.skipped)
