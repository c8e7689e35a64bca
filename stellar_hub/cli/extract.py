"""`stellar-hub extract`: features of many images into a store."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors, wrong_usage
from stellar_hub.cli.images import note_repeated
from stellar_hub.cli.messages import announce_loading, say, warn
from stellar_hub.cli.models import check_image_size, check_name
from stellar_hub.cli.options import Debug, Device, FitOption, ImageSize, ModelName, at_least, parse_image_size


class DtypeOption(StrEnum):
    """Type of the stored features; the choices of `ExtractionOptions`."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


class PrecisionOption(StrEnum):
    """Precision of the computation; the choices of `ExtractionOptions`."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class DecoderOption(StrEnum):
    """What decodes JPEGs; choices of `ExtractionOptions`."""

    auto = "auto"
    pillow = "pillow"
    torchvision = "torchvision"


class EngineOption(StrEnum):
    """The engine that runs the processes."""

    local = "local"
    ray = "ray"


class FixedFitOption(StrEnum):
    """The fits that give all images one size."""

    crop = FitOption.crop.value
    pad = FitOption.pad.value


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Image, folder of images, list of paths (.txt), tar files (shard-{000..127}.tar), tables (.parquet) or "
        "hub:OWNER/NAME. Several sources are joined.",
    ),
]
StoreFolder = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FOLDER", help="Folder of the store. A store that is not complete is resumed."
    ),
]
Outputs = Annotated[
    str,
    typer.Option(
        "--outputs", metavar="NAME,...", help="Features to store, separated by commas: S, L, pooled, cls, patches."
    ),
]
Dtype = Annotated[
    DtypeOption, typer.Option("--dtype", help="Type of the stored features. int8 stores S as int8 and L as uint8.")
]
Precision = Annotated[
    PrecisionOption,
    typer.Option(
        "--precision",
        help="Precision of the computation. float16 and bfloat16 use autocast. auto is bfloat16 on GPUs that have it "
        "and float32 elsewhere; a store that is resumed keeps its own.",
    ),
]
Decoder = Annotated[
    DecoderOption,
    typer.Option(
        "--decoder",
        help="What decodes JPEGs: pillow in the worker processes, or torchvision on the device of the model (nvJPEG on "
        "a GPU), which gives slightly other pixels. auto measures on a GPU which is faster, and is pillow on a CPU; a "
        "store that is resumed keeps its own.",
    ),
]
Fit = Annotated[
    FixedFitOption,
    typer.Option("--fit", help="How an image fits the model: crop takes the centre, pad shows all of it with bars."),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", metavar="N", callback=at_least(1), help="Number of images per batch.")
]
ShardRows = Annotated[
    int,
    typer.Option(
        "--shard-rows",
        metavar="N",
        callback=at_least(1),
        help="Number of rows per shard. An interrupted run loses at most the last shards.",
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        metavar="N",
        callback=at_least(0),
        help="Number of worker processes that read images. Default: number of cores, at most 8. 0 reads in the main "
        "process.",
        show_default=False,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="FOLDER",
        help="Folder below which a table may name files of images, and links in folders may end. Default: a table "
        "gives the bytes in it alone.",
        show_default=False,
    ),
]
Repair = Annotated[bool, typer.Option("--repair", help="Read the whole store, and extract damaged rows again.")]
RetryErrors = Annotated[
    bool,
    typer.Option(
        "--retry-errors",
        help="Try rows with an error again, for example after a network disk was away. Rows with features keep them.",
    ),
]
Append = Annotated[
    bool,
    typer.Option(
        "--append",
        help="Add images that a complete store does not have as new rows; all other rows stay as they are. Without a "
        "store, begin one. With --repair, also extract rows again whose images have changed.",
    ),
]
Engine = Annotated[
    EngineOption,
    typer.Option(
        "--engine", help="Engine that runs the processes: local, or ray for a Ray cluster (needs stellar_hub[ray])."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        help="Address of the Ray cluster. Default: a cluster that starts on this machine for this run.",
    ),
]
Actors = Annotated[
    int,
    typer.Option(
        "--actors",
        metavar="N",
        callback=at_least(1),
        help="Number of models that Ray runs at once. Each uses one GPU if there are GPUs.",
    ),
]


@reports_errors
def extract(
    sources: Sources,
    output: StoreFolder,
    model: ModelName = "stellar-tiny",
    outputs: Outputs = "S,L,pooled",
    dtype: Dtype = DtypeOption.float16,
    precision: Precision = PrecisionOption.auto,
    decoder: Decoder = DecoderOption.pillow,
    fit: Fit = FixedFitOption.crop,
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    shard_rows: ShardRows = 1024,
    num_workers: NumWorkers = None,
    device: Device = "auto",
    root: Root = None,
    repair: Repair = False,
    retry_errors: RetryErrors = False,
    append: Append = False,
    engine: Engine = EngineOption.local,
    address: Address = None,
    actors: Actors = 1,
    debug: Debug = False,
) -> None:
    """Extract features of images into a store.

    An interrupted run resumes when you run the same command again, and the store is the same, byte for byte. Rows whose
    images have changed since are extracted again. An image that cannot be read keeps its row, and the index has its
    error. For several GPUs, use `accelerate launch -m stellar_hub extract`.

    Example: stellar-hub extract photos --output features

    Example: stellar-hub extract photos --output features --append
    """
    if engine is EngineOption.local and (address is not None or actors != 1):
        raise WrongUsage("--address and --actors belong to the engine ray: add --engine ray")
    if engine is EngineOption.ray and append:
        raise WrongUsage("the engine ray does not append: leave out --engine ray, or use accelerate launch")
    note_repeated(sources, "gets its rows each time")
    from stellar_hub.extras import require
    from stellar_hub.store import ExtractionOptions
    from stellar_hub.store.command import Command, extract_by_options

    size = parse_image_size(image_size)
    names = [name.strip() for name in outputs.split(",") if name.strip()]
    with wrong_usage():
        options = ExtractionOptions(names, dtype.value, precision.value, batch_size, shard_rows, decoder.value)
    command = Command(
        sources,
        output,
        model,
        fit.value,
        options,
        num_workers,
        device,
        repair,
        retry_errors,
        size,
        root,
        append,
    )
    require("pyarrow.parquet", "extract", "the index of a feature store")  # before a model is loaded
    check_name(model)
    announce_loading(model)
    check_image_size(model, size, fit.value)
    if engine is EngineOption.ray:
        from stellar_hub.store.ray_engine import extract_with_ray

        lines = extract_with_ray(command, address, actors, warn)
    else:
        lines = extract_by_options(command, warn)
    for line in lines:
        say(line)
