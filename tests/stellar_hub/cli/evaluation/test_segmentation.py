"""`stellar-hub eval segmentation`."""

import json
from pathlib import Path

from tests.stellar_hub.cli.conftest import Command
from tests.stellar_hub.cli.evaluation.conftest import ErrorOf


def test_segmentation__reads_folders_with_masks(
    evaluate: Command, error_of: ErrorOf, masked: tuple[Path, Path], tmp_path: Path
) -> None:
    folders = ("--train", masked[0], "--test", masked[1], "--model", "pixels")
    result = evaluate("segmentation", *folders, "--epochs", 2, "--background", -1, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "16 clusters of patches" in result.stdout
    fields = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert fields["protocol"]["background"] is None
    assert (tmp_path / "out" / "segmentation-overlays.png").is_file()
    (masked[1] / "masks" / "2.png").unlink()
    result = evaluate("segmentation", *folders, "--epochs", 1)
    assert result.exit_code == 0
    assert "1 image of test is left out: " in result.stdout
    assert "masks/2.png" in result.stdout
    assert "background" in error_of(evaluate("segmentation", *folders, "--background", 3), exit_code=2)
