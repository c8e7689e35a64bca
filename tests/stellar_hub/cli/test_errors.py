"""Errors of commands: one line, an exit code, and no second error on the way."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import typer
from huggingface_hub.errors import StrictDataclassFieldValidationError
from safetensors import SafetensorError

from stellar_hub.cli import errors
from stellar_hub.cli.errors import one_line, reports_errors, wrong_usage

from .conftest import Command


@reports_errors
def fail(error: BaseException, debug: bool = False) -> None:
    raise error


@pytest.fixture
def raising_handler() -> Iterator[None]:
    """SIGCHLD raises an error, as in a process with data workers of torch."""

    def handler(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, handler)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError("these differ:\n  a: 1, 2\n  b: 3\nUse others"), "these differ: a: 1, 2; b: 3. Use others"),
        (ValueError("the images:\n  a.png\n  b.png"), "the images: a.png; b.png"),
        (KeyError(), "KeyError"),
        (KeyError("hidden_size"), "'hidden_size' is missing"),
        (KeyError("no feature of this name"), "no feature of this name"),
        (ValueError("a\x1b[31mb\u202ec"), r"a\x1b[31mb\u202ec"),
        (ValueError("https://me:word@host/a?key=1 fails"), "https://***@host/a?*** fails"),
        (OSError(errno.EACCES, "Permission denied", "a.jpg"), "Permission denied: a.jpg"),
        (OSError(errno.EIO, "rename failed", b"a\xe9", None, "b"), r"rename failed: a\xe9 -> b"),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), "No space left on device: a.bin was not written"),
        (
            StrictDataclassFieldValidationError("hidden_size", TypeError("Field 'hidden_size' expected int")),
            "Field 'hidden_size' expected int",
        ),
        (OSError("https://host is away"), "https://host is away"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero (--debug shows the traceback)"),
        (ValueError("pass vqgan=PATH"), "pass --vqganPATH"),
        (ValueError("run.license= is missing"), "run.license= is missing"),
    ],
)
def test_one_line__has_the_message_and_the_options_of_the_command_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_one_line__of_ended_memory_says_what_to_do(error: Exception) -> None:
    assert one_line(error) == errors.OUT_OF_MEMORY


class PanicException(BaseException):
    """As code in Rust raises it."""


class DescribedError(Exception):
    """An error of another library that derives from none of the usual classes."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("why"), 1),
        (OSError("why"), 1),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 1),
        (RecursionError("maximum recursion depth exceeded"), 1),
        (OverflowError("cannot convert float infinity to integer"), 1),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), 1),
        (struct.error("unpack requires a buffer"), 1),
        (EOFError(), 1),
        (StopIteration(), 1),
        (AttributeError("no x"), 1),
        (SafetensorError("header too large"), 1),
        (StrictDataclassFieldValidationError("hidden_size", ValueError("wide")), 1),
        (json.JSONDecodeError("Expecting value", "", 0), 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1),
        (PanicException("index out of bounds"), 1),
        (DescribedError("why"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_error__ends_the_command_with_its_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit_info:
        fail(error)
    assert exit_info.value.exit_code == code
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert written.strip().isprintable()


@pytest.mark.parametrize("error", [typer.Exit(3), typer.BadParameter("wrong"), SystemExit(4)])
def test_exit__is_left_to_the_command_line(error: BaseException) -> None:
    with pytest.raises(type(error)):
        fail(error)


def test_closed_pipe__ends_the_command_without_a_word() -> None:
    code = (
        "import typer; from stellar_hub.cli.errors import reports_errors\n"
        "@reports_errors\ndef talk() -> None:\n"
        "    for number in range(100_000): typer.echo(f'line {number}')\n"
        "typer.run(talk)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_debug__shows_the_error_itself() -> None:
    with pytest.raises(ValueError, match="why"):
        fail(ValueError("why"), debug=True)


@pytest.mark.usefixtures("raising_handler")
def test_workers_that_die_meanwhile__add_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_line_late(error: BaseException) -> str:
        os.kill(os.getpid(), signal.SIGCHLD)
        return str(error)

    monkeypatch.setattr(errors, "one_line", one_line_late)
    with pytest.raises(typer.Exit):
        fail(RuntimeError("the first worker died"))
    assert "the first worker died" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "x", "-o", "y", "--batch-size", "many"], "'--batch-size': it must be a valid integer"),
        (["encode", "x", "-o", "y", "--fit", "stretch"], "'--fit': 'stretch' is not one of 'crop', 'aspect', 'pad'"),
    ],
)
def test_wrong_values__are_said_in_plain_words(command: Command, arguments: list[str], message: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_wrong_usage__has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: Exception) -> Callable[[], None]:
        @reports_errors
        def command() -> None:
            with wrong_usage():
                raise error

        return command

    for error, code in ((ValueError("a"), 2), (TypeError("a"), 2), (OSError("a"), 1), (RuntimeError("a"), 1)):
        with pytest.raises(typer.Exit) as exit_info:
            fail(error)()
        assert exit_info.value.exit_code == code
        assert capsys.readouterr().err == "error: a\n"
