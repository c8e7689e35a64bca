"""`stellar-hub serve` serves a model over HTTP."""

from enum import StrEnum
from typing import Annotated

import typer

from stellar_hub.cli.errors import UsageError, WrongUsage, reports_errors, wrong_usage
from stellar_hub.cli.messages import announce_loading, say, warn
from stellar_hub.cli.models import check_image_size, check_name
from stellar_hub.cli.options import (
    Debug,
    Fit,
    FitOption,
    ImageSize,
    ModelName,
    at_least,
    check_device,
    check_port,
    parse_image_size,
)


class PrecisionOption(StrEnum):
    """The precision of the computation."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def _check_devices(value: str) -> str:
    """Refuses a value of `--devices` that is no list of devices."""
    names = [name for name in value.split(",") if name.strip()]
    if not names:
        raise UsageError("--devices must be auto, or names with commas between them, such as cuda:0,cuda:1")
    return ",".join(check_device(name, "--devices") for name in names)


Devices = Annotated[
    str,
    typer.Option(
        "--devices",
        metavar="DEVICE,...",
        callback=_check_devices,
        help="Devices to run on, separated by commas, such as cuda:0,cuda:1. Each has a model and a thread of its own. "
        "auto uses all GPUs, or the CPU if there is none.",
    ),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address to bind to. 127.0.0.1 is for this machine alone. 0.0.0.0 is for everybody who reaches it, and "
        "needs a key: set the environment variable STELLAR_HUB_API_KEY.",
    ),
]
WithoutKey = Annotated[
    bool, typer.Option("--without-key", help="Let everybody in who reaches --host, although no key is set.")
]
Port = Annotated[
    int, typer.Option("--port", metavar="PORT", callback=check_port, help="Port to listen on; 0 takes a free one.")
]
MaxBatchSize = Annotated[
    int,
    typer.Option(
        "--max-batch-size",
        metavar="N",
        callback=at_least(1),
        help="Largest number of images that go through the model at once.",
    ),
]
MaxWait = Annotated[
    float,
    typer.Option(
        "--max-wait-ms",
        metavar="MS",
        callback=at_least(0),
        help="Milliseconds that the first image of a batch waits for others that are being read.",
    ),
]
MaxQueue = Annotated[
    int,
    typer.Option(
        "--max-queue",
        metavar="N",
        callback=at_least(1),
        help="Largest number of images that are accepted and not yet answered. Further requests get status 429.",
    ),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="Seconds that a request may take in all.")]
ShutdownTimeout = Annotated[
    float,
    typer.Option(
        "--shutdown-timeout",
        metavar="SECONDS",
        callback=at_least(0),
        help="Seconds that requests get to finish when the server stops.",
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        metavar="N",
        callback=at_least(1),
        help="Number of threads that read images and write answers. Default: number of cores, at most 4.",
        show_default=False,
    ),
]
Precision = Annotated[
    PrecisionOption,
    typer.Option(
        "--precision", help="Precision of the computation. float16 and bfloat16 use autocast; answers are float32."
    ),
]
Optimize = Annotated[
    bool,
    typer.Option(
        "--optimize",
        help="Measure at the start what makes the model faster on its device, and use it. Results then agree up to "
        "rounding, about 1e-6 of the largest value.",
    ),
]


@reports_errors
def serve(
    model: ModelName = "stellar-tiny",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    devices: Devices = "auto",
    precision: Precision = PrecisionOption.float32,
    optimize: Optimize = False,
    fit: Fit = FitOption.crop,
    image_size: ImageSize = None,
    max_batch_size: MaxBatchSize = 32,
    max_wait_ms: MaxWait = 10.0,
    max_queue: MaxQueue = 256,
    timeout: Timeout = 60.0,
    shutdown_timeout: ShutdownTimeout = 30.0,
    num_workers: NumWorkers = None,
    without_key: WithoutKey = False,
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP: images to tokens and vectors, and tokens to images.

    GET / lists the endpoints. Images that come at about the same time go through the model together. SIGTERM or Ctrl-C
    stops the server: it answers what it has accepted, and a second signal ends it at once. With the environment
    variable STELLAR_HUB_API_KEY, requests must have this key. Install it with: pip install 'stellar_hub[serve]'.

    Example: stellar-hub serve --model stellar-tiny --port 8000
    """
    size = parse_image_size(image_size)
    check_name(model)
    from stellar_hub import serving  # before anything is loaded, so that a missing extra is told at once

    with wrong_usage():
        settings = serving.ServingSettings(
            max_batch_size,
            max_wait_ms,
            max_queue,
            timeout,
            shutdown_timeout,
            num_workers or 0,
            precision.value,
            optimize,
        )
        key = serving.key_of_environment()
        serving.check_access(host, key, without_key)
    if without_key and key is not None:
        raise WrongUsage("--without-key and the environment variable STELLAR_HUB_API_KEY exclude each other")
    announce_loading(model)
    check_image_size(model, size, fit.value)
    service = serving.Service.load(model, devices.split(","), settings, fit.value, size)
    if without_key:
        warn(f"note: everybody who reaches {host} can use this server; there is no key")
    left = serving.serve(
        service,
        host,
        port,
        key,
        without_key,
        lambda address: say(f"serving {service.name} at {address} (Ctrl-C or SIGTERM stops it)"),
    )
    if left:
        raise RuntimeError(f"stopped; {left} images had no answer after {shutdown_timeout:g} seconds")
    warn("stopped; all that was accepted is answered")
