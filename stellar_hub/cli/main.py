"""The command line `stellar-hub` with all its commands."""

import signal
import sys
from collections.abc import Callable

import typer

from stellar_hub.cli.app import open_app
from stellar_hub.cli.convert import convert
from stellar_hub.cli.dedup import dedup
from stellar_hub.cli.demo import demo
from stellar_hub.cli.doctor import doctor
from stellar_hub.cli.edit import edit
from stellar_hub.cli.edit_words import OrderedCommand
from stellar_hub.cli.encode import encode
from stellar_hub.cli.errors import CommandGroup, one_line
from stellar_hub.cli.evaluation import app as evaluation
from stellar_hub.cli.export import export
from stellar_hub.cli.export_store import export_store
from stellar_hub.cli.extract import extract
from stellar_hub.cli.list_models import list_models
from stellar_hub.cli.messages import let_streams_take_any_text
from stellar_hub.cli.push import push
from stellar_hub.cli.reconstruct import reconstruct
from stellar_hub.cli.train import train
from stellar_hub.cli.visualize import visualize
from stellar_hub.version import __version__

app = typer.Typer(
    name="stellar-hub",
    cls=CommandGroup,
    help="STELLAR sparse visual tokens: encode images as 16 tokens and their places, and decode them again.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Prints the version and stops."""
    if wanted:
        typer.echo(f"stellar-hub {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """STELLAR sparse visual tokens: encode images as 16 tokens and their places, and decode them again."""


COMMANDS: dict[Callable[..., None], str] = {  # with the line that the list of commands shows
    demo: "Try stellar-tiny on photographs.",
    open_app: "Open the demo page.",
    list_models: "List the pretrained models.",
    encode: "Write S and L of images to files.",
    reconstruct: "Encode and decode images.",
    visualize: "Draw a page about each image.",
    edit: "Change the tokens of an image.",
    extract: "Write features of images to a store.",
    export_store: "Write a store to a database or to files.",
    dedup: "Find near-duplicates in a store.",
    train: "Train a model by a recipe.",
    convert: "Convert an original checkpoint.",
    push: "Push a model to the Hub.",
    export: "Export a model to other runtimes.",
    doctor: "Check the installation.",
}
NAMES = {list_models: "list", open_app: "app"}  # of commands whose functions have other names
for command, short_help in COMMANDS.items():
    kind = OrderedCommand if command is edit else None
    app.command(NAMES.get(command), cls=kind, short_help=short_help)(command)
app.add_typer(evaluation, name="eval")


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted."""
    let_streams_take_any_text()
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a limit on the size of files is then an error, not a death
    try:
        app()
    except OSError as error:  # of texts of help on a full disk; commands report their own errors
        typer.echo(f"error: {one_line(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
