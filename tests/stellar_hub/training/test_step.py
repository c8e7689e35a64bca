"""One optimizer step: inputs, optimizer, schedule, gradients, teacher."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from stellar_hub.data.random_numbers import step_generator
from stellar_hub.data.sources import open_sources
from stellar_hub.data.views.crops import ViewSettings, boxes_of_views, plan_views, render_views
from stellar_hub.data.views.photometric import (
    PhotometricSettings,
    apply_photometric,
    draw_photometric,
    identity_parameters,
)
from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining, StellarPreTrainingOutput
from stellar_hub.training.batches import build_loader
from stellar_hub.training.model.targets import cosine_momentum
from stellar_hub.training.recipes.sections import OptimizationRecipe
from stellar_hub.training.sharding import load_optimizer
from stellar_hub.training.start import build_accelerator
from stellar_hub.training.step import (
    LOSSES,
    Stepper,
    build_optimizer,
    build_schedule,
    count_steps,
    mean_losses,
    model_inputs,
)
from tests.stellar_hub.training.conftest import draw_images, recipe_for, tiny_recipe_values

SETTINGS = PhotometricSettings(True, 0.4, 0.4, 0.2, 0.1, 1.0, 0.2, 0.5, (0.1, 2.0), 5)
LOCAL_ONLY = PhotometricSettings(False, 0.4, 0.4, 0.2, 0.1, 1.0, 0.2, 0.5, (0.1, 2.0), 5)
CPU = torch.device("cpu")


@pytest.fixture
def batch() -> dict[str, Any]:
    """Two images, three global views of 16 pixels and two local ones of 8."""
    generator = torch.Generator().manual_seed(0)
    parameters = [draw_photometric(5, SETTINGS, generator) for _ in range(2)]
    return {
        "global_views": torch.randint(256, (2, 3, 3, 16, 16), dtype=torch.uint8, generator=generator),
        "local_views": torch.randint(256, (2, 2, 3, 8, 8), dtype=torch.uint8, generator=generator),
        "photometric": torch.stack(parameters),
        "kept_patches": torch.tensor([[0, 3]] * 6),
        "paths": ["a.png", "b.png"],
        "skipped": ["c.png: empty"],
    }


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_inputs__are_those_of_the_model(batch: dict[str, Any]) -> None:
    inputs = model_inputs(batch, CPU, SETTINGS)
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "pixel_values": (2, 3, 16, 16),
        "global_views": (2, 3, 3, 16, 16),
        "local_views": (2, 2, 3, 8, 8),
        "kept_patches": (6, 2),
    }
    images = [value for name, value in inputs.items() if name != "kept_patches"]
    assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
    torch.testing.assert_close(inputs["kept_patches"], batch["kept_patches"])


def test_clean_image__is_the_first_global_view_before_its_colours_change(batch: dict[str, Any]) -> None:
    inputs = model_inputs(batch, CPU, SETTINGS)
    close(inputs["pixel_values"], batch["global_views"][:, 0] / 255)
    assert (inputs["global_views"][:, 0] - inputs["pixel_values"]).abs().max() > 0.01


def test_each_view__has_its_own_parameters(batch: dict[str, Any]) -> None:
    inputs = model_inputs(batch, CPU, SETTINGS)
    for image in range(2):
        for view in range(5):
            name, index = ("global_views", view) if view < 3 else ("local_views", view - 3)
            before = batch[name][image, index][None] / 255
            expected = apply_photometric(before, batch["photometric"][image, view][None], 5)[0]
            close(inputs[name][image, index], expected)


def test_global_views__are_left_alone_where_the_recipe_says_so(batch: dict[str, Any]) -> None:
    inputs = model_inputs(batch, CPU, LOCAL_ONLY)
    close(inputs["global_views"], batch["global_views"] / 255)
    assert (inputs["local_views"] - batch["local_views"] / 255).abs().max() > 0.01


def test_local_views_and_masks__may_be_absent(batch: dict[str, Any]) -> None:
    del batch["local_views"], batch["kept_patches"]
    assert set(model_inputs(batch, CPU, SETTINGS)) == {"pixel_values", "global_views"}


def test_batch__stays_as_it_is(batch: dict[str, Any]) -> None:
    before = {name: value.clone() for name, value in batch.items() if isinstance(value, Tensor)}
    model_inputs(batch, CPU, SETTINGS)
    for name, value in before.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)


def test_double_precision__is_kept_throughout(batch: dict[str, Any]) -> None:
    inputs = model_inputs(batch, CPU, SETTINGS, torch.float64)
    assert {value.dtype for name, value in inputs.items() if name != "kept_patches"} == {torch.float64}
    close(inputs["global_views"].float(), model_inputs(batch, CPU, SETTINGS)["global_views"])


def test_images__are_cut_into_the_views_the_workers_would_have_made() -> None:
    images = [torch.randint(60, 196, (3, *shape), dtype=torch.uint8) for shape in ((20, 30), (40, 24))]
    views = ViewSettings(16, 8, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5)
    planned = [plan_views(*image.shape[1:], views, torch.Generator().manual_seed(1)) for image in images]
    batch: dict[str, Any] = {
        "images": images,
        "global_boxes": torch.stack([boxes_of_views(plan[0]) for plan in planned]),
        "local_boxes": torch.stack([boxes_of_views(plan[1]) for plan in planned]),
        "photometric": torch.stack([identity_parameters(5)] * 2),
    }
    inputs = model_inputs(batch, CPU, SETTINGS, view_sizes=(16, 8))
    for name, which in (("global_views", 0), ("local_views", 1)):
        expected = torch.stack([render_views(image, plan[which]) for image, plan in zip(images, planned, strict=True)])
        torch.testing.assert_close(inputs[name], expected / 255, rtol=0, atol=2.1 / 255)


NUM_STEPS = 4


def build(**options: Any) -> StellarForPreTraining:
    torch.manual_seed(0)
    return StellarForPreTraining(StellarConfig(**(tiny_recipe_values()["model"]["config"] | options))).train()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images."""
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def accelerator(folder: Path) -> Accelerator:
    """accelerate on the CPU, in float32."""
    return build_accelerator(recipe_for(folder).run, folder, cpu=True)


