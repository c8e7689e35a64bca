"""`stellar-hub eval reconstruction` and `diagnostics`."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf


def test_reconstruction__measures_models_that_decode(
    evaluate: Command, error_of: ErrorOf, test: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("reconstruction", "--data", test, "--model", model_folder)
    result = evaluate(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["model", "PSNR,", "dB", "SSIM"]
    assert "pixels" in error_of(evaluate(*arguments, "--compare", "pixels"))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    missing = error_of(evaluate("reconstruction", "--data", "nowhere", "--metric", "lpips", "--networks", test))
    assert "alexnet" in missing


def test_diagnostics__take_any_source_of_images(
    evaluate: Command, error_of: ErrorOf, train: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(train.rglob("*.png"))))
    options = ("--data", tmp_path / "list.txt", "--model", model_folder, "--compare", "pixels", "--max-images", 9)
    result = evaluate("diagnostics", *options)
    assert result.exit_code == 0, result.output
    assert "sharpness of L" in result.stdout
    assert "has no clustering head" in error_of(evaluate("diagnostics", *options, "--prototypes", model_folder))
