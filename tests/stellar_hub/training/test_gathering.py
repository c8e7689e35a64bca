"""Whole tensors come out of sharded ones as they went in, and no process but the first keeps them."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from stellar_hub.training.gathering import (
    gather_optimizer,
    gather_weights,
    inference_model,
    load_optimizer,
    load_weights,
    whole_tensor,
)
from stellar_hub.training.sharding import shard


@pytest.fixture
def model(build_pretraining_model: Callable[..., Any]) -> Any:
    """A model with a teacher."""
    return build_pretraining_model(teacher_momentum=0.9)


@pytest.fixture
def sharded(model: Any, group: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same one, sharded."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")  # undone at the end
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    accelerator: Any = SimpleNamespace(mixed_precision="no", device=torch.device("cpu"))
    copied = copy.deepcopy(model)
    shard(copied, accelerator, plugin)
    return copied


def stepped(model: Any, seed: int) -> AdamW:
    """AdamW after a step with random gradients."""
    optimizer = AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    step(optimizer, seed)
    return optimizer


def step(optimizer: AdamW, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimizer.param_groups[0]["params"]:
        gradient = torch.randn(parameter.shape, generator=generator)
        is_sharded = isinstance(parameter, DTensor)
        parameter.grad = (
            DTensor.from_local(gradient, parameter.device_mesh, parameter.placements) if is_sharded else gradient
        )
    optimizer.step()


class TestWeights:
    def test_gathered__are_those_that_were_sharded(self, model: Any, sharded: Any) -> None:
        found = gather_weights(sharded, keep=True)
        assert not any(isinstance(tensor, DTensor) for tensor in found.values())
        torch.testing.assert_close(found, dict(model.state_dict()), rtol=0, atol=0)

    def test_gathered__are_not_kept_where_they_are_not_wanted(self, sharded: Any) -> None:
        assert gather_weights(sharded, keep=False) == {}

    def test_loaded__are_those_of_the_file(self, sharded: Any, build_pretraining_model: Callable[..., Any]) -> None:
        other = {
            name: tensor + 1 for name, tensor in build_pretraining_model(teacher_momentum=0.9).state_dict().items()
        }
        load_weights(sharded, other)
        assert isinstance(sharded.stellar.encoder.pos_embed, DTensor)
        torch.testing.assert_close(gather_weights(sharded, keep=True), other, rtol=0, atol=0)

    @pytest.mark.parametrize("change", ["shape", "missing", "unexpected"])
    def test_weights_of_another_model__are_refused(self, model: Any, sharded: Any, change: str) -> None:
        weights = dict(model.state_dict())
        name = "stellar.encoder.sparse_tokens"
        tensor = weights.pop(name)
        if change == "shape":
            weights[name] = tensor[:-1]
        elif change == "unexpected":
            weights |= {name: tensor, "other": tensor}
        with pytest.raises(RuntimeError, match="other" if change == "unexpected" else "sparse_tokens"):
            load_weights(sharded, weights)


class TestOptimizer:
    def test_state__goes_from_sharded_to_whole_and_back(self, model: Any, sharded: Any) -> None:
        whole, shared = stepped(model, 1), stepped(sharded, 1)
        found = gather_optimizer(shared, keep=True)
        torch.testing.assert_close(found["state"], whole.state_dict()["state"], rtol=0, atol=0)
        for optimizer, state in ((shared, whole.state_dict()), (whole, found)):
            load_optimizer(optimizer, copy.deepcopy(state))
            step(optimizer, 2)
        assert isinstance(next(iter(shared.state.values()))["exp_avg"], DTensor)
        for expected, parameter in zip(model.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(whole_tensor(parameter), expected, rtol=0, atol=0)

    def test_state__is_not_kept_where_it_is_not_wanted(self, sharded: Any) -> None:
        optimizer = stepped(sharded, 1)
        state_dict = gather_optimizer(optimizer, keep=False)
        assert state_dict["state"] == {}
        assert len(state_dict["param_groups"]) == 1


class TestInference:
    def test_copy_of_a_sharded_model__computes_the_same(self, model: Any, sharded: Any, images: Tensor) -> None:
        before = torch.get_rng_state()
        copied = inference_model(sharded, is_main=True)
        assert copied is not None
        assert torch.equal(torch.get_rng_state(), before)
        for found, expected in zip(copied.encode(images), model.stellar.encode(images), strict=True):
            torch.testing.assert_close(found, expected)

    def test_whole_model__is_its_own_part(self, model: Any) -> None:
        assert inference_model(model, is_main=True) is model.stellar

    def test_other_processes__get_none(self, model: Any, sharded: Any) -> None:
        assert inference_model(model, is_main=False) is None
        assert inference_model(sharded, is_main=False) is None
