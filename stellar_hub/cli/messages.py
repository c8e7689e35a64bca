"""What a command says: lines of results on standard output, and lines about its work on standard error."""

import os

import typer

from stellar_hub.modeling.safe_text import escape_control, mask_secrets


def say(text: str) -> None:
    """Prints a line of results on standard output; characters that steer a terminal are written out."""
    typer.echo(escape_control(text))


def warn(text: str) -> None:
    """Prints a line on standard error; characters that steer a terminal are written out."""
    typer.echo(escape_control(text), err=True)


def announce_loading(name: str) -> None:
    """Says on standard error that a model is being loaded, which can take a while; once for all processes of a run.

    Args:
        name: Name, folder, Hub repository or file of the model.
    """
    if os.environ.get("RANK", "0") == "0":  # accelerate and torchrun number the processes
        warn(f"loading {mask_secrets(name)}")
