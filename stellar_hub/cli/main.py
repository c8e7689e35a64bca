"""The command line `stellar-hub` with all its commands."""

import typer

from stellar_hub.cli.convert import convert
from stellar_hub.cli.demo import demo
from stellar_hub.cli.doctor import doctor
from stellar_hub.cli.encode import encode
from stellar_hub.cli.errors import CommandGroup
from stellar_hub.cli.evaluation import app as evaluation
from stellar_hub.cli.export import export
from stellar_hub.cli.extract import extract
from stellar_hub.cli.list_models import list_models
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


app.command()(demo)
app.command("list")(list_models)
for command in (encode, reconstruct, visualize, extract, train, convert, push, export, doctor):
    app.command()(command)
app.add_typer(evaluation, name="eval")


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    app()


if __name__ == "__main__":
    main()
