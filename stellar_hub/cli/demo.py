"""`stellar-hub demo` encodes, decodes and draws the photographs of the package; it needs no network."""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from stellar_hub.cli.errors import reports_errors
from stellar_hub.cli.messages import say
from stellar_hub.cli.options import Debug, Device, FitOption, Output


@reports_errors
def demo(output: Output = Path("demo"), device: Device = "auto", debug: Debug = False) -> None:
    """Encode and decode the photographs of the package with stellar-tiny, and draw a page for each.

    Example: stellar-hub demo --output demo
    """
    from stellar_hub.cli.visualize import visualize

    folder = Path(str(files("stellar_hub.demo_images")))
    say("The small demonstration model stellar-tiny comes with the package. It sees 128 x 128 pixels of each")
    say("photograph, encodes them as 16 tokens (S) and one map per token (L), and decodes both to an image.")
    photographs = sorted(folder.glob("*.jpg"))
    visualize(images=photographs, output=output, fit=FitOption.crop, device=device, overwrite=True, debug=debug)
    program = "stellar-hub" if shutil.which("stellar-hub") else sys.argv[0]
    say(f"The pages are in {output.resolve()}. For your own images, run: {program} visualize PHOTO --output {output}")
