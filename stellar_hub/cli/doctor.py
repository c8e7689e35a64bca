"""`stellar-hub doctor` reports what is installed, whether its numbers are right, and how fast it is."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import announce_loading
from stellar_hub.cli.options import Debug

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarModel

PACKAGES = (
    "stellar_hub", "torch", "torchvision", "timm", "transformers", "huggingface-hub", "safetensors", "accelerate",
    "pillow", "numpy",
)  # fmt: skip
GOLDEN_TOLERANCE = 1e-3
BATCH_SIZE = 8
SECONDS = 1.0


@reports_errors
def doctor(debug: Debug = False) -> None:
    """Check the installation and print a report for bug reports.

    The report lists versions, devices, the Hub's settings, a check of stellar-tiny's numbers, and its speed.

    Example: stellar-hub doctor
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    for name, value in (environment() | devices() | hub()).items():
        say(name, value)
    from stellar_hub.modeling import StellarModel

    announce_loading("stellar-tiny")
    model = StellarModel.from_pretrained("stellar-tiny")
    difference = golden_difference(model)
    verdict = "agree" if difference <= GOLDEN_TOLERANCE else "DIFFER"
    say("numbers", f"{verdict} with those recorded for stellar-tiny: largest relative difference {difference:.1e}")
    reading, encoding = speeds(model)
    say("reading", f"{reading:.0f} images/s: decoding, resizing and cropping the demo's photographs in one process")
    say("encoding", f"{encoding:.0f} images/s: stellar-tiny with batches of {BATCH_SIZE} on {model.device}")
    reading_is_slower = "reading images: use more worker processes"
    say("bottleneck", reading_is_slower if reading < encoding else "encoding images: use larger batches or a GPU")
    if difference > GOLDEN_TOLERANCE:
        raise ValueError("stellar-tiny gives wrong numbers on this machine; please report this output")


def say(name: str, value: str) -> None:
    """Prints one line of the report, without what the address of a mirror may hold."""
    from stellar_hub.modeling.safe_text import mask_secrets, one_line

    typer.echo(f"{name:<16} {one_line(mask_secrets(value))}")


def environment() -> dict[str, str]:
    """Returns the operating system and the versions of Python and the packages."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def devices() -> dict[str, str]:
    """Returns the devices that torch can use."""
    import torch

    facts = {"cpu threads": f"{torch.get_num_threads()} of {os.cpu_count()}"}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"] = f"{torch.version.cuda}: {', '.join(names)}"
    else:
        facts["cuda"] = "not available"
    return facts


def hub() -> dict[str, str]:
    """Returns the Hub's address, whether it is used, and the folder of its cache."""
    from huggingface_hub import constants

    return {
        "endpoint": constants.ENDPOINT,
        "offline": "yes (HF_HUB_OFFLINE)" if constants.is_offline_mode() else "no",
        "cache": constants.HF_HUB_CACHE,
    }


def golden_difference(model: "StellarModel") -> float:
    """Returns the largest difference of `S` and `L` from the recorded values, relative to the largest value of each."""
    import torch
    from safetensors.torch import load_file

    from stellar_hub.registry import EMBEDDED_FOLDER

    golden = load_file(EMBEDDED_FOLDER / "stellar-tiny" / "golden.safetensors")
    with torch.inference_mode():
        encoding = model.encode(golden["pixel_values"])
    pairs = zip(encoding, (golden["semantics"], golden["localization"]), strict=True)
    return max(float((ours - recorded).abs().max() / recorded.abs().max()) for ours, recorded in pairs)


def speeds(model: "StellarModel") -> tuple[float, float]:
    """Returns how many images per second are read and fitted, and how many are encoded."""
    import torch

    from stellar_hub.modeling import StellarImageProcessor

    processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    paths = sorted(Path(str(files("stellar_hub.demo_images"))).glob("*.jpg"))[:BATCH_SIZE]
    side = model.config.image_size
    batch = torch.rand(BATCH_SIZE, 3, side, side)
    with torch.inference_mode():
        return len(paths) * rate(lambda: processor(paths)), BATCH_SIZE * rate(lambda: model.encode(batch))


def rate(work: Any) -> float:
    """Returns the calls per second, measured over about one second after one call to warm up."""
    work()
    started, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < SECONDS or not calls:
        work()
        calls += 1
    return calls / elapsed
