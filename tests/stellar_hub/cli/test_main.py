"""The command line as a whole."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from stellar_hub.cli import main
from stellar_hub.version import __version__

from .conftest import Command

COMMANDS = ["demo", "encode", "reconstruct", "visualize", "edit", "convert"]


def test_help__names_every_command(command: Command) -> None:
    result = command("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help__of_each_command_has_an_example(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.exit_code == 0
    assert f"Example: stellar-hub {name}" in result.output
    assert "--debug" in result.output


def test_version__is_printed(command: Command) -> None:
    assert command("--version").output.strip() == f"stellar-hub {__version__}"


@pytest.mark.parametrize("arguments", [["nonsense"], ["encode"], ["encode", "x.jpg"], ["demo", "--nonsense"]])
def test_wrong_usage__exits_with_2(command: Command, arguments: list[str]) -> None:
    assert command(*arguments).exit_code == 2


def test_help__does_not_load_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from stellar_hub.cli.main import app; "
        "assert CliRunner().invoke(app, ['encode', '--help']).exit_code == 0; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_error__is_one_line_without_traceback_as_a_user_sees_it(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "stellar_hub.cli.main"]
    done = subprocess.run(
        [*program, "encode", str(tmp_path / "no.jpg"), "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip() == f"error: no such file or folder: {tmp_path / 'no.jpg'}"


def test_help_on_a_full_disk__is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(main, "app", refuse)
    monkeypatch.setattr(main, "let_streams_take_any_text", lambda: None)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_help__shows_no_types_of_python(command: Command) -> None:
    names = [name for name in typer.main.get_command(main.app).commands if name != "eval"]  # type: ignore[attr-defined]
    protocols = ["knn", "linear", "segmentation", "reconstruction", "diagnostics", "all"]
    for words in (*([name] for name in names), *(["eval", name] for name in protocols)):
        options = command(*words, "--help").output.partition("\nOptions:\n")[2]
        found = re.findall(r"--[a-z-]+ +<(?:str|path|int|float|list\[\w+\])>", options)
        assert found == [], words
