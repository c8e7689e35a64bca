"""`stellar-hub export`: encoder and decoder as graphs for other runtimes."""

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
    height: Annotated[int | None, typer.Option(help="Of the images, in pixels; the model's own if left out.")] = None,
    width: Annotated[int | None, typer.Option(help="Likewise.")] = None,
    debug: Debug = False,
) -> None:
    """Export encoder (pixel_values -> S, L, cls) and decoder (S, L -> images) at one image size, any batch size.

    Each graph is loaded again and compared with the model before it is kept.

    Example: stellar-hub export torch-export --model stellar-tiny --output exported
    """
    from stellar_hub.export import export_model
    from stellar_hub.features import load_model

    network, _ = load_model(model, "cpu")
    for graph in export_model(network.float(), output, fmt.value, height, width):
        typer.echo(f"{output / graph.file}: largest difference from the model {graph.largest_difference:.1e} relative")
