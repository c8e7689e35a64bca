"""`stellar-hub doctor`."""

import pytest
import torch

from stellar_hub.modeling import StellarModel

from .conftest import Command


def test_doctor__reports_versions_numbers_and_speed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.cli.doctor.SECONDS", 0.01)
    result = command("doctor")
    assert result.exit_code == 0, result.output
    assert f"torch            {torch.__version__.split('+')[0]}" in result.stdout
    for name in ("endpoint", "offline", "cache", "reading", "encoding", "bottleneck"):
        assert f"\n{name} " in result.stdout
    assert "agree" in result.stdout


def test_doctor__notices_wrong_numbers(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stellar_hub.cli.doctor.SECONDS", 0.01)
    encode = StellarModel.encode
    monkeypatch.setattr(StellarModel, "encode", lambda self, x: encode(self, x * 0.9))
    result = command("doctor")
    assert result.exit_code == 1
    assert "DIFFER" in result.stdout
    assert "please report this output" in result.stderr
