"""`stellar-hub extract`: features of many images into a store."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug, Device, FitOption, ModelName


class DtypeOption(StrEnum):
    """What features are stored in; the choices of `ExtractionOptions`."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class PrecisionOption(StrEnum):
    """What features are computed in; likewise."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class EngineOption(StrEnum):
    """Who runs the processes."""

    local = "local"
    ray = "ray"


class FixedFitOption(StrEnum):
    """The fits that give images of one size."""

    crop = FitOption.crop.value
    pad = FitOption.pad.value


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folder of images, list (.txt), tar files (shard-{000..127}.tar), tables (.parquet) or hub:OWNER/NAME; "
        "several are put together.",
    ),
]
StoreFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder of the store; a store there goes on.")]
Outputs = Annotated[str, typer.Option("--outputs", help="Of S, L, pooled, cls and patches, with commas between.")]
Dtype = Annotated[DtypeOption, typer.Option("--dtype", help="Stored in; int8 keeps S as int8 and L as uint8.")]
Precision = Annotated[PrecisionOption, typer.Option("--precision", help="Computed in; the 16-bit ones are autocast.")]
Fit = Annotated[FixedFitOption, typer.Option("--fit", help="crop: the centre; pad: the whole image, with bars.")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images that go through the model at once.")]
ShardRows = Annotated[int, typer.Option("--shard-rows", help="Rows of a shard: what is done again after a kill.")]
NumWorkers = Annotated[
    int | None,
    typer.Option("--num-workers", help="Processes that read and fit images; left out, as many as there are cores."),
]
Repair = Annotated[bool, typer.Option("--repair", help="Read all that is there, and do again what is damaged.")]
Engine = Annotated[EngineOption, typer.Option("--engine", help="local, or ray: a cluster (needs the extra).")]
Address = Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; left out, one is started here.")]
Actors = Annotated[int, typer.Option("--actors", help="Models that Ray runs at a time, each on a GPU if there is one.")]


@reports_errors
def extract(
    sources: Sources,
    output: StoreFolder,
    model: ModelName = "stellar-tiny",
    outputs: Outputs = "S,L,pooled",
    dtype: Dtype = DtypeOption.float16,
    precision: Precision = PrecisionOption.float32,
    fit: Fit = FixedFitOption.crop,
    batch_size: BatchSize = 32,
    shard_rows: ShardRows = 1024,
    num_workers: NumWorkers = None,
    device: Device = "auto",
    repair: Repair = False,
    engine: Engine = EngineOption.local,
    address: Address = None,
    actors: Actors = 1,
    debug: Debug = False,
) -> None:
    """Extract features of images into a store; over several GPUs with `accelerate launch -m stellar_hub extract`.

    Killed at any moment, the same command goes on, to the same bytes. An image that cannot be read keeps its row, with
    its error in the index.

    Example: stellar-hub extract photos --output features
    """
    from stellar_hub.features.processes import LaunchedProcess, num_workers_for
    from stellar_hub.store.command import Command, extract_by_options
    from stellar_hub.store.plan import ExtractionOptions

    names = [name.strip() for name in outputs.split(",") if name.strip()]
    options = ExtractionOptions(names, dtype.value, precision.value, batch_size, shard_rows)
    workers = num_workers_for(LaunchedProcess.from_environment()) if num_workers is None else num_workers
    asked = Command(sources, output, model, fit.value, options, workers, device, repair)
    if engine is EngineOption.ray:
        from stellar_hub.store.ray_engine import extract_with_ray

        lines = extract_with_ray(asked, address, actors)
    elif address is not None or actors != 1:
        raise ValueError("--address and --actors are of the engine ray: pass --engine ray")
    else:
        lines = extract_by_options(asked)
    for line in lines:
        typer.echo(line)
