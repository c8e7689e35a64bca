"""`stellar-hub eval knn` and `linear`: from two folders to a table, and errors a user can act on."""

import json
import shutil
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarModel
from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf


def test_knn__compares_models_in_one_table_and_writes_the_protocol(
    evaluate: Command, train: Path, test: Path, model_folder: Path, tmp_path: Path
) -> None:
    card = tmp_path / "README.md"
    card.write_text("# A model\n")
    folders = ("--train", train, "--test", test, "--model", model_folder)
    others = ("--compare", "test_vit:random", "--compare", f"{model_folder}:random", "--compare", "pixels")
    result = evaluate("knn", *folders, *others, "--output", tmp_path / "out", "--update-card", card)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["model", "features", "k=10,", "%"]
    models = [line.split()[0] for line in lines[2:]]
    assert models == [str(model_folder)] * 3 + ["test_vit:random"] * 2 + [f"{model_folder}:random"] * 3 + [
        "pixels",
        "most",
    ]
    assert "note: k = 20, 100, 200" in result.stderr
    fields = json.loads((tmp_path / "out" / "knn.json").read_text())
    assert [each["kind"] for each in fields["models"]] == ["stellar", "timm", "stellar", "pixels"]
    assert fields["models"][1]["weights"] == "random, seed 0"
    assert fields["data"]["train"]["name"] == str(train)
    assert fields["protocol"]["num_neighbours"] == [10]
    assert (tmp_path / "out" / "knn-confusion.png").is_file()
    assert "| pixels | pixels |" in card.read_text()


def test_stellar_tiny__is_the_default_model(evaluate: Command, train: Path, test: Path) -> None:
    result = evaluate("knn", "--train", train, "--test", test, "--k", 3, "--pooling", "cls", "--center")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2].split()[:2] == ["stellar-tiny", "cls"]


def test_linear__writes_what_was_chosen(evaluate: Command, train: Path, test: Path, tmp_path: Path) -> None:
    rates = ("--learning-rate", "0.01", "--learning-rate", "0.1", "--epochs", "3", "--no-logistic")
    folders = ("--train", train, "--test", test, "--model", "pixels", "--output", tmp_path)
    result = evaluate("linear", *folders, *rates)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["model", "features", "linear,", "%"]
    (row, _) = json.loads((tmp_path / "linear.json").read_text())["measurements"]
    assert row["details"]["linear, %"]["learning_rate"] in (0.01, 0.1)


@pytest.mark.parametrize(
    ("arguments", "part"), [(["--k", "14"], "k = 14"), (["--pooling", "S-mean"], "'S-mean' is now called 'pooled'")]
)
def test_wrong_choices__are_reported_in_one_line(
    evaluate: Command, error_of: ErrorOf, train: Path, test: Path, tmp_path: Path, arguments: list[str], part: str
) -> None:
    output = tmp_path / "out"
    given = ["--train", train, "--test", test, "--model", "pixels", "--output", output, *arguments]
    assert part in error_of(evaluate("knn", *given), exit_code=2)
    assert not output.exists()


def test_wrong_data__are_reported_in_one_line(
    evaluate: Command, error_of: ErrorOf, train: Path, test: Path, tmp_path: Path
) -> None:
    def error(train: Path | str, test: Path | str) -> str:
        return error_of(evaluate("knn", "--train", train, "--test", test, "--model", "pixels"))

    assert "nowhere" in error("nowhere", test)
    shutil.copytree(test / "red", test / "pink")
    assert "pink" in error(train, test)
    shutil.rmtree(test / "pink")
    shutil.copy(next((train / "red").iterdir()), test / "red" / "copy.png")
    assert "--allow-shared" in error(train, test)
    for path in test.rglob("*.png"):
        path.write_bytes(f"no image {path}".encode())
    assert "none of the 8 images" in error(train, test)


def test_images_that_cannot_be_read__are_left_out_and_named(
    evaluate: Command, train: Path, test: Path, tmp_path: Path
) -> None:
    (train / "blue" / "bad.png").write_bytes(b"no image")
    card = tmp_path / "README.md"
    card.write_text("# A model\n")
    folders = ("--train", train, "--test", test, "--model", "pixels", "--compare", "stellar-tiny")
    result = evaluate("knn", *folders, "--output", tmp_path / "out", "--update-card", card)
    assert result.exit_code == 0, result.output
    assert f"1 image of train is left out: {train}/blue/bad.png cannot be read" in result.stdout
    assert "1 image of train is left out: blue/bad.png cannot be read" in card.read_text()
    fields = json.loads((tmp_path / "out" / "knn.json").read_text())
    assert (fields["num_left_out"], fields["data"]["train"]["num_images"]) == (1, 13)
    assert fields["left_out"][0]["image"] == str(train / "blue" / "bad.png")


def test_features_that_are_not_finite__are_reported_in_one_line(
    evaluate: Command, error_of: ErrorOf, train: Path, test: Path, model_folder: Path
) -> None:
    model = StellarModel.from_pretrained(model_folder)
    model.encoder.norm.weight.data.fill_(3e38)  # finite, but its features are not
    model.save_pretrained(model_folder)
    error = error_of(evaluate("knn", "--train", train, "--test", test, "--model", model_folder))
    assert "'pooled'" in error
    assert "13 of 13 images" in error
