"""Options that several commands share; each has one name, one meaning and one default."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FitOption(StrEnum):
    """How an image is fitted to the model's input size: the choices of the image processor's `fit`."""

    crop = "crop"
    aspect = "aspect"
    pad = "pad"


Images = Annotated[
    list[Path], typer.Argument(help="Image files, and folders of images. Folders are searched recursively.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to. It is created if it does not exist.")]
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist already.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, for a bug report.")]
