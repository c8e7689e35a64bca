"""`stellar-hub eval all`."""

import json
from pathlib import Path

import pytest

from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf


@pytest.mark.slow
def test_all__makes_one_scorecard(
    evaluate: Command,
    error_of: ErrorOf,
    train: Path,
    test: Path,
    masked: tuple[Path, Path],
    model_folder: Path,
    tmp_path: Path,
) -> None:
    folders = ("--train", train, "--test", test, "--model", model_folder, "--compare", "pixels")
    masks = ("--segmentation-train", masked[0], "--segmentation-test", masked[1])
    result = evaluate("all", *folders, *masks, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    fields = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    assert list(fields["tasks"]) == ["knn", "linear", "segmentation", "reconstruction", "diagnostics"]
    text = (tmp_path / "out" / "scorecard.md").read_text()
    assert "## Segmentation" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "out" / line.partition("(")[2].rstrip(")")).is_file()
    assert "--segmentation-test" in error_of(evaluate("all", *folders, *masks[:2]), 2)
