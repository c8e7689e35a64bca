"""What transformers makes of a saved folder: pipelines, and the code that travels with the weights."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stellar_hub.modeling import StellarImageProcessor, StellarModel


@pytest.fixture
def folder(tmp_path: Path, pixel_model: StellarModel, processor: StellarImageProcessor, photo: np.ndarray) -> Path:
    """Model, processor and an image, in one folder."""
    path = tmp_path / "model"
    pixel_model.save_pretrained(path)
    processor.save_pretrained(path)
    Image.fromarray(photo).save(path / "image.png")
    return path


def run_python(code: str, arguments: Sequence[Path], cwd: Path) -> None:
    """Run code in a fresh interpreter, away from the clone, with nobody at the keyboard."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "home"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


PIPELINE = """
import json, sys
import stellar_hub.modeling
from transformers import pipeline

folder, target = sys.argv[1:]
extract = pipeline("image-feature-extraction", model=folder, image_processor=folder)
pooled = pipeline("image-feature-extraction", model=folder, image_processor=folder, pool=True)
with open(target, "w") as file:
    json.dump([extract(folder + "/image.png"), pooled(folder + "/image.png")], file)
"""

WITHOUT_LIBRARY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "stellar_hub":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel

folder, target = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
encoding = model.encode(**processor(Image.open(folder + "/image.png"), return_tensors="pt"))
assert not any(name.split(".")[0] == "stellar_hub" for name in sys.modules)
save_file({**encoding._asdict(), "decoded": model.decode(encoding)}, target)
"""


@pytest.mark.slow
def test_pipeline__gives_s_and_the_pooled_vector(
    folder: Path, tmp_path: Path, pixel_model: StellarModel, processor: StellarImageProcessor
) -> None:
    run_python(PIPELINE, [folder, tmp_path / "out.json"], tmp_path)
    features, pooled = json.loads((tmp_path / "out.json").read_text())
    with torch.no_grad():
        out = pixel_model(**processor(folder / "image.png", return_tensors="pt"))
    torch.testing.assert_close(torch.tensor(features), out.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(pooled), out.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_pushed_code__works_without_this_library(
    folder: Path, tmp_path: Path, pixel_model: StellarModel, processor: StellarImageProcessor
) -> None:
    run_python(WITHOUT_LIBRARY, [folder, tmp_path / "out.safetensors"], tmp_path)
    actual = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        encoding = pixel_model.encode(**processor(folder / "image.png", return_tensors="pt"))
        expected = {**encoding._asdict(), "decoded": pixel_model.decode(*encoding)}
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-5)


def test_saved_folder__holds_the_code_it_needs_and_no_more(folder: Path) -> None:
    modeling = Path(__file__).parents[2] / "modeling"
    known = {path.name for path in modeling.glob("*.py")}
    saved = {path.name for path in folder.glob("*.py")}
    assert saved <= known - {"__init__.py"}
    assert {"modeling_stellar.py", "configuration_stellar.py", "image_processing_stellar.py"} <= saved
    for name in saved:
        assert (folder / name).read_bytes() == (modeling / name).read_bytes()
    for path in folder.glob("*.py"):
        imported = {line.split()[1][1:] + ".py" for line in path.read_text().splitlines() if line.startswith("from .")}
        assert imported <= saved
