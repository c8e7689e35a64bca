"""An extraction on a Ray cluster: Ray Data hands out the shards, actors with a model each do them.

The store is that of a run without Ray. Source and store have to be reachable on all machines by the same paths.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource, open_sources
from stellar_hub.features.identity import weights_sha256
from stellar_hub.features.in_memory import check_at_least
from stellar_hub.features.loading import load_model
from stellar_hub.features.progress import ExtractionProgress
from stellar_hub.store.command import Command, completed
from stellar_hub.store.completion import complete, missing_shards, remove_damaged
from stellar_hub.store.index_file import pyarrow
from stellar_hub.store.lock import StoreLock
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import make_plan
from stellar_hub.store.shard_work import encoder_of, extract_shards, load_for_extraction
from stellar_hub.store.to_store import begin, prepare_folder

INSTALL = "the engine ray is Ray Data: pip install 'stellar_hub[ray]'"


def ray_data() -> Any:
    """The library, or how to get it.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(INSTALL) from error
    return ray


def extract_with_ray(command: Command, address: str | None, num_actors: int) -> list[str]:
    """Extract on a cluster.

    Args:
        command: What was asked for.
        address: Of the cluster; None starts one on this machine, for this run.
        num_actors: Models at a time.

    Returns:
        What there is to say.

    Raises:
        ImportError: if Ray or pyarrow is not installed.
        RuntimeError: if an actor fails; the same command goes on where it stopped.
        ValueError: if an option does not fit; and what `extract_to_store` raises.
    """
    ray = ray_data()
    pyarrow()
    check_at_least("actors", num_actors, 1)
    source = open_sources(command.sources)
    model, processor = load_model(command.model, "cpu", command.fit, decoder=False)
    plan = make_plan(model, processor, source, command.options, command.sources)
    folder = prepare_folder(command.output.absolute())
    with StoreLock(folder) as lock:
        plan = begin(folder, plan, command.repair)
        shards = range(plan.num_shards)
        lines = (
            [f"damaged, done again: {line}" for line in remove_damaged(folder, plan, shards)] if command.repair else []
        )
        todo = missing_shards(folder, plan, shards)
        done = plan.num_rows - sum(len(plan.rows_of_shard(number)) for number in todo)
        with connected(ray, address), ExtractionProgress(plan.num_rows, done) as progress:
            arguments = (plan, folder, source, command.model, command.fit, command.device, command.num_workers)
            for result in run_actors(ray, todo, arguments, num_actors):
                progress.update(result["rows"], result["errors"])
        with lock.merging():
            plan = complete(folder, plan)
    now = f"{progress.rows} rows now, {progress.errors} with an error, {progress.rows_per_second:.3g} rows/s"
    return [*lines, f"{completed(command.output, plan)} ({now})"]


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to a cluster, unless there is one already.

    Raises:
        ConnectionError: if there is no cluster at the address.
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


def run_actors(
    ray: Any, shards: Sequence[int], arguments: tuple[Any, ...], num_actors: int
) -> Iterator[dict[str, int]]:
    """Do some shards, in any order; rows and errors of each.

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
        raise RuntimeError(f"a Ray actor failed ({reason}): the same command goes on where it stopped") from error


class ShardActor:
    """Extracts shards; Ray starts some, each with a model.

    Raises:
        ValueError: if its model is not the one of the plan.
    """

    def __init__(
        self, plan: Manifest, folder: Path, source: ImageSource, model: str, fit: str, device: str, num_workers: int
    ):
        torch.set_num_threads(1)  # as Ray gives an actor one core
        network, self.processor = load_for_extraction(model, device, fit)
        if weights_sha256(network) != plan.model["weights_sha256"]:
            raise ValueError(f"the model {model} has other weights on this machine than where the run was started")
        self.plan = plan
        self.folder = folder
        self.source = source
        self.num_workers = num_workers
        self.encoder = encoder_of(plan, network, self.processor)

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        """Extract a shard; how many rows it has, and how many of them with an error."""
        shards = [row["shard"]]
        progress = ExtractionProgress(0, enabled=False)
        extract_shards(
            self.plan, self.folder, shards, self.source, self.processor, self.encoder, self.num_workers, progress
        )
        return {"rows": progress.rows, "errors": progress.errors}
