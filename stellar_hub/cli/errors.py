"""Errors of commands: one line for the user and exit code 1, or 2 for wrong usage; `--debug` shows the traceback."""

import contextlib
import errno
import functools
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from stellar_hub.cli.messages import nobody_reads, safe
from stellar_hub.old_names import hint_of_new_name

# Click's classes: some versions of typer import click, and others have a copy of it.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
CLICK_ERRORS: tuple[type[BaseException], ...] = (typer.Exit, typer.Abort, *UsageError.__mro__[1:2])
CommandT = TypeVar("CommandT", bound=Callable[..., None])

# Errors that users meet. Others are faults of the library or of a library below it, and the line names their type.
EXPECTED = (ValueError, TypeError, OSError, RuntimeError, LookupError, ImportError, MemoryError, EOFError)
MAX_LENGTH = 2000  # characters of a line
LIST_ON_LINES = re.compile(r"(?<=[:\w])(\n {2,}\S.*)+(\n(?=\S))?")

# Errors of the library name keywords, which are options on the command line. The longer name comes first.
OPTIONS = {
    "decoder_num_attention_heads=": "--decoder-num-attention-heads",
    "num_attention_heads=": "--num-attention-heads",
    "license=": "--license",
    "vqgan=": "--vqgan",
}
WORDS_OF_TYPER = {"Value error, ": "", "Input should be": "it must be", ", unable to parse string as an? \\w+": ""}
FULL_DISK = {
    errno.ENOSPC: "No space left on device",
    errno.EDQUOT: "Disk quota exceeded",
    errno.EFBIG: "File too large for the disk or the limit on the size of files",
}
NO_MEMORY = "can't allocate memory|failed to map segment|Cannot allocate memory"
OUT_OF_MEMORY = "out of memory: use smaller images, a smaller batch or fewer workers, or allow the process more memory"


class WrongUsage(ValueError):  # noqa: N818  # named after the exit code's meaning
    """An option or argument that is wrong in itself, or does not fit another one, the model or the run: exit code 2.

    A file or device that is missing is a failure, exit code 1.
    """


@contextlib.contextmanager
def wrong_usage() -> Iterator[None]:
    """Makes an error of the block a `WrongUsage`: the block only checks what the user wrote.

    Errors of files stay as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError | TypeError | LookupError) or _is_validation(error):
            raise WrongUsage(one_line(error)) from error
        raise


def one_line(error: BaseException) -> str:
    """Returns an error's message on one line of printable text, or the name of its type if the message is empty."""
    message = " ".join(LIST_ON_LINES.sub(_in_one_line, _message(error)).split())
    for keyword, option in OPTIONS.items():
        message = re.sub(rf"(?<![\w.]){keyword}", option, message)  # not "run.license=", which is a recipe's
    message = safe(message) or type(error).__name__
    if len(message) > MAX_LENGTH:
        message = f"{message[: MAX_LENGTH // 2]} ... {message[-MAX_LENGTH // 2 :]}"
    return message


def _in_one_line(listed: re.Match[str]) -> str:
    """Returns the lines of a list with signs between them, and a full stop where a sentence follows."""
    items = [item.strip().rstrip(".;") for item in listed[0].splitlines() if item.strip()]
    return f" {'; '.join(items)}{'.' if listed[0].endswith(chr(10)) else ''} "


def _message(error: BaseException) -> str:
    """Returns what an error says to a user, in one sentence where its own text is for programmers."""
    text = str(error)
    if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM or re.search(NO_MEMORY, text):
        return f"{OUT_OF_MEMORY} ({text})" if text and isinstance(error, MemoryError) else OUT_OF_MEMORY
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({text})"
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return _message_of_system(error)
    if isinstance(error, KeyError):  # its text is the repr of its argument
        key = error.args[0] if len(error.args) == 1 else None
        return key if isinstance(key, str) and " " in key else f"{text} is missing" if text else ""
    if code := re.search(r"os error (\d+)", text):  # of code in Rust, such as that of safetensors
        return f"{FULL_DISK[int(code[1])]}: {text}" if int(code[1]) in FULL_DISK else text
    if _is_validation(error):
        return re.sub(r"^(Class v|V)alidation error for (validator|field) '\w*':\s+(\w+: )?", "", text)
    if isinstance(error, EXPECTED):
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"


def _message_of_system(error: OSError) -> str:
    """Returns an error of the operating system with the file that it is about."""
    reason = FULL_DISK.get(error.errno or 0, error.strerror)
    if error.filename is None:
        return str(reason)
    names = [
        name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)
        for name in (error.filename, error.filename2)
        if name is not None
    ]
    written = " was not written" if error.errno in FULL_DISK else ""
    return f"{reason}: {' -> '.join(names)}{written}"


def _is_validation(error: BaseException) -> bool:
    """Whether a library refuses a value, such as one of config.json: huggingface_hub's errors are not ValueErrors."""
    return any("Validation" in kind.__name__ or "Safetensor" in kind.__name__ for kind in type(error).__mro__)


def is_full_disk(error: BaseException) -> bool:
    """Whether nothing more can be written: the disk is full, or a quota or limit is reached."""
    return isinstance(error, OSError) and error.errno in FULL_DISK


def reports_errors(command: CommandT) -> CommandT:
    """Wraps a command so that an error ends it with one line on standard error and exit code 1, or 2 for wrong usage.

    The command has a keyword `debug`, which shows the traceback instead. A reader that closes its end of the pipe, such
    as `head`, ends the command without a word.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except CLICK_ERRORS:
            raise
        except BaseException as error:
            # Code in Rust, such as that of safetensors, raises its panics as BaseException.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            _ignore_dying_workers()
            if kwargs.get("debug"):
                raise
            if not (isinstance(error, BrokenPipeError) and nobody_reads()):
                typer.echo(f"error: {one_line(_without_torchs_words(error))}", err=True)
            raise typer.Exit(2 if isinstance(error, WrongUsage) else 1) from None

    return wrapped  # type: ignore[return-value]


def _without_torchs_words(error: BaseException) -> BaseException:
    """Returns the error that says in plain words that a data worker died; other errors as they are.

    torch's handler of SIGCHLD raises its own wherever the command happens to be.
    """
    if not isinstance(error, Exception) or not str(error).startswith("DataLoader worker"):
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
    """The group of all commands: what it says of wrong options is in plain words, and has the new names of old ones."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            wrong: Any = error
            hint = hint_of_new_name("options", getattr(error, "option_name", None) or "")
            if hint:
                wrong.message += hint
                wrong.possibilities = None
            for words, plainer in WORDS_OF_TYPER.items():
                wrong.message = re.sub(words, plainer, wrong.message)
            raise
