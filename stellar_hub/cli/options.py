"""Options that several commands share, under the same name and with the same meaning."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class FitOption(StrEnum):
    """How an image meets the model's size; the choices of the image processor's `fit`."""

    crop = "crop"
    aspect = "aspect"
    pad = "pad"


Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them (searched recursively).")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to; created if it does not exist.")]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Name, folder or Hub repository of the model.")]
Device = Annotated[
    str, typer.Option("--device", help='"cpu", "cuda", "cuda:1", ...; "auto" takes a GPU if there is one.')
]
Fit = Annotated[
    FitOption,
    typer.Option(
        "--fit", help="crop: the centre; aspect: the whole image, sides rounded to the patch; pad: with bars."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
