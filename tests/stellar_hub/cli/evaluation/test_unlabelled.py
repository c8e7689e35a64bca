"""`stellar-hub eval reconstruction` and `diagnostics`."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf


def test_reconstruction__measures_models_that_decode(
    evaluate: Command,
    error_of: ErrorOf,
    test: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("reconstruction", "--data", test, "--model", model_folder)
    result = evaluate(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["model", "PSNR,", "dB", "SSIM"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stellar_hub.features.backbones.open_backbone", None)  # refused before anything is loaded
        assert "pixels cannot decode" in error_of(evaluate(*arguments, "--compare", "pixels"))
        assert "cannot decode" in error_of(evaluate(*arguments, "--compare", "test_vit:random"))
        assert "no_such_model" in error_of(evaluate(*arguments, "--compare", "no_such_model"))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    missing = error_of(evaluate("reconstruction", "--data", test, "--metric", "lpips", "--networks", tmp_path))
    assert "alexnet" in missing
    assert "nowhere" in error_of(evaluate("reconstruction", "--data", "nowhere", "--metric", "lpips"))


def test_diagnostics__take_any_source_of_images(
    evaluate: Command, error_of: ErrorOf, train: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(train.rglob("*.png"))))
    options = ("--data", tmp_path / "list.txt", "--model", model_folder, "--compare", "pixels", "--max-images", 9)
    result = evaluate("diagnostics", *options)
    assert result.exit_code == 0, result.output
    assert "sharpness of L" in result.stdout
    assert "has no clustering head" in error_of(evaluate("diagnostics", *options, "--prototypes", model_folder))
