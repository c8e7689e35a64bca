"""The other protocols on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from click.testing import Result

from stellar_hub.modeling import StellarModel
from tests.stellar_hub.cli.conftest import Command

ErrorOf = Callable[[Result], str]
NAMES = ["knn", "linear", "segmentation", "reconstruction", "diagnostics", "all"]


@pytest.mark.parametrize("name", NAMES)
def test_help__of_each_has_an_example(command: Command, name: str) -> None:
    result = command("eval", name, "--help")
    assert result.exit_code == 0
    assert f"Example: stellar-hub eval {name}" in result.output
    assert "--compare" in result.output


def test_linear__writes_what_was_chosen(command: Command, train: Path, test: Path, tmp_path: Path) -> None:
    rates = ("--learning-rate", "0.01", "--learning-rate", "0.1", "--epochs", "3", "--no-logistic")
    folders = ("--train", train, "--test", test, "--model", "pixels", "--output", tmp_path)
    result = command("eval", "linear", *folders, *rates)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["model", "features", "linear,", "%"]
    (row, _) = json.loads((tmp_path / "linear.json").read_text())["measurements"]
    assert row["details"]["linear, %"]["learning_rate"] in (0.01, 0.1)


def test_segmentation__reads_folders_with_masks(
    command: Command, error_of: ErrorOf, masked: tuple[Path, Path], tmp_path: Path
) -> None:
    folders = ("--train", masked[0], "--test", masked[1], "--model", "pixels")
    result = command("eval", "segmentation", *folders, "--epochs", 2, "--background", -1, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "16 clusters of patches" in result.stdout
    fields = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert fields["protocol"]["background"] is None
    assert (tmp_path / "out" / "segmentation-overlays.png").is_file()
    (masked[1] / "masks" / "2.png").unlink()
    assert "1 images of" in error_of(command("eval", "segmentation", *folders))


def test_reconstruction__measures_models_that_decode(
    command: Command, error_of: ErrorOf, test: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("eval", "reconstruction", "--data", test, "--model", model_folder)
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["model", "PSNR,", "dB", "SSIM"]
    assert "pixels does not decode" in error_of(command(*arguments, "--compare", "pixels"))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    missing = error_of(command("eval", "reconstruction", "--data", "nowhere", "--metric", "lpips", "--networks", test))
    assert "weights of metrics are missing and could not be fetched: alexnet" in missing


def test_diagnostics__take_any_source_of_images(
    command: Command, error_of: ErrorOf, train: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(train.rglob("*.png"))))
    options = ("--data", tmp_path / "list.txt", "--model", model_folder, "--compare", "pixels", "--max-images", 9)
    result = command("eval", "diagnostics", *options)
    assert result.exit_code == 0, result.output
    assert "sharpness of L" in result.stdout
    assert "has no clustering head" in error_of(command("eval", "diagnostics", *options, "--prototypes", model_folder))


@pytest.mark.slow
def test_all__makes_one_scorecard(
    command: Command,
    error_of: ErrorOf,
    train: Path,
    test: Path,
    masked: tuple[Path, Path],
    model_folder: Path,
    tmp_path: Path,
) -> None:
    folders = ("--train", train, "--test", test, "--model", model_folder, "--compare", "pixels")
    masks = ("--segmentation-train", masked[0], "--segmentation-test", masked[1])
    result = command("eval", "all", *folders, *masks, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    fields = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    assert list(fields["tasks"]) == ["knn", "linear", "segmentation", "reconstruction", "diagnostics"]
    text = (tmp_path / "out" / "scorecard.md").read_text()
    assert "## Segmentation" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "out" / line.partition("(")[2].rstrip(")")).is_file()
    assert "give both folders" in error_of(command("eval", "all", *folders, *masks[:2]))


def test_features_that_are_not_finite__are_said_in_one_line(
    command: Command, error_of: ErrorOf, train: Path, test: Path, model_folder: Path
) -> None:
    model = StellarModel.from_pretrained(model_folder)
    model.encoder.norm.weight.data[0] = torch.nan
    model.save_pretrained(model_folder)
    folders = ("--train", train, "--test", test, "--model", model_folder)
    assert "the feature 'pooled' is not finite for 13 of 13 images" in error_of(command("eval", "knn", *folders))
