"""stellar-tiny keeps what its card promises."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "reconstruct_unseen_photographs.py"
CARD = ROOT / "stellar_hub" / "checkpoints" / "stellar-tiny" / "README.md"


@pytest.mark.slow
def test_stellar_tiny__reconstructs_unseen_photographs_as_its_card_says() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(".jpg |") >= 8
    measured = float(done.stdout.splitlines()[-1].split("|")[2].strip(" *"))
    promised = float(CARD.read_text().split("| **mean of ")[1].split("|")[1].strip(" *"))
    assert measured == pytest.approx(promised, abs=0.02)


def test_held_out_photographs__were_not_trained_on() -> None:
    training = {path.read_bytes() for path in (ROOT / "examples" / "training_photographs").glob("*.jpg")}
    held_out = [path.read_bytes() for path in (ROOT / "examples" / "images").glob("*.jpg")]
    assert len(held_out) >= 8
    assert not training & set(held_out)


@pytest.mark.parametrize("folder", ["images", "training_photographs"])
def test_photographs__each_have_a_license(folder: str) -> None:
    licenses = (ROOT / "examples" / folder / "LICENSES.md").read_text()
    for path in (ROOT / "examples" / folder).glob("*.jpg"):
        assert f"`{path.name}`" in licenses


def test_border_factor__is_1_where_patches_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from reconstruct_unseen_photographs import border_factor

    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    assert border_factor(ramp, 8) == pytest.approx(1, abs=1e-4)
    blocks = ramp + (torch.arange(32) // 8 % 2) * 0.5
    assert border_factor(blocks, 8) > 5
