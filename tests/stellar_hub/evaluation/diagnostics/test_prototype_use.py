"""Use of prototypes."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stellar_hub.evaluation.diagnostics.prototype_use import load_prototypes, nearest_prototypes, prototype_use


def test_use__is_the_entropy_of_counts() -> None:
    use = prototype_use(torch.tensor([0, 0, 1, 3]), 4)
    expected = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(4)
    assert use.entropy == pytest.approx(expected)
    assert use.used == 0.75
    assert prototype_use(torch.arange(8), 8) == pytest.approx((1.0, 1.0))
    assert prototype_use(torch.zeros(9, dtype=torch.long), 4) == pytest.approx((0.0, 0.25))


def test_checkpoint__gives_the_assignment_of_training(
    build_pretraining_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = build_pretraining_model()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    tokens = torch.randn(30, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model.clustering_head(tokens) @ model.clustering_head.prototypes.weight.T
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.equal(nearest_prototypes(tokens, load_prototypes(path)), scores.argmax(dim=1))


def test_what_is_no_checkpoint_of_pretraining__is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_prototypes(tmp_path)
    save_file({"encoder.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape("has no clustering head (clustering_head.mlp.fc1.weight)")):
        load_prototypes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_prototypes(tmp_path)
