"""`stellar-hub demo`: the whole story on the photographs that come with the package; needs no network."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

import typer

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.options import Debug, Device, FitOption, Output


@reports_errors
def demo(output: Output = Path("demo"), device: Device = "auto", debug: Debug = False) -> None:
    """Encode and decode the photographs of the package with stellar-tiny and draw a page for each.

    Example: stellar-hub demo --output demo
    """
    from stellar_hub.cli.visualize import visualize

    photographs = Path(str(files("stellar_hub.demo_images")))
    typer.echo(
        "stellar-tiny, a demonstration model that comes with the package, sees 64 x 64 pixels of each photograph,"
    )
    typer.echo("turns them into 16 tokens (S) and a map for each (L), and decodes these back.")
    visualize(images=[photographs], output=output, fit=FitOption.crop, device=device, overwrite=True, debug=debug)
    program = "stellar-hub" if shutil.which("stellar-hub") else sys.argv[0]
    typer.echo(f"Look at {output.resolve()}. Your own: {program} visualize PHOTO --output {output}")
