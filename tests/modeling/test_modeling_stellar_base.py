"""What a load says, and what a saved folder holds."""

import logging
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.loading import success_line


@pytest.mark.parametrize(
    ("converted", "decodes", "words"),
    [(True, True, ("converted", "decodes")), (False, False, ("loaded", "features only"))],
)
def test_success_line__says_what_was_loaded(converted: bool, decodes: bool, words: tuple[str, ...]) -> None:
    line = success_line("stellar-b16", 7, converted, decodes)
    assert all(word in line for word in ("stellar-b16", "7 tensors", *words))


def test_from_pretrained__reports_in_one_line_when_asked(
    pixel_model: StellarModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixel_model.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, logger="stellar_hub"):
        features = StellarModel.from_pretrained(tmp_path, decoder=False)
    expected = f"{tmp_path}: all {len(features.state_dict())} tensors loaded; features only"
    assert [message for message in caplog.messages if "tensors" in message] == [expected]


def test_saved_folder__holds_the_code_it_needs_and_no_more(pixel_folder: Path) -> None:
    modeling = Path(__file__).parents[2] / "modeling"
    known = {path.name for path in modeling.glob("*.py")}
    saved = {path.name for path in pixel_folder.glob("*.py")}
    assert saved <= known - {"__init__.py"}
    assert {"modeling_stellar.py", "configuration_stellar.py", "image_processing_stellar.py"} <= saved
    for name in saved:
        assert (pixel_folder / name).read_bytes() == (modeling / name).read_bytes()
    for path in pixel_folder.glob("*.py"):
        imported = {line.split()[1][1:] + ".py" for line in path.read_text().splitlines() if line.startswith("from .")}
        assert imported <= saved
