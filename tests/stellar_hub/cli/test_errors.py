"""Errors of commands: one line, an exit code, and no second error on the way."""

import os
import signal
from collections.abc import Iterator

import pytest
import typer

from stellar_hub.cli import errors
from stellar_hub.cli.errors import one_line, reports_errors


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
        (KeyError(), "KeyError"),
        (ValueError("pass vqgan=PATH"), "pass --vqganPATH"),
        (ValueError("run.license= is missing"), "run.license= is missing"),
    ],
)
def test_one_line__has_the_message_and_the_options_of_the_command_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(("error", "code"), [(ValueError("why"), 1), (OSError("why"), 1), (KeyboardInterrupt(), 130)])
def test_error__ends_the_command_with_its_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit_info:
        fail(error)
    assert exit_info.value.exit_code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


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
