"""`stellar-hub eval reconstruction` and `diagnostics`."""

import json
import tarfile
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
        assert "pixels cannot decode" in error_of(evaluate(*arguments, "--compare", "pixels"), 2)
        assert "cannot decode" in error_of(evaluate(*arguments, "--compare", "test_vit:random"), 2)
        assert "no_such_model" in error_of(evaluate(*arguments, "--compare", "no_such_model"), 2)
    assert "--num-tokens must be at most 4" in error_of(evaluate(*arguments, "--num-tokens", 99), 2)

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    missing = error_of(evaluate("reconstruction", "--data", test, "--metric", "lpips", "--networks", tmp_path))
    assert "alexnet" in missing
    assert "nowhere" in error_of(evaluate("reconstruction", "--data", "nowhere", "--metric", "lpips"))


def test_damaged_tars_and_tables_with_paths__are_said_and_need_a_root(
    evaluate: Command, error_of: ErrorOf, test: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "whole.tar", "w") as tar:
        tar.add(test, "test")
    data = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) * 2 // 3])
    result = evaluate("diagnostics", "--data", tmp_path / "cut.tar", "--model", "pixels", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "cut.tar: images may be missing" in result.stderr
    (note,) = json.loads((tmp_path / "out" / "diagnostics.json").read_text())["notes"]
    assert "1 file of" in note

    datasets = pytest.importorskip("datasets")
    cells = [{"path": str(path), "bytes": None} for path in sorted(test.rglob("*.png"))]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(tmp_path / "t.parquet")
    arguments = ("diagnostics", "--data", tmp_path / "t.parquet", "--model", "pixels")
    assert "none of the 7 images" in error_of(evaluate(*arguments))
    assert evaluate(*arguments, "--root", test).exit_code == 0


def test_diagnostics__take_any_source_of_images(
    evaluate: Command, error_of: ErrorOf, train: Path, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(train.rglob("*.png"))))
    options = ("--data", tmp_path / "list.txt", "--model", model_folder, "--compare", "pixels", "--max-images", 9)
    result = evaluate("diagnostics", *options)
    assert result.exit_code == 0, result.output
    assert "sharpness of L" in result.stdout
    assert "has no clustering head" in error_of(evaluate("diagnostics", *options, "--prototypes", model_folder))
