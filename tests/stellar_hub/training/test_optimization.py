"""Optimizer, parameter groups, and the learning rate's schedule."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.optimization import build_optimizer, build_schedule, count_steps
from stellar_hub.training.recipes.sections import OptimizationRecipe

Build = Callable[..., StellarForPreTraining]
RECIPE = OptimizationRecipe(
    optimizer="adamw",
    learning_rate=1e-2,
    weight_decay=0.04,
    betas=(0.8, 0.95),
    layer_decay=None,
    clip_norm=None,
    batch_size=4,
    gradient_accumulation_steps=1,
    epochs=None,
    steps=100,
    warmup_fraction=0.1,
    final_learning_rate=1e-4,
)


def change(**values: Any) -> OptimizationRecipe:
    return dataclasses.replace(RECIPE, **values)


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    """An option of each parameter's group, under the parameter's name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    found = [(names[id(p)], group.get(key, 1.0)) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    return dict(found)


def rates(recipe: OptimizationRecipe, num_steps: int, steps: list[int]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    schedule, found = build_schedule(optimizer, recipe, num_steps), []
    for step in steps:
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


class TestGroups:
    @pytest.fixture
    def model(self, build_pretraining_model: Build) -> StellarForPreTraining:
        """With all parts."""
        return build_pretraining_model(
            reconstruction_head="vq", teacher_momentum=0.9, layer_scale_init_value=0.1, decoder_num_hidden_layers=1
        )

    @pytest.mark.parametrize("layer_decay", [None, 0.5])
    def test_groups__hold_each_trainable_parameter_once_and_no_other(
        self, model: StellarForPreTraining, layer_decay: float | None
    ) -> None:
        found = by_name(model, build_optimizer(model, change(layer_decay=layer_decay)), "lr")
        assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    @pytest.mark.parametrize("layer_decay", [None, 0.5])
    def test_weight_decay__spares_norms_biases_tokens_and_positions(
        self, model: StellarForPreTraining, layer_decay: float | None
    ) -> None:
        decay = by_name(model, build_optimizer(model, change(layer_decay=layer_decay)), "weight_decay")
        spared = {name for name, value in decay.items() if value == 0}
        assert {f"stellar.encoder.{name}" for name in ("cls_token", "sparse_tokens", "pos_embed")} <= spared
        assert {"stellar.encoder.norm.weight", "stellar.encoder.blocks.0.ls1.gamma"} <= spared
        assert {name for name in decay if name.endswith(".bias")} <= spared
        decayed = {"clustering_head.prototypes.weight", "cls_clustering_head.mlp.fc1.weight"}
        decayed |= {f"stellar.{name}.weight" for name in ("encoder.patch_embed.proj", "encoder.blocks.1.attn.qkv")}
        decayed |= {"stellar.decoder.head.weight", "stellar.localization.sparse_proj.weight"}
        assert {decay[name] for name in decayed} == {0.04}
        shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
        assert all(shapes[name] >= 2 for name in decay.keys() - spared)

    def test_layer_decay__slows_each_block_below_the_next(self, model: StellarForPreTraining) -> None:
        scale = by_name(model, build_optimizer(model, change(layer_decay=0.5)), "lr_scale")
        encoder = "stellar.encoder"
        for name in ("cls_token", "sparse_tokens", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"):
            assert scale[f"{encoder}.{name}"] == 0.125
        assert {value for name, value in scale.items() if name.startswith(f"{encoder}.blocks.0.")} == {0.25}
        assert {value for name, value in scale.items() if name.startswith(f"{encoder}.blocks.1.")} == {0.5}
        rest = {name for name in scale if not name.startswith(encoder)} | {f"{encoder}.norm.weight"}
        assert {scale[name] for name in rest} == {1.0}

    def test_schedule__keeps_the_layers_scales(self, model: StellarForPreTraining) -> None:
        optimizer = build_optimizer(model, change(layer_decay=0.5))
        build_schedule(optimizer, RECIPE, 100).step_update(10)
        rate = by_name(model, optimizer, "lr")
        assert math.isclose(rate["stellar.encoder.cls_token"], 0.125 * 1e-2)
        assert math.isclose(rate["clustering_head.prototypes.weight"], 1e-2)


class TestOptimizers:
    def test_adamw__has_the_recipes_numbers(self, build_pretraining_model: Build) -> None:
        optimizer = build_optimizer(build_pretraining_model(), RECIPE)
        assert type(optimizer) is torch.optim.AdamW
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}
        assert {group["lr"] for group in optimizer.param_groups} == {1e-2}

    @pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "lion", "adan", "adafactor", "muon"])
    def test_step__moves_every_trainable_parameter(
        self, build_pretraining_model: Build, views: dict[str, Tensor], name: str
    ) -> None:
        model = build_pretraining_model(teacher_momentum=0.9)
        optimizer = build_optimizer(model, change(optimizer=name))
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        model(**views).loss.backward()
        optimizer.step()
        for key, parameter in model.named_parameters():
            assert parameter.isfinite().all(), key
            assert torch.equal(parameter, before[key]) != parameter.requires_grad, key

    def test_step__lowers_the_loss(self, build_pretraining_model: Build, views: dict[str, Tensor]) -> None:
        model = build_pretraining_model(teacher_momentum=0.9)
        optimizer, losses = build_optimizer(model, change(learning_rate=1e-3)), []
        for _ in range(5):
            losses.append(model(**views).loss)
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[-1] < losses[0]


