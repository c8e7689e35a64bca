"""What a load says."""

import logging
from pathlib import Path

import pytest

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.modeling_stellar_base import TRANSFORMERS_LOGGER, _success_line, _without_load_report


@pytest.mark.parametrize(
    ("converted", "decodes", "line"),
    [
        (True, True, "stellar-b16: all 7 tensors converted from the original layout; encodes and decodes"),
        (False, False, "stellar-b16: all 7 tensors loaded; features only"),
    ],
)
def test_success_line__says_what_was_loaded(converted: bool, decodes: bool, line: str) -> None:
    assert _success_line("stellar-b16", 7, converted, decodes) == line


def test__without_load_report__holds_back_the_table_alone(transformers_log: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(TRANSFORMERS_LOGGER)
    with _without_load_report():
        logger.warning("StellarModel LOAD REPORT from: x")
        logger.warning("something else")
    logger.warning("LOAD REPORT after")
    # Where the variable CI is set, transformers' logger propagates, and a message is captured twice.
    assert list(dict.fromkeys(transformers_log.messages)) == ["something else", "LOAD REPORT after"]


def test_from_pretrained__reports_in_one_line_when_asked(
    pixel_model: StellarModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixel_model.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, logger="stellar_hub"):
        features = StellarModel.from_pretrained(tmp_path, decoder=False)
    expected = f"{tmp_path}: all {len(features.state_dict())} tensors loaded; features only"
    assert [message for message in caplog.messages if "tensors" in message] == [expected]
