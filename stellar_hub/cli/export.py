"""`stellar-hub export` writes encoder and decoder as graphs for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug, ModelName


class ExportFormat(StrEnum):
    """Formats of `stellar_hub.export`."""

    torch_export = "torch-export"
    onnx = "onnx"


@reports_errors
def export(
    fmt: Annotated[ExportFormat, typer.Argument(metavar="FORMAT", help="torch-export, or onnx (needs the extra).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to create.")],
    model: ModelName = "stellar-tiny",
    height: Annotated[
        int | None, typer.Option(help="Height of the images in pixels. Default: the model's image size.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Width of the images in pixels. Default: the model's image size.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Export the encoder (pixel_values -> S, L, cls) and the decoder (S, L -> images) for one image size.

    The graphs take any batch size. The command loads each graph and compares it with the model before it keeps it.

    Example: stellar-hub export torch-export --model stellar-tiny --output exported
    """
    from stellar_hub.export import export_model
    from stellar_hub.features import load_model
    from stellar_hub.modeling.safe_text import escape_control

    network, _ = load_model(model, "cpu")
    for graph in export_model(network.float(), output, fmt.value, height, width):
        name = escape_control(str(output / graph.file))
        typer.echo(f"{name}: largest relative difference from the model {graph.largest_difference:.1e}")
