"""`stellar-hub export` writes encoder and decoder as graphs for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import WrongUsage, reports_errors
from stellar_hub.cli.messages import announce_loading, say
from stellar_hub.cli.models import check_image_size, check_name
from stellar_hub.cli.options import Debug, ImageSize, ModelName, at_least, parse_image_size


class ExportFormat(StrEnum):
    """Formats of `stellar_hub.export`."""

    torch_export = "torch-export"
    onnx = "onnx"


@reports_errors
def export(
    fmt: Annotated[ExportFormat, typer.Argument(metavar="FORMAT", help="torch-export, or onnx (needs the extra).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to create.")],
    model: ModelName = "stellar-tiny",
    height: Annotated[
        int | None,
        typer.Option(
            metavar="N", callback=at_least(1), help="Height of the images in pixels. Default: the model's image size."
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            metavar="N", callback=at_least(1), help="Width of the images in pixels. Default: the model's image size."
        ),
    ] = None,
    image_size: ImageSize = None,
    debug: Debug = False,
) -> None:
    """Export the encoder (pixel_values -> S, L, cls) and the decoder (S, L -> images) for one image size.

    The graphs take any batch size. The command loads each graph and compares it with the model before it keeps it.

    Example: stellar-hub export torch-export --model stellar-tiny --output exported
    """
    if output.exists():
        raise FileExistsError(f"--output {output} exists already; name a folder that does not")
    size = parse_image_size(image_size)
    if size is not None and (height is not None or width is not None):
        raise WrongUsage("--image-size sets --height and --width together: pass either it or them")
    from stellar_hub.export import export_model
    from stellar_hub.features import load_model

    check_name(model)
    announce_loading(model)
    for option, given in (("--height", height), ("--width", width), ("--image-size", size)):
        check_image_size(model, given, option=option)
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    network, _ = load_model(model, "cpu")
    for graph in export_model(network.float(), output, fmt.value, height, width):
        say(f"{output / graph.file}: largest relative difference from the model {graph.largest_difference:.1e}")