class TestCountSteps:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({}, 100),
            ({"steps": None, "epochs": 3}, 8),  # 30 images in batches of 4
            ({"steps": None, "epochs": 3, "gradient_accumulation_steps": 2}, 4),
            ({"steps": None, "epochs": 1, "batch_size": 64}, 1),
        ],
    )
    def test_count__is_given_or_follows_from_epochs(self, values: dict[str, Any], expected: int) -> None:
        assert count_steps(change(**values), 10) == expected


class TestSchedule:
    def test_rate__rises_from_zero_then_falls_as_a_cosine(self) -> None:
        found = rates(RECIPE, 110, [0, 1, 5, 11, 110, 200])  # a warm-up of 11 steps
        expected = [0.0, 1e-2 / 11, 5e-2 / 11, 1e-2, 1e-4, 1e-4]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def test_rate__is_halfway_in_the_middle_of_the_cosine(self) -> None:
        (middle,) = rates(RECIPE, 100, [55])  # 10 of warm-up, 90 of cosine
        assert math.isclose(middle, (1e-2 + 1e-4) / 2, rel_tol=1e-9)

    def test_rate__of_the_last_step_is_just_above_the_final_one(self) -> None:
        (last,) = rates(RECIPE, 100, [99])
        expected = 1e-4 + 0.5 * (1e-2 - 1e-4) * (1 + math.cos(math.pi * 89 / 90))
        assert math.isclose(last, expected, rel_tol=1e-9)
        assert 1e-4 < last < 1.05e-4

    def test_rate__begins_at_the_highest_without_warmup(self) -> None:
        assert rates(change(warmup_fraction=0.0), 100, [0]) == [1e-2]

    @pytest.mark.parametrize(("num_steps", "expected"), [(1, [1e-2]), (2, [0.0, 1e-2])])
    def test_shortest_runs__reach_the_highest_rate(self, num_steps: int, expected: list[float]) -> None:
        assert rates(change(warmup_fraction=1.0), num_steps, list(range(num_steps))) == expected

    @given(num_steps=st.integers(1, 300), warmup=st.floats(0, 1), final=st.floats(0, 1e-2))
    def test_rate__stays_within_its_ends_and_has_one_peak(self, num_steps: int, warmup: float, final: float) -> None:
        recipe = change(warmup_fraction=warmup, final_learning_rate=final)
        found = rates(recipe, num_steps, list(range(num_steps)))
        assert math.isclose(max(found), 1e-2)
        peak = found.index(max(found))
        assert found[: peak + 1] == sorted(found[: peak + 1])
        assert found[peak:] == sorted(found[peak:], reverse=True)
        assert all(rate >= final * (1 - 1e-9) for rate in found[peak:])

    def test_schedule__has_no_memory(self) -> None:
        assert rates(RECIPE, 100, [90, 3, 50, 3])[1] == rates(RECIPE, 100, [3])[0]