@pytest.fixture(scope="module")
def batches(folder: Path, accelerator: Accelerator) -> list[dict[str, Any]]:
    """Three batches of two images."""
    config = StellarConfig(**tiny_recipe_values()["model"]["config"])
    return list(build_loader(recipe_for(folder, "batch_size=2"), open_sources([folder]), config, accelerator, 3, 0))


class Recorded(SGD):
    """Plain gradient descent that keeps the gradients, rates and weights of each update."""

    def __init__(self, model: StellarForPreTraining):
        self.named = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        super().__init__(self.named.values(), lr=1e-3)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients.append(
            {name: tensor.grad.clone() for name, tensor in self.named.items() if tensor.grad is not None}
        )
        self.rates.append(self.param_groups[0]["lr"])
        super().step(closure)


def stepper_of(
    folder: Path, accelerator: Accelerator, clip_norm: float | None = None, **options: Any
) -> tuple[Stepper, Recorded]:
    recipe, model = recipe_for(folder), build(**options)
    optimizer = Recorded(model)
    schedule = build_schedule(optimizer, recipe.optimization, NUM_STEPS)
    stepper = Stepper(accelerator, model, model, optimizer, schedule, recipe.augmentation, clip_norm, NUM_STEPS)
    return stepper, optimizer


def gradients_of(folder: Path, batch: dict[str, Any]) -> tuple[dict[str, Tensor], StellarPreTrainingOutput]:
    """By autograd, without any of the code at test."""
    model = build()
    output = model(**model_inputs(batch, torch.device("cpu"), recipe_for(folder).augmentation))
    output.loss.backward()
    return {name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None}, output


def norm_of(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()


def test_one_batch__gives_its_gradient_and_losses(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]]
) -> None:
    stepper, optimizer = stepper_of(folder, accelerator)
    result = stepper.step(0, batches[:1])
    expected, output = gradients_of(folder, batches[0])
    torch.testing.assert_close(optimizer.gradients[0], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.gradient_norm, norm_of(expected), rtol=1e-5, atol=0)
    assert set(result.losses) == {name for name in LOSSES if not name.startswith(("sop_", "baseline_"))}
    for name, value in result.losses.items():
        torch.testing.assert_close(value, getattr(output, name).detach(), rtol=1e-5, atol=1e-6)
        assert not value.requires_grad
    assert result.paths == batches[0]["paths"]


def test_accumulation__is_the_mean_of_the_batches_gradients(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]]
) -> None:
    stepper, optimizer = stepper_of(folder, accelerator)
    result = stepper.step(0, batches[:2])
    (first, of_first), (second, of_second) = (gradients_of(folder, batch) for batch in batches[:2])
    expected = {name: (first[name] + second[name]) / 2 for name in first}
    torch.testing.assert_close(optimizer.gradients[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.gradient_norm, norm_of(expected), rtol=1e-4, atol=0)
    assert len(optimizer.gradients) == 1
    for name, value in result.losses.items():
        mean = (getattr(of_first, name) + getattr(of_second, name)).detach() / 2
        torch.testing.assert_close(value, mean, rtol=1e-5, atol=1e-6)
    assert result.paths == batches[0]["paths"] + batches[1]["paths"]


def test_gradients__begin_at_zero_in_every_step(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]]
) -> None:
    stepper, optimizer = stepper_of(folder, accelerator)
    optimizer.param_groups[0]["initial_lr"] = 0.0
    stepper.schedule.base_values = [0.0]
    stepper.schedule.lr_min = 0.0
    for step in range(2):  # nothing learnt in between
        stepper.step(step, batches[:1])
    torch.testing.assert_close(optimizer.gradients[1], optimizer.gradients[0], rtol=1e-5, atol=1e-7)


