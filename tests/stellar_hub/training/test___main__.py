"""`python -m stellar_hub.training`, which `accelerate launch` starts in each process."""

from typer.testing import CliRunner

from stellar_hub.cli.main import app as whole
from stellar_hub.training.__main__ import app


def options_of(text: str) -> list[str]:
    return [word for word in text.split() if word.startswith("--")]


def test_module__has_the_options_of_the_command() -> None:
    module, command = CliRunner().invoke(app, ["--help"]), CliRunner().invoke(whole, ["train", "--help"])
    assert (module.exit_code, command.exit_code) == (0, 0)
    assert set(options_of(command.output)) <= set(options_of(module.output))
    assert "--recipe" in options_of(module.output)


def test_module__reports_errors_in_one_line() -> None:
    result = CliRunner().invoke(app, ["--output", "somewhere"])
    assert result.exit_code == 1
    assert result.stderr == "error: no recipe is given: pass --recipe, such as --recipe finetune\n"
