"""What a command says: lines of results on standard output, and lines about its work on standard error."""

import contextlib
import os
import select
import sys

import typer


def safe(text: str) -> str:
    """Returns text that is safe to print: without characters that steer a terminal, and without secrets in addresses.

    Printable text without an address is returned at once, because the import takes seconds.
    """
    if text.isprintable() and "://" not in text:
        return text
    from stellar_hub.modeling.safe_text import escape_control, mask_secrets

    return escape_control(mask_secrets(text))


def say(text: str) -> None:
    """Prints a line of results on standard output, as `safe` writes it."""
    typer.echo(safe(text))


def warn(text: str) -> None:
    """Prints a line on standard error, as `safe` writes it."""
    typer.echo(safe(text), err=True)


def announce_loading(name: str) -> None:
    """Says on standard error that a model is being loaded, which can take a while; once for all processes of a run.

    Args:
        name: Name, folder, Hub repository or file of the model.
    """
    if os.environ.get("RANK", "0") == "0":  # accelerate and torchrun number the processes
        warn(f"loading {name}")


def let_streams_take_any_text() -> None:
    """Makes standard output and standard error write out the characters that their encoding lacks, instead of failing.

    The names of files may hold bytes that are not UTF-8, and terminals may know ASCII only.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def nobody_reads() -> bool:
    """Whether the reader of standard output or standard error has closed its end of the pipe, as `head` does."""
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # not a file, as in tests
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
