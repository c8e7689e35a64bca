"""What a launcher asks of FSDP2, and a sharded model that computes what it did before; in two processes: test_fsdp2."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from stellar_hub.training import run
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.sharding import (
    block_precision,
    fsdp_plugin,
    full_tensor,
    gather_optimizer,
    gather_weights,
    inference_model,
    is_sharded,
    load_optimizer,
    load_weights,
    shard,
    shard_if_launched,
    transformer_blocks,
)
from stellar_hub.training.start import build_accelerator
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import changed

LOADING = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def accelerator(mixed_precision: str = "no", device: str = "cpu") -> Any:
    return SimpleNamespace(mixed_precision=mixed_precision, device=torch.device(device))


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the environment as `accelerate launch` does for its processes, with these options."""
    monkeypatch.setenv(LOADING, "")  # undone at the end, whoever sets it
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_"))]:
        monkeypatch.delenv(name)

    def set_environment(*options: str) -> None:
        numbers = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        arguments = launch_command_parser().parse_args([*numbers, *options, "-m", "stellar_hub", "train"])
        arguments.gpu_ids, arguments.fsdp_version = "all", int(arguments.fsdp_version)
        for name, value in prepare_multi_gpu_env(arguments).items():
            if name.startswith(("FSDP_", "ACCELERATE_")):
                monkeypatch.setenv(name, value)

    return set_environment


class TestLaunch:
    def test_without_fsdp__nothing_is_asked_for(self, launch: Callable[..., None]) -> None:
        launch("--multi_gpu")
        assert fsdp_plugin() is None

    @pytest.mark.parametrize("gives_back", [True, False])
    def test_second_version__is_taken_with_its_options(self, launch: Callable[..., None], gives_back: bool) -> None:
        launch("--use_fsdp", "--fsdp_version", "2", "--fsdp_reshard_after_forward", str(gives_back).lower())
        plugin = fsdp_plugin()
        assert plugin is not None
        assert plugin.reshard_after_forward is gives_back

    def test_every_process__loads_weights_itself(self, launch: Callable[..., None]) -> None:
        launch("--use_fsdp", "--fsdp_version", "2")
        assert os.environ[LOADING] == "true"  # what a launcher says unless told otherwise
        fsdp_plugin()
        assert os.environ[LOADING] == "False"  # and transformers reads

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "FSDP 1.*--fsdp_version 2"),
            (("--fsdp_version", "2", "--fsdp_offload_params", "true"), "--fsdp_offload_params false"),
            (
                ("--fsdp_version", "2", "--fsdp_activation_checkpointing", "true"),
                "run.gradient_checkpointing=true",
            ),
        ],
        ids=["version", "offload", "checkpointing"],
    )
    def test_others__are_refused_with_what_to_do(
        self, launch: Callable[..., None], options: tuple[str, ...], message: str
    ) -> None:
        launch("--use_fsdp", *options)
        with pytest.raises(ValueError, match=message):
            fsdp_plugin()

    def test_process_alone__keeps_its_model(
        self, launch: Callable[..., None], build_pretraining_model: Callable[..., Any]
    ) -> None:
        launch("--use_fsdp", "--fsdp_version", "2")
        model = build_pretraining_model()
        assert not shard_if_launched(model, accelerator(), "muon")
        assert not is_sharded(model)

    def test_optimizer__that_needs_whole_weights_is_refused(
        self, launch: Callable[..., None], group: None, build_pretraining_model: Callable[..., Any]
    ) -> None:
        launch("--use_fsdp", "--fsdp_version", "2")
        model = build_pretraining_model()
        with pytest.raises(ValueError, match=r"optimization\.optimizer .*adamw.* got muon"):
            shard_if_launched(model, accelerator(), "muon")
        assert not is_sharded(model)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> FullyShardedDataParallelPlugin:
    """accelerate's settings of FSDP2, as they are unless changed."""
    monkeypatch.setenv(LOADING, "")
    return FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)


@pytest.fixture(params=["pixel", "vq"])
def models(
    request: pytest.FixtureRequest,
    group: None,
    build_pretraining_model: Callable[..., Any],
    plugin: FullyShardedDataParallelPlugin,
) -> tuple[Any, Any]:
    """A model with a teacher, and the same one sharded."""
    model = build_pretraining_model(reconstruction_head=request.param, teacher_momentum=0.9)
    sharded = copy.deepcopy(model)
    shard(sharded, accelerator(), plugin)
    return model, sharded


