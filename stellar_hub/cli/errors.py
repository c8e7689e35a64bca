"""Errors of commands: one line for the user and exit code 1; `--debug` shows the traceback."""

import functools
import re
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from stellar_hub.old_names import hint_of_new_name

# Click's class: some versions of typer import click, and others have a copy of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
CommandT = TypeVar("CommandT", bound=Callable[..., None])


# Errors of the library name keywords, which are options on the command line. The longer name comes first.
OPTIONS = {
    "decoder_num_attention_heads=": "--decoder-num-attention-heads",
    "num_attention_heads=": "--num-attention-heads",
    "license=": "--license",
    "vqgan=": "--vqgan",
}


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line, or the name of its type if the message is empty."""
    message = " ".join(str(error).split())
    for keyword, option in OPTIONS.items():
        message = re.sub(rf"(?<![\w.]){keyword}", option, message)  # not "run.license=", which is a recipe's
    return message or type(error).__name__


def reports_errors(command: CommandT) -> CommandT:
    """Wraps a command so that an error ends it with one line on standard error and exit code 1.

    The command has a keyword `debug`, which shows the traceback instead.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except (ValueError, TypeError, OSError, RuntimeError, LookupError, ImportError) as error:
            _ignore_dying_workers()
            if kwargs.get("debug") or isinstance(error, typer.Exit):
                raise
            typer.echo(f"error: {one_line(_without_torchs_words(error))}", err=True)
            raise typer.Exit(1) from None

    return wrapped  # type: ignore[return-value]


def _without_torchs_words(error: Exception) -> Exception:
    """Returns the error that says in plain words that a data worker died; other errors as they are.

    torch's handler of SIGCHLD raises its own wherever the command happens to be.
    """
    if not str(error).startswith("DataLoader worker"):
        return error
    from stellar_hub.data.workers import plain_error  # with torch, which is imported by now

    return plain_error(error)


def _ignore_dying_workers() -> None:
    """Takes back torch's handler of SIGCHLD.

    After a data worker has died, torch's handler raises an error at the end of every other worker too, also while a
    command reports the first error.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class CommandGroup(TyperGroup):
    """The group of all commands: it refuses an option of an earlier release with its new name in the error."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            unknown_option: Any = error
            hint = hint_of_new_name("options", getattr(error, "option_name", None) or "")
            if hint:
                unknown_option.message += hint
                unknown_option.possibilities = None
            raise
