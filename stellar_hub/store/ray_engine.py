"""An extraction on a Ray cluster: Ray Data deals out the shards to actors, each with its own model.

The store is the same as without Ray. All machines must reach source and store by the same paths.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource, open_sources
from stellar_hub.extras import require
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.identity import load_model, weights_sha256
from stellar_hub.features.preparation import check_at_least
from stellar_hub.store.command import Command, completed, load_for_extraction
from stellar_hub.store.files import pyarrow
from stellar_hub.store.manifest import Manifest, StoreLock
from stellar_hub.store.plan import encoder_of, extract_shards, make_plan
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.to_store import begin, complete, missing_shards, prepare_folder, remove_damaged


def extract_with_ray(command: Command, address: str | None, num_actors: int) -> list[str]:
    """Extracts on a cluster.

    Args:
        command: Values of the command's options.
        address: Address of the cluster; None starts one on this machine, for this run.
        num_actors: Number of models that run at once.

    Returns:
        The lines to print.

    Raises:
        ImportError: if Ray or pyarrow is not installed.
        RuntimeError: if an actor fails; the same command resumes the extraction.
        ValueError: if an option does not fit, or for the reasons of `extract_to_store`.
    """
    ray = require("ray.data", "ray", "the engine ray")
    pyarrow()
    check_at_least("actors", num_actors, 1)
    source = open_sources(command.sources)
    model, processor = load_model(command.model, "cpu", command.fit, decoder=False)
    plan = make_plan(as_backbone(model, processor), source, command.options, command.sources)
    folder = prepare_folder(command.output.absolute())
    with StoreLock(folder) as lock:
        plan = begin(folder, plan, command.repair)
        shards = range(plan.num_shards)
        lines = (
            [f"damaged, extracted again: {line}" for line in remove_damaged(folder, plan, shards)]
            if command.repair
            else []
        )
        todo = missing_shards(folder, plan, shards)
        done = plan.num_rows - sum(len(plan.rows_of_shard(number)) for number in todo)
        with _connected(ray, address), ExtractionProgress(plan.num_rows, done) as progress:
            arguments = (plan, folder, source, command.model, command.fit, command.device, command.num_workers)
            for result in _run_actors(ray, todo, arguments, num_actors):
                progress.update(result["rows"], result["errors"])
        with lock.merging():
            plan = complete(folder, plan)
    now = f"{progress.rows} rows now, {progress.errors} with an error, {progress.rows_per_second:.3g} rows/s"
    return [*lines, f"{completed(command.output, plan)} ({now})"]


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


def _run_actors(
    ray: Any, shards: Sequence[int], arguments: tuple[Any, ...], num_actors: int
) -> Iterator[dict[str, int]]:
    """Extracts some shards in any order; yields the number of rows and of errors of each.

    Raises:
        RuntimeError: if an actor fails.
    """
    if not shards:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts rows
    table = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards))
    results = table.map(
        ShardActor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(shards))),
        num_gpus=1 if ray.cluster_resources().get("GPU", 0) else 0,
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

    def __init__(
        self,
        plan: Manifest,
        folder: Path,
        source: ImageSource,
        model: str,
        fit: str,
        device: str,
        num_workers: int | None,
    ):
        torch.set_num_threads(1)  # Ray gives an actor one core
        network, processor = load_for_extraction(model, device, fit)
        if weights_sha256(network) != plan.model["weights_sha256"]:
            raise ValueError(f"the model {model} has other weights on this machine than where the run was started")
        self.plan = plan
        self.folder = folder
        self.source = source
        self.num_workers = num_workers
        self.encoder = encoder_of(plan, as_backbone(network, processor))

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Extracts a shard; returns its number of rows and how many of them have an error."""
        progress = ExtractionProgress(0, enabled=False)
        extract_shards(self.plan, self.folder, [row["shard"]], self.source, self.encoder, self.num_workers, progress)
        return {"rows": progress.rows, "errors": progress.errors}
