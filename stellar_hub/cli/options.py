"""Options that several commands share; each has one name, one meaning and one default.

Values that are wrong in themselves are refused while the options are read, before a command begins.
"""

import difflib
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from stellar_hub.cli.errors import UsageError, WrongUsage, wrong_usage

DEVICES = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d{1,4})?")
SMALL = 2**24  # pixels of an image that nothing limits
MAX_PORT = 65535
OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "hip": "cuda", "metal": "mps"}  # of other programs


class FitOption(StrEnum):
    """How an image is fitted to the model's input size: the choices of the image processor's `fit`."""

    crop = "crop"
    aspect = "aspect"
    pad = "pad"


def parse_image_size(text: str | None) -> int | tuple[int, int] | None:
    """Returns the value of `--image-size`: the side of a square, or `(height, width)`, in pixels, or None as given.

    Raises:
        WrongUsage: if the text is neither a number nor two numbers with an "x" between them, or a number is 0, or the
            image would be larger than the limit.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,18})(?:[xX]([0-9]{1,18}))?", text.strip())
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or 0 in sides:
        raise WrongUsage(
            f"--image-size must be a side or HEIGHTxWIDTH in pixels, such as 448 or 224x448, got {text[:40]!r}"
        )
    if sides[0] * sides[-1] > SMALL:
        from stellar_hub.modeling.limits import check_limit  # its package takes a second to import

        with wrong_usage():
            check_limit("image_pixels", sides[0] * sides[-1], f"an image of --image-size {text.strip()}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def at_least(minimum: int) -> Callable[..., Any]:
    """Returns the callback of an option whose numbers must not be smaller than a minimum."""

    def check(param: typer.CallbackParam, value: Any) -> Any:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number < minimum:
                raise UsageError(f"{param.opts[0]} must be at least {minimum}, got {number}")
        return value

    return check


def _check_image_size(value: str | None) -> str | None:
    """Refuses a value of `--image-size` that is not a size."""
    try:
        parse_image_size(value)
    except WrongUsage as error:
        raise UsageError(str(error)) from None
    return value


def check_device(value: str, option: str = "--device") -> str:
    """Refuses a value of `--device` that names no kind of device; whether the machine has it is seen later."""
    name = value.strip().lower()
    if DEVICES.fullmatch(name):
        return name
    kind, number = re.fullmatch(r"(.*?):?(\d{0,4})", name, re.DOTALL).groups()  # type: ignore[union-attr]
    kinds = ("auto", "cpu", "cuda", "mps", "xpu")
    meant = OTHER_NAMES.get(kind) or next(iter(difflib.get_close_matches(kind, kinds, n=1)), None)
    if meant in ("cuda", "xpu") and number:
        meant += f":{number}"
    hint = f" (did you mean {meant}?)" if meant else ""
    raise UsageError(f"{option} must be auto, cpu, cuda, cuda:N, mps or xpu{hint}, got {value[:40]}")


def check_port(value: int) -> int:
    """Refuses a number that is no port."""
    if not 0 <= value <= MAX_PORT:
        raise UsageError(f"--port must be 0 to {MAX_PORT}, got {value}")
    return value


Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Image files, and folders of images. Folders are searched recursively, without hidden files; the output "
        "keeps their tree.",
    ),
]
Codes = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="Image files, .safetensors files of S and L, and folders of both. Folders are searched recursively, "
        "without hidden files; the output keeps their tree.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Folder to write to, other than the folder of the images. It is created if it does not exist.",
    ),
]
ModelName = Annotated[
    str, typer.Option("--model", "-m", metavar="MODEL", help="Name, folder or Hub repository of the model.")
]
NumTokens = Annotated[
    int | None,
    typer.Option(
        "--num-tokens",
        metavar="K",
        callback=at_least(1),
        help="Keep only the first K tokens of each image. Use it with a model that was trained with nested_dropout. "
        "Default: all tokens.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        callback=lambda value: check_device(value),
        help="Device to run on: cpu, cuda, cuda:N, mps or xpu. auto uses a GPU if there is one.",
    ),
]
Fit = Annotated[
    FitOption,
    typer.Option(
        "--fit",
        help="How to fit an image to the model. crop: resize the shorter side and crop the centre. aspect: keep the "
        "whole image and round its sides to the patch size. pad: keep the whole image and add bars.",
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="SIDE|HEIGHTxWIDTH",
        callback=_check_image_size,
        help="Size in pixels of the images that the model sees; a multiple of its patch size. Default: the size of the "
        "model's image processor.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist already.")]
Again = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that exist already. Without it, those that the same command wrote are kept and passed "
        "over, and others are an error.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, for a bug report.")]
