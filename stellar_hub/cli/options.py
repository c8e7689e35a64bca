"""Options that several commands share; each has one name, one meaning and one default."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FitOption(StrEnum):
    """How an image is fitted to the model's input size: the choices of the image processor's `fit`."""

    crop = "crop"
    aspect = "aspect"
    pad = "pad"


def parse_image_size(text: str | None) -> int | tuple[int, int] | None:
    """Returns the value of `--image-size`: the side of a square, or `(height, width)`, in pixels, or None as given.

    Raises:
        ValueError: if the text is neither a number nor two numbers with an "x" between them, or a number is 0.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:[xX]([0-9]{1,6}))?", text.strip())
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or 0 in sides:
        raise ValueError(
            f"--image-size must be a side or HEIGHTxWIDTH in pixels, such as 448 or 224x448, got {text[:40]!r}"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


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
        help="Folder to write to, other than the folder of the images. It is created if it does not exist.",
    ),
]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Name, folder or Hub repository of the model.")]
Device = Annotated[
    str,
    typer.Option("--device", help='Device to run on: "cpu", "cuda", "cuda:1", ... "auto" uses a GPU if there is one.'),
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
        help="Size in pixels of the images that the model sees; a multiple of its patch size. Default: the size of the "
        "model's image processor.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist already.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, for a bug report.")]
