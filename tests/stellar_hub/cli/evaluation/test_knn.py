"""`stellar-hub eval knn`: from two folders to a table, and errors a user can act on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.stellar_hub.cli.conftest import Command

ErrorOf = Callable[[Result], str]


def test_knn__compares_models_in_one_table_and_writes_the_protocol(
    command: Command, train: Path, test: Path, model_folder: Path, tmp_path: Path
) -> None:
    card = tmp_path / "README.md"
    card.write_text("# A model\n")
    folders = ("--train", train, "--test", test, "--model", model_folder)
    others = ("--compare", "test_vit:random", "--compare", f"{model_folder}:random", "--compare", "pixels")
    result = command("eval", "knn", *folders, *others, "--output", tmp_path / "out", "--update-card", card)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "features", "k=10,", "%"]
    models = [line.split()[0] for line in lines[2:]]
    assert models == [str(model_folder)] * 3 + ["test_vit:random"] * 2 + [f"{model_folder}:random"] * 3 + [
        "pixels",
        "most",
    ]
    assert "note: k = 20, 100, 200 left out: train has 13 images" in result.stderr
    fields = json.loads((tmp_path / "out" / "knn.json").read_text())
    assert [each["kind"] for each in fields["models"]] == ["stellar", "timm", "stellar", "pixels"]
    assert fields["models"][1]["weights"] == "random, seed 0"
    assert fields["data"]["train"]["name"] == str(train)
    assert fields["protocol"]["num_neighbours"] == [10]
    assert (tmp_path / "out" / "knn-confusion.png").is_file()
    assert "| pixels | pixels |" in card.read_text()


def test_stellar_tiny__is_the_model_if_none_is_named(command: Command, train: Path, test: Path) -> None:
    result = command("eval", "knn", "--train", train, "--test", test, "--k", 3, "--pooling", "cls", "--center")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].split()[:2] == ["stellar-tiny", "cls"]


def test_second_run__goes_on_from_the_cache(command: Command, train: Path, test: Path, tmp_path: Path) -> None:
    arguments = ("eval", "knn", "--train", train, "--test", test, "--model", "pixels", "--cache", tmp_path / "cache")
    first = command(*arguments)
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    second = command(*arguments)
    assert len(files) == 2  # a batch of train, and one of test
    assert [file.stat().st_mtime_ns for file in files] == times
    assert first.stdout == second.stdout


class TestRefused:
    """Each is one line, and nothing is written."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--k", "14"], "k = 14 is larger than train, which has 13 images: pass --k 13 or less"),
            (["--k", "0"], "k must be at least 1, got 0"),
            (["--temperature", "0"], "temperature must be above 0, got 0"),
            (["--pooling", "mean"], "pooling must be one of S-mean, cls"),
            (["--compare", "vit_tiny_patch16_224"], "the weights of vit_tiny_patch16_224 could not be fetched"),
            (["--compare", "pixel"], "no model 'pixel': it is no folder"),
            (["--compare", "pixels"], "pixels is given twice; name each model once"),
            (["--device", "nonsense"], "the device 'nonsense' is not available"),
            (["--batch-size", "0"], "batch_size must be at least 1"),
            (["--update-card", "nowhere.md"], "--update-card nowhere.md: no such file"),
        ],
    )
    def test_wrong_options__are_said_in_one_line(
        self,
        command: Command,
        error_of: ErrorOf,
        train: Path,
        test: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        output = tmp_path / "out"
        given = ["--train", train, "--test", test, "--model", "pixels", "--output", output, *arguments]
        assert message in error_of(command("eval", "knn", *given))
        assert not output.exists()

    def test_names_that_cannot_be_fetched__are_said_before_data_are_opened(
        self, command: Command, error_of: ErrorOf
    ) -> None:
        folders = ("--train", "nowhere", "--test", "nowhere")
        result = command("eval", "knn", *folders, "--model", "pixels", "--compare", "vit_tiny_patch16_224")
        assert "name vit_tiny_patch16_224:random for random weights" in error_of(result)

    def test_wrong_data__are_said_in_one_line(
        self, command: Command, error_of: ErrorOf, train: Path, test: Path, tmp_path: Path
    ) -> None:
        def said(train: Path | str, test: Path | str) -> str:
            return error_of(command("eval", "knn", "--train", train, "--test", test, "--model", "pixels"))

        assert "no such folder: nowhere" in said("nowhere", test)
        (tmp_path / "empty").mkdir()
        assert "no class folders" in said(train, tmp_path / "empty")
        (tmp_path / "empty.csv").write_text("path,label\n")
        assert "empty.csv names no images" in said(train, tmp_path / "empty.csv")
        shutil.copytree(test / "red", test / "pink")
        assert "pink" in said(train, test)
        shutil.rmtree(test / "pink")
        shutil.copy(next((train / "red").iterdir()), test / "red" / "copy.png")
        assert "1 of 8 images" in said(train, test)
        assert "pass --allow-shared" in said(train, test)
        (test / "red" / "copy.png").write_bytes(b"no image")
        assert "copy.png cannot be read as an image" in said(train, test)

    def test_reports__are_not_replaced_unless_asked(
        self, command: Command, error_of: ErrorOf, train: Path, test: Path, tmp_path: Path
    ) -> None:
        arguments = ("eval", "knn", "--train", train, "--test", test, "--model", "pixels", "--output", tmp_path / "out")
        assert command(*arguments).exit_code == 0
        assert "knn.json exists already: pass --overwrite" in error_of(command(*arguments))
        assert command(*arguments, "--overwrite").exit_code == 0
