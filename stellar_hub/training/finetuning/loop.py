"""Training a classifier: the loop over the steps of a run, what it measures as it goes, and what it leaves."""

import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.hub.push import base_model_of
from stellar_hub.modeling import StellarForImageClassification
from stellar_hub.modeling.atomic_write import replaced_folder
from stellar_hub.training.checkpoints.run_state import write_random_state, write_run
from stellar_hub.training.exports import MODEL_FOLDER
from stellar_hub.training.finetuning.batches import UNREADABLE
from stellar_hub.training.finetuning.measuring import Answers, measure
from stellar_hub.training.finetuning.models import model_to_save
from stellar_hub.training.finetuning.report import FinetuneReport, write_report
from stellar_hub.training.finetuning.run import FinetuneRun, build_run, split_images
from stellar_hub.training.finetuning.settings import FinetuneSettings
from stellar_hub.training.monitoring.progress import RunProgress
from stellar_hub.training.run import RunFolder
from stellar_hub.training.step import StepResult
from stellar_hub.training.stopping import StopRequest, agree_on_signal, check_finite
from stellar_hub.training.train import Stopped, is_due, memory_errors, timed

ADVICE = "lower the batch size or the number of workers, or switch gradient checkpointing on"


def finetune(
    train: LabelledImages,
    test: LabelledImages | None,
    settings: FinetuneSettings,
    output: str | os.PathLike[str],
    *,
    resume: str | os.PathLike[str] | None = None,
    cpu: bool = False,
) -> FinetuneReport:
    """Trains a classifier on labelled images. It runs alone, or in each process of `accelerate launch`.

    Images that cannot be read are named and left out.

    Args:
        train: Images to learn from.
        test: Images to measure on; None holds a share of each class of `train` out.
        settings: The settings.
        output: Folder of the run: `finetune.json`, `metrics.jsonl`, `checkpoints/`, `model/`, which
            `StellarForImageClassification.from_pretrained` loads, and at the end `report.json`, `report.md` and
            `confusion.png`.
        resume: None starts a new run, and refuses a folder that holds one. "auto" resumes the folder's newest
            checkpoint, or starts. A path resumes that checkpoint. On a CPU, a resumed run ends with the same weights as
            one that was never interrupted.
        cpu: Whether to stay on the CPU even if there is a GPU.

    Returns:
        The report on the saved model.

    Raises:
        ImportError: if peft or a tracker is not installed.
        ValueError: if images, settings and number of processes do not fit each other, or a checkpoint is of another
            run.
        OSError: if something cannot be read or written; earlier checkpoints stay complete.
        Stopped: if SIGTERM or Ctrl-C stopped the run, after a checkpoint was saved. A second signal ends the process at
            once, without a checkpoint.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    images = split_images(train, test, settings)
    folder = RunFolder(Path(output), settings.keep_checkpoints)
    try:
        with memory_errors(folder.checkpoints, ADVICE):
            run = build_run(folder, images, settings, resume, cpu)
            run_steps(run)
            run.accelerator.wait_for_everyone()
            report = finish(run)
            if settings.trackers:
                run.accelerator.end_training()
            return report
    finally:
        folder.release()


def run_steps(run: FinetuneRun) -> None:
    """Does all steps that are left.

    Raises:
        Stopped: if a signal stopped the run; a checkpoint is saved first.
        NonFiniteLossError: if a loss is NaN or infinite.
    """
    log_every = run.settings.log_every
    progress = RunProgress(run.num_steps, run.start_step, run.batch_size, run.is_main, log_every)
    run.wrapped.train()
    with progress, StopRequest(progress.note) as request:
        for note in run.notes:
            progress.note(note)
        previous: StepResult | None = None
        for step, (batch, waited, started) in enumerate(timed(iter(run.training_batches())), start=run.start_step):
            # The numbers of a step are checked when the next one starts: by then the device has computed them.
            if previous is not None:
                check(run, step, previous)
            run.skipped.add([batch])
            previous = train_step(run, step, batch)
            after_step(run, progress, step + 1, previous, waited, started)
            signal_number = agree_on_signal(run.accelerator, request.signal_number)
            if signal_number is not None:
                save(run, step + 1, previous)
                raise Stopped(signal_number, step + 1)


def train_step(run: FinetuneRun, step: int, batch: dict[str, Any]) -> StepResult:
    """Does one step, and returns its loss; `step` counts from 0."""
    run.schedule.step_update(step)
    device = run.accelerator.device
    logits = run.wrapped(batch["pixel_values"].to(device, non_blocking=True)).logits
    loss = mean_loss(logits, batch["labels"].to(device, non_blocking=True), run.settings.label_smoothing)
    run.accelerator.backward(loss)
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    clip_norm = float("inf") if run.settings.clip_norm is None else run.settings.clip_norm
    norm = run.accelerator.clip_grad_norm_(parameters, clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    no_output: Any = None
    return StepResult({"loss": loss.detach()}, torch.as_tensor(norm).detach(), no_output, batch["paths"])


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Returns the mean cross-entropy over the images that could be read; 0 if there are none."""
    total = F.cross_entropy(
        logits.float(), labels, ignore_index=UNREADABLE, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (labels != UNREADABLE).sum().clamp(min=1)


def check(run: FinetuneRun, step: int, result: StepResult) -> None:
    """Raises NonFiniteLossError if a number of a step is not finite."""
    check_finite(step, result, run.folder.checkpoints.latest(), scaled=run.accelerator.scaler is not None)


def after_step(
    run: FinetuneRun, progress: RunProgress, done: int, result: StepResult, waited: float, started: float
) -> None:
    """Writes journal, measures the test images and saves a checkpoint, each when it is due after `done` steps."""
    settings, ends_epoch = run.settings, run.ends_epoch(done)
    values: dict[str, float] = {}
    if is_due(done, settings.log_every, run.num_steps):
        values = {"loss": float(run.accelerator.reduce(result.losses["loss"], reduction="mean"))}
        values["gradient_norm"] = float(result.gradient_norm)
        values["learning_rate"] = max(group["lr"] for group in run.optimizer.param_groups)
    if values or ends_epoch or run.accelerator.num_processes == 1:
        run.skipped.share()
    facts = progress.update(done, values, waited, time.perf_counter() - started)
    values = values | facts if values else {}
    if ends_epoch:
        check(run, done, result)
        values |= measure_epoch(run, progress, done)
    if values and run.is_main:
        run.folder.journal.write(done, values)
        if settings.trackers:
            run.accelerator.log(values, step=done)
    for number, entry in run.skipped.new_entries():
        progress.note(f"skipped image {number}: {entry}")
    if len(run.skipped) == len(run.images.train):
        raise ValueError(f"none of the {len(run.images.train)} images of {run.images.train.name} can be read")
    due = ends_epoch if settings.save_every is None else done % settings.save_every == 0 or done == run.num_steps
    if due:
        save(run, done, result)


def measure_epoch(run: FinetuneRun, progress: RunProgress, done: int) -> dict[str, float]:
    """Measures the test images after `done` steps, and writes the model if its weights are to be kept."""
    answers = measure(run.wrapped, run.test_batches(), run.images.test, run.accelerator)
    accuracy = answers.accuracy
    is_kept = run.settings.keep == "last" or run.best is None or accuracy > run.best[0]
    progress.note(
        f"epoch {done * run.batch_size // len(run.images.train)} of {run.settings.epochs}: accuracy {accuracy:.1%}, "
        f"test loss {answers.loss:.4g}{', kept' if is_kept and run.settings.keep == 'best' else ''}"
    )
    if is_kept:
        run.best = accuracy, done
        write_model(run, answers)
    return {"accuracy": accuracy, "test_loss": answers.loss}


def write_model(run: FinetuneRun, answers: Answers) -> None:
    """Writes OUTPUT/model, which replaces an earlier one as a whole. All processes call it; the main one writes."""
    if not run.is_main:
        return
    output, settings = run.folder.path, run.settings
    for leftover in output.glob(f".{MODEL_FOLDER}*.part"):  # a killed run did not finish it
        shutil.rmtree(leftover, ignore_errors=True)
    with replaced_folder(output / MODEL_FOLDER) as part:
        run.processor.save_pretrained(part)
        model_to_save(run.model).save_pretrained(
            part,
            name=output.absolute().name,
            license=settings.license,
            base_model=base_model_of(settings.model),
            metrics={"accuracy": answers.accuracy},
        )


def save(run: FinetuneRun, done: int, result: StepResult) -> None:
    """Writes a checkpoint after `done` steps, unless this run has just written it.

    Raises:
        NonFiniteLossError: if a number of the step is not finite.
    """
    check(run, done, result)
    if done == run.folder.saved_step:
        return
    run.skipped.share()
    facts: dict[str, Any] = {"step": done, "settings": run.settings.as_dict(), "data": run.images.facts()}
    facts |= {"best": run.best, "skipped": list(run.skipped.numbers)}
    barrier = run.accelerator.wait_for_everyone
    run.folder.checkpoints.save(done, partial(write_checkpoint, run, facts), is_main=run.is_main, barrier=barrier)
    run.folder.saved_step = done


def write_checkpoint(run: FinetuneRun, facts: dict[str, Any], folder: Path) -> None:
    """Writes this process's files of a checkpoint."""
    write_run(folder, run.model, run.optimizer.optimizer, run.accelerator.scaler, facts, run.is_main)
    write_random_state(folder, run.accelerator.process_index)


def finish(run: FinetuneRun) -> FinetuneReport:
    """Measures the saved model once more, as users load it, and writes the report. All processes call it."""
    folder = run.folder.path / MODEL_FOLDER
    if run.best is None:  # the run goes on from the last checkpoint of another folder
        answers = measure(run.wrapped, run.test_batches(), run.images.test, run.accelerator)
        run.best = answers.accuracy, run.num_steps
        write_model(run, answers)
        run.accelerator.wait_for_everyone()
    saved = StellarForImageClassification.from_pretrained(folder, dtype=torch.float32).to(run.accelerator.device)
    answers = measure(saved, run.test_batches(), run.images.test, run.accelerator)
    report = FinetuneReport(
        settings=run.settings,
        answers=answers,
        num_train=len(run.images.train),
        train_counts=tuple(run.images.train.counts()),
        names=(run.images.train.name, run.images.test.name),
        held_out=run.images.held_out,
        kept_step=run.best[1],
        num_steps=run.num_steps,
        skipped=tuple(run.skipped.numbers),
    )
    if run.is_main:
        write_report(run.folder.path, report)
    run.accelerator.wait_for_everyone()
    return report
