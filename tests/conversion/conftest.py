"""Original checkpoints for the tests of `conversion/`: tiny ones with values, published ones by name and shape."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

StateDict = dict[str, Tensor]

# The ViT's names in transformers < 5, as published, and in transformers >= 5.
NEWER = (
    (r"^(encoder|decoder|teacher_encoder)\.encoder\.layer\.", r"\1.layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


def to_newer_name(name: str) -> str:
    for pattern, replacement in NEWER:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture
def newer_name() -> Callable[[str], str]:
    """Renames a published tensor as transformers >= 5 calls it."""
    return to_newer_name


@pytest.fixture(scope="session")
def heads() -> dict[str, int]:
    """The numbers of heads of the tiny checkpoints, which their widths do not tell."""
    return {"num_attention_heads": 3, "decoder_num_attention_heads": 4}


@pytest.fixture(scope="session")
def layouts(data_dir: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the published checkpoints and of the tokenizer."""
    content = json.loads((data_dir / "original-layouts.json").read_text())
    return {name: layout["tensors"] for name, layout in content.items()}


@pytest.fixture(scope="session")
def on_meta(layouts: dict[str, dict[str, list[int]]]) -> Callable[[str], StateDict]:
    """Builds a published checkpoint, or the tokenizer ("vqgan"), on the meta device."""

    def build(name: str) -> StateDict:
        layout = layouts["maskgit-vqgan-imagenet-f16-256" if name == "vqgan" else name]
        return {tensor: torch.empty(shape, device="meta") for tensor, shape in layout.items()}

    return build


@pytest.fixture(scope="session")
def _files(golden_dir: Path) -> dict[str, StateDict]:
    files = {name: load_file(golden_dir / f"original-{name}.safetensors") for name in ("vq", "pixel", "teacher")}
    return files | {"vqgan": torch.load(golden_dir / "vqgan.bin", weights_only=True)}


@pytest.fixture
def vq(_files: dict[str, StateDict]) -> StateDict:
    """The tiny checkpoint with a "vq" head."""
    return dict(_files["vq"])


@pytest.fixture
def pixel(_files: dict[str, StateDict]) -> StateDict:
    """The tiny checkpoint with a "pixel" head."""
    return dict(_files["pixel"])


@pytest.fixture
def teacher(_files: dict[str, StateDict]) -> StateDict:
    """The EMA copies that belong to `pixel`, without it."""
    return dict(_files["teacher"])


@pytest.fixture
def vqgan(_files: dict[str, StateDict]) -> StateDict:
    """The tiny tokenizer."""
    return dict(_files["vqgan"])


@pytest.fixture(scope="session")
def expected(golden_dir: Path) -> StateDict:
    """What the authors' implementation computes with the tiny checkpoints."""
    return load_file(golden_dir / "expected.safetensors")