class TestSharded:
    def test_parameters__are_sharded_but_for_the_tokenizers(self, models: tuple[Any, Any]) -> None:
        model, sharded = models
        assert is_sharded(sharded)
        assert list(sharded.state_dict()) == list(model.state_dict())
        whole = [name for name, parameter in sharded.named_parameters() if not isinstance(parameter, DTensor)]
        expected = [name for name, _ in model.named_parameters() if "tokenizer" in name]
        assert whole == expected
        assert bool(expected) == (model.config.reconstruction_head == "vq")

    def test_blocks__of_all_parts_are_units(self, models: tuple[Any, Any]) -> None:
        _, sharded = models
        blocks = list(transformer_blocks(sharded))
        assert len(blocks) == 2 + 1 + 2  # encoder, decoder, teacher
        assert {module for module in sharded.modules() if isinstance(module, FSDPModule)} == {sharded, *blocks}

    def test_losses_and_gradients__are_those_of_the_whole(
        self, models: tuple[Any, Any], views: dict[str, Tensor]
    ) -> None:
        outputs = [model(**views) for model in models]
        torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
        for output in outputs:
            output.loss.backward()
        for (name, expected), found in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            assert (found.grad is None) == (expected.grad is None)
            torch.testing.assert_close(full_tensor(found.grad), expected.grad, msg=name)

    def test_teacher__follows_as_the_whole_one(self, models: tuple[Any, Any]) -> None:
        before = [parameter.clone() for parameter in models[0].teacher.parameters()]
        for model in models:
            model.update_teacher(0.7)
        after = list(models[0].teacher.parameters())
        assert not all(map(torch.equal, before, after))
        for found, expected in zip(models[1].teacher.parameters(), after, strict=True):
            torch.testing.assert_close(full_tensor(found), expected, rtol=0, atol=0)

    def test_fp16__is_refused(
        self, build_pretraining_model: Callable[..., Any], plugin: FullyShardedDataParallelPlugin
    ) -> None:
        with pytest.raises(ValueError, match=r"run\.precision .* bf16"):
            shard(build_pretraining_model(), accelerator("fp16"), plugin)


@pytest.mark.slow
def test_run__takes_the_way_that_accelerate_goes_on_gpus(
    tiny_recipe: Recipe,
    tmp_path: Path,
    launch: Callable[..., None],
    group: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = changed(tiny_recipe, "precision=bf16", "preview_every=2", "model.config.teacher_momentum=0.9")
    train(recipe, tmp_path / "plain", cpu=True)
    launch("--use_fsdp", "--fsdp_version", "2")

    def build(*arguments: Any) -> Accelerator:
        accelerator = build_accelerator(*arguments)
        assert isinstance(accelerator.state, AcceleratorState)
        for state in (accelerator.state._shared_state, PartialState._shared_state):
            state["distributed_type"] = DistributedType.FSDP  # accelerate keeps it for GPUs
        accelerator.state.fsdp_plugin = fsdp_plugin()
        assert accelerator.is_fsdp2
        return accelerator

    monkeypatch.setattr(run, "build_accelerator", build)
    try:
        train(recipe, tmp_path / "sharded", cpu=True)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    plain, sharded = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "sharded"))
    torch.testing.assert_close(sharded, plain, rtol=0, atol=1e-5)
    assert "| device | 1 x cpu, sharded |" in (tmp_path / "sharded" / "model" / "README.md").read_text()


class TestPrecision:
    @pytest.mark.parametrize(("mixed_precision", "device"), [("no", "cuda"), ("no", "cpu"), ("bf16", "cpu")])
    def test_blocks__are_gathered_as_they_are(self, mixed_precision: str, device: str) -> None:
        policy = block_precision(accelerator(mixed_precision, device))
        assert (policy.param_dtype, policy.reduce_dtype) == (None, None)

    def test_blocks__are_gathered_as_autocast_would_make_them(self) -> None:
        policy = block_precision(accelerator("bf16", "cuda"))
        assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
        assert not policy.cast_forward_inputs


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
            torch.testing.assert_close(full_tensor(parameter), expected, rtol=0, atol=0)

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