def test_clipping__shortens_the_gradient_and_not_what_is_reported(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]]
) -> None:
    free, without = stepper_of(folder, accelerator)
    clipped, optimizer = stepper_of(folder, accelerator, clip_norm=0.5)
    norm = free.step(0, batches[:1]).gradient_norm
    assert norm > 0.5
    torch.testing.assert_close(clipped.step(0, batches[:1]).gradient_norm, norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(norm_of(without.gradients[0]), norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(norm_of(optimizer.gradients[0]), torch.tensor(0.5), rtol=1e-4, atol=0)


def test_learning_rate__is_that_of_the_step(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]]
) -> None:
    stepper, optimizer = stepper_of(folder, accelerator)
    for step in (0, 2):
        stepper.step(step, batches[:1])
    middle = 1e-5 + (1e-3 - 1e-5) / 2
    assert optimizer.rates == pytest.approx([1e-3, middle])


class TestTeacher:
    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    def test_teacher__moves_before_the_forward_by_the_momentum_of_the_step(
        self, folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]], schedule: str
    ) -> None:
        options = {"teacher_momentum": 0.5, "teacher_momentum_schedule": schedule}
        stepper, _ = stepper_of(folder, accelerator, **options)
        model = stepper.model
        assert model.teacher is not None
        stepper.step(0, batches[:1])
        student = model.stellar.encoder.sparse_tokens.detach().clone()
        teacher = model.teacher.encoder.sparse_tokens.clone()
        assert (student - teacher).abs().max() > 0
        stepper.step(1, batches[:1])
        momentum = 0.5 if schedule == "constant" else cosine_momentum(0.5, 1 / NUM_STEPS)
        expected = momentum * teacher + (1 - momentum) * student
        torch.testing.assert_close(model.teacher.encoder.sparse_tokens.data, expected, rtol=0, atol=1e-7)

    def test_teacher__moves_once_whatever_the_batches(
        self, folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stepper, _ = stepper_of(folder, accelerator, teacher_momentum=0.5)
        moved: list[float] = []
        monkeypatch.setattr(stepper.model, "update_teacher", moved.append)
        stepper.step(0, batches)
        assert moved == [0.5]

    def test_without_a_teacher__there_is_nothing_to_move(self, folder: Path, accelerator: Accelerator) -> None:
        stepper_of(folder, accelerator)[0].update_teacher(0)


def test_mean_losses__leave_out_what_is_switched_off() -> None:
    first = StellarPreTrainingOutput(loss=torch.tensor(1.0, requires_grad=True), mask_loss=torch.tensor(2.0))
    second = StellarPreTrainingOutput(loss=torch.tensor(2.0, requires_grad=True), mask_loss=torch.tensor(6.0))
    found = mean_losses([first, second])
    assert {name: float(value) for name, value in found.items()} == {"loss": 1.5, "mask_loss": 4.0}
    assert not found["loss"].requires_grad


class WaitsForTheDevice(TorchDispatchMode):
    """Notes operations whose result the host must know, which on a GPU makes it wait."""

    OPERATIONS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.bincount")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith(self.OPERATIONS):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


SOP = {
    "token_objective": "sop",
    "teacher_momentum": 0.9,
    "sop_memory_size": 18,
    "sop_num_anchors": 8,
    "sop_num_supports": 3,
    "sop_token_memory_size": 14,
    "sop_num_token_anchors": 6,
}
SOP_PATCHES = SOP | {"token_objective": "sop_patches", "koleo_weight": 0, "reconstruction_weight": 0}


@pytest.mark.parametrize("options", [SOP, SOP_PATCHES], ids=["tokens", "patches"])
def test_memories__take_each_batch_once_its_losses_have_read_them(
    folder: Path, accelerator: Accelerator, batches: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    stepper, _ = stepper_of(folder, accelerator, **options)
    stepper.seed = 5
    model = build(**options)
    model.update_teacher()
    for index, batch in enumerate(batches):
        inputs = model_inputs(batch, torch.device("cpu"), recipe_for(folder).augmentation)
        model.write_memories(model(**inputs, generator=step_generator(5, 3, index)))
    stepper.step(3, batches)
    teacher = stepper.model.teacher
    assert int(teacher.cls_memory.position) == 6
    for name, memory in (("cls_memory", teacher.cls_memory), ("token_memory", teacher.token_memory)):
        torch.testing.assert_close(memory.rows, getattr(model.teacher, name).rows, rtol=1e-4, atol=1e-5)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "prototypes": {"teacher_momentum": 0.9, "use_global_align": True},
    "sop": SOP,
    "sop with the paper's choice": SOP | {"sop_anchor_choice": "variation"},
    "sop of patches": SOP_PATCHES,
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("device_crops", [False, True])
def test_step__never_waits_for_the_device(
    folder: Path, accelerator: Accelerator, device_crops: bool, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Values are looked at on CPUs alone.
    monkeypatch.setattr("stellar_hub.training.model.modeling_pretraining.check_views", lambda *args: None)
    stepper, _ = stepper_of(folder, accelerator, clip_norm=1.0, **OBJECTIVES[objective])
    recipe = recipe_for(folder, "batch_size=2", f"data.device_crops={str(device_crops).lower()}")
    config = StellarConfig(**tiny_recipe_values()["model"]["config"])
    batch = next(iter(build_loader(recipe, open_sources([folder]), config, accelerator, 1, 0)))
    stepper.view_sizes = (recipe.data.image_size, recipe.data.local_size)
    stepper.optimizer = SGD(stepper.parameters, lr=0.01)  # torch's own, which does not look
    with WaitsForTheDevice() as waits:
        torch.zeros(1).item()
        assert waits.seen == ["aten._local_scalar_dense.default"]  # it is seen
        waits.seen.clear()
        stepper.step(0, [batch])
        assert waits.seen == []


class CountsCasts(TorchDispatchMode):
    """Counts how often each weight is cast to bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in model.named_parameters()}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            name = self.names.get(args[0].untyped_storage().data_ptr())
            self.counts.update([name] if name else [])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_step__casts_each_weight_once(folder: Path, batches: list[dict[str, Any]], checkpointing: bool) -> None:
    accelerator = build_accelerator(recipe_for(folder, "precision=bf16").run, folder, cpu=True)
    model = build(teacher_momentum=0.9)
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = SGD(model.parameters(), lr=0.01)
    schedule = build_schedule(optimizer, RECIPE, NUM_STEPS)
    wrapped = accelerator.prepare_model(model)
    stepper = Stepper(accelerator, wrapped, model, optimizer, schedule, SETTINGS, None, NUM_STEPS)
    with CountsCasts(model) as casts:
        stepper.step(0, batches[:1])
    # The patch projection is used as a matrix, a view that autocast does not keep: once for each kind of view.
    projection = "stellar.encoder.patch_embed.proj.weight"
    assert casts.counts.pop(projection) == 3
    assert {name.partition(".")[0] for name in casts.counts} == {
        "stellar",
        "clustering_head",
        "cls_clustering_head",
        "teacher",
    }
    assert set(casts.counts.values()) == {1}
    assert all(parameter.grad is None for parameter in model.parameters())


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
    prototype_precision="fp32",
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

    @pytest.mark.parametrize(("name", "expected"), [("adamw", True), ("sgd", True), ("lamb", None), ("adagrad", None)])
    def test_fused__is_for_those_that_have_such_a_kernel(
        self, build_pretraining_model: Build, name: str, expected: bool | None
    ) -> None:
        groups = build_optimizer(build_pretraining_model(), change(optimizer=name), fused=True).param_groups
        assert {group.get("fused") for group in groups} == {expected}

    def test_fused__gives_the_weights_of_the_plain_one(
        self, build_pretraining_model: Build, views: dict[str, Tensor]
    ) -> None:
        found = []
        for fused in (False, True):
            model = build_pretraining_model(teacher_momentum=0.9)
            optimizer = build_optimizer(model, RECIPE, fused)
            model(**views).loss.backward()
            optimizer.step()
            optimizer.step()  # with the same gradients: AdamW makes noise large where a gradient is 0
            found.append(model.state_dict())
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("fused", [False, True])
    def test_state_of_the_other_kind__is_taken_and_the_kind_is_kept(
        self, build_pretraining_model: Build, views: dict[str, Tensor], fused: bool
    ) -> None:
        model = build_pretraining_model()
        before, after = (build_optimizer(model, RECIPE, kind) for kind in (fused, not fused))
        model(**views).loss.backward()
        before.step()
        load_optimizer(after, before.state_dict())
        assert {bool(group["fused"]) for group in after.param_groups} == {not fused}
        after.step()
        assert {float(state["step"]) for state in after.state.values()} == {2.0}

    @pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
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

    def test_schedule__of_one_step_is_no_reason_to_warn(self, caplog: pytest.LogCaptureFixture) -> None:
        assert rates(change(warmup_fraction=0.0), 1, [0]) == [1e-2]
        assert caplog.records == []

    def test_schedule__has_no_memory(self) -> None:
        assert rates(RECIPE, 100, [90, 3, 50, 3])[1] == rates(RECIPE, 100, [3])[0]
