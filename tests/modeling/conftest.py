"""Fixtures for the tests of `modeling/`: saved checkpoints, a synthetic image, transformers' log."""

import copy
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stellar_hub.modeling import StellarImageProcessor, StellarModel

Tensors = dict[str, Tensor]


def save(model: StellarModel, folder: Path) -> Path:
    copy.deepcopy(model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pixel_folder(tmp_path_factory: pytest.TempPathFactory, shared_pixel_model: StellarModel) -> Path:
    """The tiny "pixel" model as `save_pretrained` writes it; not to be changed."""
    return save(shared_pixel_model, tmp_path_factory.mktemp("pixel"))


@pytest.fixture(scope="session")
def vq_folder(tmp_path_factory: pytest.TempPathFactory, shared_vq_model: StellarModel) -> Path:
    """The tiny "vq" model as `save_pretrained` writes it; not to be changed."""
    return save(shared_vq_model, tmp_path_factory.mktemp("vq"))


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """Copies a checkpoint: `altered(folder, tensors=f, config=g)` lets `f` and `g` change the dictionaries in place."""

    def make(
        folder: Path,
        tensors: Callable[[Tensors], object] | None = None,
        config: Callable[[dict[str, Any]], object] | None = None,
    ) -> Path:
        target = tmp_path / "altered"
        shutil.copytree(folder, target)
        if tensors is not None:
            state_dict = load_file(target / "model.safetensors")
            tensors(state_dict)
            save_file(state_dict, target / "model.safetensors", metadata={"format": "pt"})
        if config is not None:
            content = json.loads((target / "config.json").read_text())
            config(content)
            (target / "config.json").write_text(json.dumps(content))
        return target

    return make


@pytest.fixture
def transformers_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs; its logger does not propagate, so `caplog` alone would miss it."""
    caplog.set_level(logging.WARNING, logger="stellar_hub")  # its own line about a load is another matter
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture
def photo() -> np.ndarray:
    """A synthetic image, `(74, 148, 3)`, uint8: ramps, a disc with hard edges, and some noise."""
    y, x = np.mgrid[0:74, 0:148]
    ramps = np.stack([x * 255 / 147, y * 255 / 73, 255 - x * 255 / 147], axis=-1)
    disc = ((y - 40) ** 2 + (x - 60) ** 2 < 400)[..., None]
    noise = np.random.default_rng(0).integers(-20, 21, size=(74, 148, 3))
    return np.clip(np.where(disc, [250, 240, 10], ramps) + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def processor() -> StellarImageProcessor:
    """The processor that fits the tiny model: shortest side 37 = 256 / 224 of 32 rounded, crop 32, patch 8."""
    return StellarImageProcessor(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}, patch_size=8)


@pytest.fixture
def grid_of_four() -> Tensor:
    """`L` of one image on a 4 x 4 grid with 4 tokens: token 1 has cell (1, 2), token 0 all others; `(16, 4)`."""
    localization = torch.zeros(16, 4)
    localization[:, 0] = 1
    localization[1 * 4 + 2] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return localization
