"""Fixtures for all tests: a tiny STELLAR with either head, for pretraining too, images, and reference data."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig, StellarModel

# Models are tiny: more threads would only wait for each other, for seconds where the cores are busy.
torch.set_num_threads(1)

# The same examples in every run, and no time limit for one: machines are busy at times.
hypothesis.settings.register_profile("tests", deadline=None, max_examples=25, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")

TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "num_sparse_tokens": 4,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "codebook_size": 48,
    "tokenizer_hidden_channels": 32,
    "tokenizer_channel_mult": [1, 1, 1, 2],
    "tokenizer_num_res_blocks": 1,
    "tokenizer_embed_dim": 32,
}
# Forward and backward of the whole objective take some hundredths of a second.
TINY_PRETRAINING = TINY | {
    "decoder_num_hidden_layers": 1,
    "reconstruction_head": "pixel",
    "num_prototypes": 16,
    "prototype_dim": 12,
    "prototype_hidden_size": 20,
    "mask_ratio": 0.5,
}
SEED = 0
# Initialization gives weights of 0.02 and all-zero biases: nearly constant outputs. Twice that, with biases, is closer
# to trained weights, and shows mistakes.
GAIN = 2.0


@torch.no_grad()
def liven(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter += 0.1 * torch.randn_like(parameter)
        elif name.endswith(".bias"):
            parameter += 0.02 * torch.randn_like(parameter)
        elif "sparse_tokens" not in name:
            parameter *= GAIN


@torch.no_grad()
def build(**options: Any) -> StellarModel:
    torch.manual_seed(SEED)
    model = StellarModel(StellarConfig(**(TINY | options)))
    liven(model)
    if model.config.reconstruction_head == "pixel" and model.decoder is not None:
        model.decoder.head.bias += 0.5  # images around mid-grey, as from a trained decoder
    return model.eval()


def build_for_pretraining(**options: Any) -> Any:
    from stellar_hub.training import StellarForPreTraining  # no other test pays for it

    torch.manual_seed(SEED)
    model = StellarForPreTraining(StellarConfig(**(TINY_PRETRAINING | options)))
    liven(model)
    return model.train()


@pytest.fixture
def tiny_options() -> dict[str, Any]:
    """Keyword arguments of the tiny configuration."""
    return copy.deepcopy(TINY)


@pytest.fixture
def build_model() -> Callable[..., StellarModel]:
    """Builds a tiny model with changed options, seeded, in evaluation mode: `build_model(patch_size=4)`."""
    return build


@pytest.fixture(scope="session")
def build_pretraining_model() -> Callable[..., Any]:
    """Builds a tiny `StellarForPreTraining`, seeded, in training mode; a teacher differs from the model.

    `build_pretraining_model(mask_ratio=None)`; the default is a "pixel" head, and no teacher.
    """
    return build_for_pretraining


@pytest.fixture(scope="session")
def shared_pixel_model() -> StellarModel:
    """`pixel_model`, one for the whole session: not to be changed."""
    return build(reconstruction_head="pixel")


@pytest.fixture(scope="session")
def shared_vq_model() -> StellarModel:
    """`vq_model`, one for the whole session: not to be changed."""
    return build(reconstruction_head="vq")


@pytest.fixture
def pixel_model(shared_pixel_model: StellarModel) -> StellarModel:
    """Tiny model with the "pixel" head, float32, evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(shared_pixel_model)


@pytest.fixture
def vq_model(shared_vq_model: StellarModel) -> StellarModel:
    """Tiny model with the "vq" head and its tokenizer, float32, evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(shared_vq_model)


@pytest.fixture(params=["pixel", "vq"])
def model(request: pytest.FixtureRequest) -> StellarModel:
    """The tiny model, once with each head."""
    return request.getfixturevalue(f"{request.param}_model")


@pytest.fixture
def images() -> Tensor:
    """Two random images, `(2, 3, 32, 32)` in [0, 1]."""
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def views() -> dict[str, Tensor]:
    """A batch for pretraining: two images, three global and two local views each, noise; not to be changed."""
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": torch.rand(2, 3, 32, 32, generator=generator),
        "global_views": torch.rand(2, 3, 3, 32, 32, generator=generator),
        "local_views": torch.rand(2, 2, 3, 16, 16, generator=generator),
        "kept_patches": torch.rand(6, 16, generator=generator).argsort(dim=1)[:, :8],
    }


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """`tests/data`: reference data kept in the repository."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_dir(data_dir: Path) -> Path:
    """`tests/data/golden`: tiny original checkpoints, and what the authors' implementation computes with them."""
    return data_dir / "golden"
