"""`stellar-hub doctor`: what is installed, whether it computes the right numbers, and how fast."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stellar_hub.cli.errors import reports_errors
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
    """Check the installation: versions, devices, Hub, numbers of stellar-tiny, speed. Made for bug reports.

    Example: stellar-hub doctor
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    for name, value in (environment() | devices() | hub()).items():
        say(name, value)
    from stellar_hub.modeling import StellarModel

    model = StellarModel.from_pretrained("stellar-tiny")
    difference = golden_difference(model)
    verdict = "agree" if difference <= GOLDEN_TOLERANCE else "DIFFER"
    say("numbers", f"{verdict} with the recorded ones of stellar-tiny: largest relative difference {difference:.1e}")
    reading, encoding = speeds(model)
    say("reading", f"{reading:.0f} images/s: decode, resize and crop of the demo's photographs, one process")
    say("encoding", f"{encoding:.0f} images/s: stellar-tiny, batch of {BATCH_SIZE}, {model.device}")
    reading_is_slower = "reading images: use more worker processes"
    say("bottleneck", reading_is_slower if reading < encoding else "the model: use a larger batch or a GPU")
    if difference > GOLDEN_TOLERANCE:
        raise ValueError("stellar-tiny does not compute what it should here; please report this output")


def say(name: str, value: str) -> None:
    """One line of the report."""
    typer.echo(f"{name:<16} {value}")


def environment() -> dict[str, str]:
    """System and versions."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def devices() -> dict[str, str]:
    """What torch can compute on."""
    import torch

    facts = {"cpu threads": f"{torch.get_num_threads()} of {os.cpu_count()}"}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"] = f"{torch.version.cuda}: {', '.join(names)}"
    else:
        facts["cuda"] = "not available"
    return facts


def hub() -> dict[str, str]:
    """Where models come from and are kept."""
    from huggingface_hub import constants

    return {
        "endpoint": constants.ENDPOINT,
        "offline": "yes (HF_HUB_OFFLINE)" if constants.is_offline_mode() else "no",
        "cache": constants.HF_HUB_CACHE,
    }


def golden_difference(model: "StellarModel") -> float:
    """Largest difference of `S` and `L` from the recorded ones, relative to each one's largest value."""
    import torch
    from safetensors.torch import load_file

    from stellar_hub.registry import EMBEDDED_FOLDER

    golden = load_file(EMBEDDED_FOLDER / "stellar-tiny" / "golden.safetensors")
    with torch.inference_mode():
        encoding = model.encode(golden["pixel_values"])
    pairs = zip(encoding, (golden["semantics"], golden["localization"]), strict=True)
    return max(float((ours - recorded).abs().max() / recorded.abs().max()) for ours, recorded in pairs)


def speeds(model: "StellarModel") -> tuple[float, float]:
    """Images read and fitted per second, and images encoded per second."""
    import torch

    from stellar_hub.modeling import StellarImageProcessor

    processor = StellarImageProcessor.from_pretrained("stellar-tiny")
    paths = sorted(Path(str(files("stellar_hub.demo_images"))).glob("*.jpg"))[:BATCH_SIZE]
    side = model.config.image_size
    batch = torch.rand(BATCH_SIZE, 3, side, side)
    with torch.inference_mode():
        return len(paths) * rate(lambda: processor(paths)), BATCH_SIZE * rate(lambda: model.encode(batch))


def rate(work: Any) -> float:
    """Calls per second, over about a second, after one call to warm up."""
    work()
    started, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < SECONDS or not calls:
        work()
        calls += 1
    return calls / elapsed
