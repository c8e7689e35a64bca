"""The head of online clustering."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stellar_hub.evaluation.protocols.diagnostics import load_prototypes
from stellar_hub.measures import ClusteringHead, nearest_prototypes, prototype_use
from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining

SIZES: dict[str, int] = {"num_prototypes": 32, "prototype_dim": 12, "prototype_hidden_size": 20}


def build(**options: Any) -> ClusteringHead:
    torch.manual_seed(0)
    head = ClusteringHead(hidden_size=48, **(SIZES | options))
    torch.nn.init.normal_(head.prototypes.weight)
    return head


def test_embeddings__are_the_normalized_mlp() -> None:
    head, hidden_states = build(), torch.randn(2, 3, 48)
    inner = F.gelu(F.linear(hidden_states, head.mlp.fc1.weight, head.mlp.fc1.bias))
    expected = F.normalize(F.linear(inner, head.mlp.fc2.weight, head.mlp.fc2.bias), dim=-1)
    torch.testing.assert_close(head(hidden_states), expected, rtol=1e-5, atol=1e-6)


@given(shape=st.lists(st.integers(1, 4), max_size=3), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_embeddings__are_unit_vectors_of_any_leading_shape(shape: list[int], scale: float) -> None:
    embeddings = build()(scale * torch.randn(*shape, 48))
    assert embeddings.shape == (*shape, 12)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(shape), rtol=0, atol=1e-5)


def test_embeddings__are_float32_under_autocast() -> None:
    head, hidden_states = build(), torch.randn(4, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = head(hidden_states)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings, head(hidden_states), rtol=0, atol=0.02)


def test_vanishing_embeddings__have_finite_gradients() -> None:
    head = build()
    torch.nn.init.zeros_(head.mlp.fc2.weight)
    torch.nn.init.zeros_(head.mlp.fc2.bias)
    head(torch.randn(2, 48)).sum().backward()
    assert head.mlp.fc2.bias.grad is not None
    assert head.mlp.fc2.bias.grad.isfinite().all()


def test_sizes__are_the_configurations() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in build().named_parameters()}
    assert shapes == {
        "mlp.fc1.weight": (20, 48),
        "mlp.fc1.bias": (20,),
        "mlp.fc2.weight": (12, 20),
        "mlp.fc2.bias": (12,),
        "prototypes.weight": (32, 12),
    }


@pytest.mark.parametrize("head", ["clustering_head", "cls_clustering_head"])
def test_prototypes__begin_as_standard_normal(tiny_options: dict[str, Any], head: str) -> None:
    torch.manual_seed(0)
    options = tiny_options | SIZES | {"num_prototypes": 1000, "use_decoder": False}
    weight = getattr(StellarForPreTraining(StellarConfig(**options)), head).prototypes.weight
    assert abs(weight.mean()) < 0.05
    assert abs(weight.std() - 1) < 0.05


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


def test_other_files__are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_prototypes(tmp_path)
    save_file({"encoder.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has no clustering head"):
        load_prototypes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_prototypes(tmp_path)
