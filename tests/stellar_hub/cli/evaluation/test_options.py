"""The options that all evaluation commands share."""

import inspect
from pathlib import Path

import pytest

from stellar_hub.cli.evaluation.options import Options
from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf

NAMES = ["knn", "linear", "segmentation", "reconstruction", "diagnostics", "all"]


def test_help__has_an_example_and_the_shared_options(command: Command) -> None:
    for name in NAMES:
        result = command("eval", name, "--help")
        assert result.exit_code == 0
        assert f"Example: stellar-hub eval {name}" in result.output
        for option in inspect.signature(Options).parameters:
            assert f"--{option.replace('_', '-')}" in result.output


def test_old_options__are_refused_with_the_new_name(command: Command) -> None:
    for old, new in (("--workers", "--num-workers"), ("--max-pictures", "--max-images")):
        result = command("eval", "diagnostics", "--data", "photos", old, 3)
        assert result.exit_code == 2
        assert f"'{old}' is now called '{new}'" in result.stderr


def test_num_workers__are_processes_that_change_nothing(
    command: Command, train: Path, test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("eval", "knn", "--train", train, "--test", test, "--model", "pixels")
    monkeypatch.setattr("stellar_hub.data.workers.num_cores", lambda: 1)
    by_default, in_process = (command(*given, *more) for more in ((), ("--num-workers", 0)))
    assert by_default.exit_code == 0, by_default.output
    assert by_default.stdout == in_process.stdout


def test_second_run__continues_from_the_cache(evaluate: Command, train: Path, test: Path, tmp_path: Path) -> None:
    arguments = ("knn", "--train", train, "--test", test, "--model", "pixels", "--cache", tmp_path / "cache")
    first = evaluate(*arguments)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    second = evaluate(*arguments)
    assert len(files) == 2  # a batch of train, and one of test
    assert [file.stat().st_mtime_ns for file in files] == times
    assert first.stdout == second.stdout


def test_reports__are_not_replaced_unless_the_user_says_so(
    evaluate: Command, error_of: ErrorOf, train: Path, test: Path, tmp_path: Path
) -> None:
    arguments = ("knn", "--train", train, "--test", test, "--model", "pixels", "--output", tmp_path / "out")
    assert evaluate(*arguments).exit_code == 0
    error = error_of(evaluate(*arguments))
    assert "knn.json" in error
    assert "--overwrite" in error
    assert evaluate(*arguments, "--overwrite").exit_code == 0


def test_weights_that_are_missing__are_reported_with_what_to_do(
    evaluate: Command, error_of: ErrorOf, train: Path, test: Path
) -> None:
    given = ["--train", train, "--test", test, "--model", "pixels", "--compare", "vit_tiny_patch16_224"]
    assert "vit_tiny_patch16_224:random" in error_of(evaluate("knn", *given))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--compare", "pixels"], "pixels"),
        (["--compare", "vit_tiny_patch61"], "vit_tiny_patch16"),
        (["--compare", ":random"], "NAME:random"),
        (["--device", "gpu"], "did you mean cuda?"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--num-workers", "-1"], "--num-workers must be at least 0, got -1"),
        (["--k", "0"], "--k must be at least 1, got 0"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--compare", "stellar-tiny", "--image-size", "100"], "such as 96 or 104"),
    ],
)
def test_wrong_options__are_reported_before_data_are_opened(
    command: Command, error_of: ErrorOf, tmp_path: Path, arguments: list[str], part: str
) -> None:
    output = tmp_path / "out"
    given = ["--train", "nowhere", "--test", "nowhere", "--model", "pixels", "--output", output, *arguments]
    assert part in error_of(command("eval", "knn", *given), exit_code=2)
    assert not output.exists()


def test_card_that_is_missing__is_reported_before_data_are_opened(evaluate: Command, error_of: ErrorOf) -> None:
    given = ["--train", "nowhere", "--test", "nowhere", "--model", "pixels", "--update-card", "nowhere.md"]
    assert "--update-card nowhere.md" in error_of(evaluate("knn", *given))
