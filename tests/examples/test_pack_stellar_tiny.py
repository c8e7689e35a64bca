"""The script that packs stellar-tiny: what it writes loads, and says how it was made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.training.monitoring.journal import Journal

SCRIPT = Path(__file__).parents[2] / "examples" / "pack_stellar_tiny.py"


@pytest.fixture
def run(tmp_path: Path, pixel_model: StellarModel) -> Path:
    """The folder of a finished run, as far as the script reads it."""
    folder = tmp_path / "run"
    pixel_model.save_pretrained(folder / "model")
    (folder / "model" / "README.md").write_text(
        "# m\n\n<!-- training -->\n## Training\n\n3 steps\n<!-- /training -->\n"
    )
    for name in ("curves.png", "reconstructions.png"):
        Image.new("RGB", (8, 8)).save(folder / "model" / name)
    Journal(folder / "metrics.jsonl").write(3, {"loss": 1.5})
    return folder


def pack(run: Path, output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(run), str(output)], capture_output=True, text=True)


@pytest.mark.slow
def test_script__packs_a_run_that_loads_without_code(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed"
    output.mkdir()
    (output / "README.md").write_text("# stellar-tiny\n\nkept\n\n<!-- training -->\nold\n<!-- /training -->\n")
    done = pack(run, output)
    assert done.returncode == 0, done.stderr
    model = StellarModel.from_pretrained(output)
    assert model.dtype == torch.float32
    weights = load_file(output / "model.safetensors")
    assert weights["encoder.blocks.0.attn.qkv.weight"].dtype == torch.float16
    assert weights["decoder.position_code.frequencies"].dtype == torch.float32
    golden = load_file(output / "golden.safetensors")
    with torch.inference_mode():
        encoding = model.encode(golden["pixel_values"])
    torch.testing.assert_close(encoding.semantics, golden["semantics"], rtol=1e-5, atol=1e-5)
    assert json.loads((output / "training.json").read_text()) == {"step": 3, "loss": 1.5}
    assert StellarImageProcessor.from_pretrained(output).patch_size == 8
    assert not list(output.glob("*.py"))
    card = (output / "README.md").read_text()
    assert "kept" in card
    assert "3 steps" in card
    assert "old" not in card
    assert (output / "curves.png").exists()


@pytest.mark.slow
def test_script__refuses_a_folder_without_a_card(run: Path, tmp_path: Path) -> None:
    done = pack(run, tmp_path / "nothing")
    assert done.returncode == 1
    assert "has no README.md" in done.stderr
