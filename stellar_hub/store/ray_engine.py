"""An extraction on a Ray cluster: Ray Data deals out the shards to actors, each with its own model.

The store is the same as without Ray. All machines must reach source and store by the same paths.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.extras import require
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.encoding import AUTO, precision_on
from stellar_hub.features.identity import PILLOW, choose_device, weights_sha256
from stellar_hub.features.jpeg_decoding import TORCHVISION, decoder_on
from stellar_hub.features.preparation import check_at_least
from stellar_hub.store.command import (
    Command,
    completed,
    load_for_extraction,
    open_for_extraction,
    spell_damaged,
    what_was_redone,
    what_was_retried,
)
from stellar_hub.store.decisions import of_the_store
from stellar_hub.store.extract_shards import extract_shards
from stellar_hub.store.files import pyarrow
from stellar_hub.store.fill import complete
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import Manifest, remove_all_unfinished
from stellar_hub.store.plan import ExtractionOptions, encoder_of, make_plan
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.resume import Work, begin, plan_work, prepare_folder


def extract_with_ray(
    command: Command, address: str | None, num_actors: int, say: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Extracts on a cluster.

    Args:
        command: Values of the command's options.
        address: Address of the cluster; None starts one on this machine, for this run.
        num_actors: Number of models that run at once.
        say: Function that shows a line about the source while the work begins.

    Returns:
        The lines to print.

    Raises:
        ImportError: if Ray or pyarrow is not installed.
        RuntimeError: if an actor fails; the same command resumes the extraction.
        ValueError: if an option does not fit, or for the reasons of `extract_to_store`.
    """
    if command.append:
        raise ValueError(
            "the engine ray does not append: leave out --engine ray, or launch several processes with accelerate launch"
        )
    ray = require("ray.data", "ray", "the engine ray")
    pyarrow()
    check_at_least("actors", num_actors, 1)
    source = open_for_extraction(command, say)
    model, processor = load_for_extraction(command.model, "cpu", command.fit, command.image_size)
    backbone = as_backbone(model, processor)
    with _connected(ray, address):
        plan = make_plan(backbone, source, _decided(ray, command), command.sources)
        folder = prepare_folder(command.output.absolute())
        with StoreLock(folder) as lock:
            remove_all_unfinished(folder)
            plan = begin(folder, plan, command.repair)
            work = plan_work(folder, plan, source, range(plan.num_shards), command.repair, command.retry_errors)
            if (work.shards or work.retried) and plan.counts is not None:
                plan = replace(plan, counts=None)  # until it is complete again
                plan.write(folder)
            done = plan.num_rows - work.num_rows(plan)
            recovered = 0
            with ExtractionProgress(plan.num_rows, done) as progress:
                for result in _run_actors(ray, work, (plan, folder, source, work, command), num_actors):
                    progress.update(result["rows"], result["errors"])
                    recovered += result["recovered"]
            with lock.merging():
                plan = complete(folder, plan)
    lines = what_was_redone(work.repaired, work.num_stale)
    if command.retry_errors:
        lines.append(what_was_retried(work.num_failed, recovered))
    now = f"{progress.rows} now, {progress.rows_per_second:.3g} rows/s"
    now += f"; {spell_damaged(source.damaged)}" if source.damaged else ""
    return [*lines, *completed(command.output, now, retried=command.retry_errors)]


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connects to a cluster inside the block, unless there is a connection already.

    Raises:
        ConnectionError: if no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    options = {} if address else {"include_dashboard": False}
    ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield
    finally:
        ray.shutdown()


def _decided(ray: Any, command: Command) -> ExtractionOptions:
    """Returns the options without "auto", by the store, or else by the device of an actor, without measuring.

    Raises:
        ValueError: if the decoder does not work on that device.
    """
    options = of_the_store(command.options, command.output)
    if {AUTO, TORCHVISION}.isdisjoint((options.precision, options.decoder)):
        return options
    facts = ray.remote(num_gpus=_gpus_of_actor(ray))(facts_of_device)
    device, precision = ray.get(facts.remote(command.device))
    if options.precision == AUTO:
        options = replace(options, precision=precision)
    if options.decoder == AUTO:
        options = replace(options, decoder=TORCHVISION if device == "cuda" else PILLOW)
    return replace(options, decoder=decoder_on(options.decoder, torch.device(device)))


def facts_of_device(device: str) -> tuple[str, str]:
    """Returns the type of the device that a name means on this machine, and the precision that "auto" is on it."""
    found = torch.device(choose_device(device))
    return found.type, precision_on(found)


def _gpus_of_actor(ray: Any) -> int:
    return 1 if ray.cluster_resources().get("GPU", 0) else 0


def _run_actors(ray: Any, work: Work, arguments: tuple[Any, ...], num_actors: int) -> Iterator[dict[str, int]]:
    """Extracts some shards in any order; yields the numbers of rows, of errors and of recovered rows of each.

    Raises:
        RuntimeError: if an actor fails.
    """
    shards = sorted({*work.shards, *work.retried})
    if not shards:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts rows
    table = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
    results = table.map(
        ShardActor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(shards))),
        num_gpus=_gpus_of_actor(ray),
    )
    try:
        yield from results.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RuntimeError(f"a Ray actor failed ({reason}): the same command resumes the extraction") from error


class ShardActor:
    """A model that extracts shards; Ray starts one or several.

    Raises:
        ValueError: if its model is not the one of the plan.
    """

    def __init__(self, plan: Manifest, folder: Path, source: ImageSource, work: Work, command: Command):
        torch.set_num_threads(1)  # Ray gives an actor one core
        network, processor = load_for_extraction(command.model, command.device, command.fit, command.image_size)
        if weights_sha256(network) != plan.model["weights_sha256"]:
            raise ValueError(
                f"the model {command.model} has other weights on this machine than where the run was started"
            )
        self.plan = plan
        self.folder = folder
        self.source = source
        self.work = work
        self.num_workers = command.num_workers
        self.encoder = encoder_of(plan, as_backbone(network, processor))

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Extracts a shard; returns its numbers of rows, of rows with an error, and of recovered rows."""
        progress = ExtractionProgress(0, enabled=False)
        number, retried = row["shard"], self.work.retried
        work = replace(
            self.work,
            shards=[] if number in retried else [number],
            retried={number: retried[number]} if number in retried else {},
        )
        found = extract_shards(self.plan, self.folder, work, self.source, self.encoder, self.num_workers, progress)
        return {"rows": progress.rows, "errors": progress.errors, "recovered": found}
