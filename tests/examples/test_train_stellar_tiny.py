"""The script that makes stellar-tiny runs, and what it writes loads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stellar_hub.modeling import StellarImageProcessor, StellarModel

SCRIPT = Path(__file__).parents[2] / "examples" / "train_stellar_tiny.py"


@pytest.mark.slow
def test_script__writes_a_checkpoint_that_loads(tmp_path: Path) -> None:
    options = ["--steps", "2", "--batch-size", "4", "--output", str(tmp_path / "out")]
    subprocess.run([sys.executable, str(SCRIPT), *options], check=True, capture_output=True)
    model = StellarModel.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["encoder.blocks.0.attn.qkv.weight"].dtype == torch.float16
    assert weights["decoder.position_code.frequencies"].dtype == torch.float32
    golden = load_file(tmp_path / "out" / "golden.safetensors")
    with torch.inference_mode():
        encoding = model.encode(golden["pixel_values"])
    torch.testing.assert_close(encoding.semantics, golden["semantics"], rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] == 2
    assert StellarImageProcessor.from_pretrained(tmp_path / "out").patch_size == 8
    assert not list((tmp_path / "out").glob("*.py"))
