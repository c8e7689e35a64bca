"""The model with its objective: switches, gradients, invariances, the teacher, loading."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import stellar_hub
from stellar_hub.modeling import StellarModel
from stellar_hub.training import StellarForPreTraining, StellarPreTrainingOutput

Build = Callable[..., StellarForPreTraining]
Views = dict[str, Tensor]
TEACHER = {"teacher_momentum": 0.9}
NO_CLS = {"use_cls_head": False, "use_local_views": False}
VQ = {"reconstruction_head": "vq"}
TERMS = {
    "reconstruction_loss",
    "koleo_loss",
    "clustering_loss",
    "cls_clustering_loss",
    "mask_loss",
    "cls_loss",
}
# For each switch: the options, and the terms that are off.
SWITCHES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pixel": ({}, set()),
    "vq": (VQ, set()),
    "unmasked, no local views": ({"mask_ratio": None, "use_local_views": False}, {"mask_loss", "cls_loss"}),
    "nothing hidden": ({"mask_ratio": 0.0}, set()),
    "block": ({"mask_strategy": "block"}, set()),
    "no matching": ({"use_matching": False}, set()),
    "no cls head": (NO_CLS, {"cls_loss", "cls_clustering_loss"}),
    "no local views": ({"use_local_views": False}, set()),
    "no koleo, own reconstruction weight": (
        {"koleo_weight": 0.0, "reconstruction_weight": 0.5},
        {"koleo_loss"},
    ),
    "no reconstruction of codes": (VQ | {"reconstruction_weight": 0}, {"reconstruction_loss"}),
    "no decoder": ({"use_decoder": False}, {"reconstruction_loss"}),
    "layer scale": ({"layer_scale_init_value": 0.1}, set()),
    "teacher": (TEACHER, set()),
    "teacher of codes": (TEACHER | VQ, set()),
    "teacher, no cls head": (TEACHER | NO_CLS, {"cls_loss", "cls_clustering_loss"}),
    "teacher, unmasked": (TEACHER | {"mask_ratio": None}, {"mask_loss"}),
    "align": ({"use_global_align": True}, set()),
    "align with teacher": (TEACHER | {"use_global_align": True}, set()),
    "clustering alone": (
        NO_CLS | {"mask_ratio": None, "koleo_weight": 0, "reconstruction_weight": 0},
        TERMS - {"clustering_loss"},
    ),
}


class Outcome(NamedTuple):
    """One forward and backward under a switch."""

    model: StellarForPreTraining
    before: dict[str, Tensor]
    output: StellarPreTrainingOutput
    off: set[str]


def run(model: StellarForPreTraining, views: Views, **changed: Any) -> StellarPreTrainingOutput:
    return model(**{**views, **changed})


def loss_of(model: StellarForPreTraining, views: Views, **changed: Any) -> Tensor:
    loss = run(model, views, **changed).loss
    assert loss is not None
    return loss


def gradients(model: StellarForPreTraining) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def double(views: Views) -> Views:
    return {name: view.double() if view.is_floating_point() else view for name, view in views.items()}


@pytest.fixture(scope="module", params=SWITCHES)
def outcome(request: pytest.FixtureRequest, build_pretraining_model: Build, views: Views) -> Outcome:
    """A forward and backward for each of `SWITCHES`."""
    options, off = SWITCHES[request.param]
    model = build_pretraining_model(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    output = run(model, views, kept_patches=None)  # drawn by the strategy
    assert output.loss is not None
    output.loss.backward()
    return Outcome(model, before, output, off)


class TestSwitches:
    def test_terms__are_none_exactly_where_switched_off(self, outcome: Outcome) -> None:
        assert {name for name in TERMS if getattr(outcome.output, name) is None} == outcome.off
        for name in TERMS - outcome.off:
            term = getattr(outcome.output, name)
            assert term.shape == ()
            assert term.isfinite()

    def test_loss__is_the_weighted_sum_of_the_terms(self, outcome: Outcome) -> None:
        weights = dict.fromkeys(TERMS, 1.0) | {"reconstruction_loss": outcome.model.reconstruction_weight}
        expected = sum(weights[name] * getattr(outcome.output, name) for name in TERMS - outcome.off)
        torch.testing.assert_close(outcome.output.loss, expected, rtol=1e-6, atol=0)

    def test_gradients__reach_every_trainable_parameter_and_no_other(self, outcome: Outcome) -> None:
        for name, parameter in outcome.model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.grad is None or parameter.grad.isfinite().all(), name

    def test_frozen_parameters__are_teacher_tokenizer_and_what_reconstructs_where_nothing_is(
        self, outcome: Outcome
    ) -> None:
        frozen = {name for name, parameter in outcome.model.named_parameters() if not parameter.requires_grad}
        prefixes = ["teacher.", "tokenizer_encoder.", "stellar.tokenizer."]
        if "reconstruction_loss" in outcome.off:
            prefixes += ["stellar.decoder.", "stellar.localization."]
        expected = {name for name, _ in outcome.model.named_parameters() if name.startswith(tuple(prefixes))}
        assert frozen == expected

    def test_forward__changes_no_state(self, outcome: Outcome) -> None:
        after = outcome.model.state_dict()
        assert after.keys() == outcome.before.keys()
        for name, tensor in after.items():
            assert torch.equal(tensor, outcome.before[name]), name

    def test_meters__are_detached_and_shaped_as_documented(self, outcome: Outcome) -> None:
        output, config = outcome.output, outcome.model.config
        shapes = {"tokens": (2, 4, 48), "localization": (2, 16, 4), "mean_assignment": (config.num_prototypes,)}
        for name, shape in shapes.items():
            tensor = getattr(output, name)
            assert tuple(tensor.shape) == shape
            assert not tensor.requires_grad
        assert output.mean_assignment is not None
        torch.testing.assert_close(output.mean_assignment.sum(), torch.tensor(1.0), rtol=1e-5, atol=0)
        measured = config.mask_ratio is not None or config.teacher_momentum is not None
        assert (output.agreement is not None) == measured
        assert output.agreement is None or -1 <= float(output.agreement) <= 1


class TestInputs:
    @pytest.mark.parametrize("options", [{}, VQ, TEACHER], ids=["pixel", "vq", "teacher"])
    def test_uint8__gives_the_loss_of_the_same_floats(
        self, build_pretraining_model: Build, views: Views, options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        whole = {name: (view * 255).byte() for name, view in views.items() if name != "kept_patches"}
        expected = loss_of(model, views, **{name: view.float() / 255 for name, view in whole.items()})
        torch.testing.assert_close(loss_of(model, views, **whole), expected, rtol=1e-5, atol=0)

    def test_local_views__may_be_none(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model()
        without = run(model, views, local_views=None)
        assert without.cls_loss is not None
        torch.testing.assert_close(
            without.loss,
            loss_of(build_pretraining_model(use_local_views=False), views),
            rtol=0,
            atol=0,
        )
        assert without.loss is not None
        without.loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def test_local_views__are_not_looked_at_where_they_are_off(
        self, build_pretraining_model: Build, views: Views
    ) -> None:
        model = build_pretraining_model(use_local_views=False)
        with_any = loss_of(model, views, local_views=torch.full((5,), torch.nan))
        torch.testing.assert_close(with_any, loss_of(model, views), rtol=0, atol=0)

    def test_kept_patches__are_drawn_where_none_are_given(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model()
        torch.manual_seed(5)
        drawn = loss_of(model, views, kept_patches=None)
        kept = model.draw_kept_patches(6, 32, 32, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(drawn, loss_of(model, views, kept_patches=kept), rtol=0, atol=0)
        assert kept.shape == (6, 8)

    def test_kept_patches__of_a_model_without_masked_views_are_refused(self, build_pretraining_model: Build) -> None:
        with pytest.raises(ValueError, match="mask_ratio is None"):
            build_pretraining_model(mask_ratio=None).draw_kept_patches(2, 32, 32)

    @pytest.mark.parametrize("options", [{}, TEACHER | {"use_global_align": True}], ids=["plain", "teacher, align"])
    def test_batch_of_one__trains(self, build_pretraining_model: Build, views: Views, options: dict[str, Any]) -> None:
        model = build_pretraining_model(**options)
        one = {name: view[:1] for name, view in views.items()} | {"kept_patches": views["kept_patches"][:3]}
        loss_of(model, one).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    def test_one_global_view__is_enough_without_teacher_and_align(
        self, build_pretraining_model: Build, views: Views
    ) -> None:
        one = {"global_views": views["global_views"][:, :1], "kept_patches": views["kept_patches"][:2]}
        assert loss_of(build_pretraining_model(), views, **one).isfinite()

    def test_views_of_other_sizes__are_taken(self, build_pretraining_model: Build) -> None:
        output = build_pretraining_model()(
            pixel_values=torch.rand(1, 3, 16, 40), global_views=torch.rand(1, 2, 3, 16, 40)
        )
        assert output.loss.isfinite()
        assert output.localization.shape == (1, 10, 4)

    def test_one_token__is_told_to_go_without_koleo(self, build_pretraining_model: Build, views: Views) -> None:
        with pytest.raises(ValueError, match=r"num_sparse_tokens is 1: set koleo_weight=0"):
            run(build_pretraining_model(num_sparse_tokens=1), views)
        assert loss_of(build_pretraining_model(num_sparse_tokens=1, koleo_weight=0.0), views).isfinite()

    def test_codes_without_a_tokenizer__say_how_to_get_one(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model(reconstruction_head="vq", use_tokenizer=False)
        with pytest.raises(ValueError, match=r"use_tokenizer=True .*reconstruction_weight=0"):
            run(model, views)


class TestInvariance:
    def test_forward__is_deterministic(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model(**TEACHER)
        first, second = run(model, views), run(model, views)
        for name, value in first.items():
            assert torch.equal(value, second[name]), name

    def test_global_views__have_no_order_without_a_teacher(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model().double()
        torch.testing.assert_close(
            loss_of(model, reordered(double(views), [2, 0, 1])), loss_of(model, double(views)), rtol=1e-10, atol=0
        )

    @pytest.mark.parametrize("options", [TEACHER, {"use_global_align": True}], ids=["teacher", "align"])
    def test_global_view_1__is_the_one_that_teacher_and_align_read(
        self, build_pretraining_model: Build, views: Views, options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options).double()
        loss = loss_of(model, double(views))
        torch.testing.assert_close(loss_of(model, reordered(double(views), [2, 1, 0])), loss, rtol=1e-10, atol=0)
        assert abs(loss_of(model, reordered(double(views), [0, 2, 1])) - loss) > 1e-6

    def test_local_views__have_no_order(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model().double()
        wide = double(views)
        flipped = loss_of(model, wide, local_views=wide["local_views"].flip(1))
        torch.testing.assert_close(flipped, loss_of(model, wide), rtol=1e-10, atol=0)

    def test_images__have_no_order(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model(**TEACHER).double()
        wide = double(views)
        flipped = {name: view.flip(0) for name, view in wide.items()}
        flipped["kept_patches"] = wide["kept_patches"].unflatten(0, (2, 3)).flip(0).flatten(0, 1)
        torch.testing.assert_close(loss_of(model, flipped), loss_of(model, wide), rtol=1e-10, atol=0)

    @pytest.mark.parametrize("which", ["stellar", "teacher"])
    def test_tokens__have_no_order_once_matched(self, build_pretraining_model: Build, views: Views, which: str) -> None:
        losses = {}
        for use_matching in (True, False):
            model = build_pretraining_model(**TEACHER, use_matching=use_matching).double()
            before = loss_of(model, double(views))
            tokens = getattr(model, which).encoder.sparse_tokens
            tokens.data = tokens.data[[2, 0, 3, 1]]
            losses[use_matching] = before, loss_of(model, double(views))
        torch.testing.assert_close(*losses[True], rtol=1e-10, atol=0)
        assert abs(losses[False][0] - losses[False][1]) > 1e-6

    def test_gradient__is_the_derivative_where_a_teacher_holds_the_targets(
        self, build_pretraining_model: Build, views: Views
    ) -> None:
        model = build_pretraining_model(**TEACHER).double()
        loss_of(model, double(views)).backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        generator = torch.Generator().manual_seed(0)
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in trained]
        expected = sum((p.grad * d).sum() for p, d in zip(trained, direction, strict=True) if p.grad is not None)
        losses, step = [], 1e-6
        with torch.no_grad():
            for shift in (step, -2 * step):  # to +step, then to -step
                torch._foreach_add_(trained, direction, alpha=shift)
                losses.append(loss_of(model, double(views)))
        torch.testing.assert_close((losses[0] - losses[1]) / (2 * step), expected, rtol=1e-5, atol=0)


class TestPrecision:
    @pytest.mark.parametrize("options", [TEACHER, VQ], ids=["pixel, teacher", "vq"])
    def test_bfloat16_autocast__is_finite_and_close(
        self, build_pretraining_model: Build, views: Views, options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = run(model, views)
        expected = run(model, views)
        for name in sorted(TERMS | {"loss"}):
            assert getattr(output, name).dtype == torch.float32, name
            torch.testing.assert_close(getattr(output, name), getattr(expected, name), rtol=0.05, atol=0)
        assert output.loss is not None
        output.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    @pytest.mark.parametrize("options", [TEACHER, VQ], ids=["pixel, teacher", "vq"])
    def test_float64__agrees_with_float32(
        self, build_pretraining_model: Build, views: Views, options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        expected = loss_of(model, views)
        loss = loss_of(model.double(), double(views))
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss.float(), expected, rtol=1e-5, atol=0)

    def test_gradient_checkpointing__changes_neither_loss_nor_gradients(
        self, build_pretraining_model: Build, views: Views
    ) -> None:
        found = []
        for checkpointing in (False, True):
            model = build_pretraining_model(**TEACHER, use_global_align=True)
            if checkpointing:
                model.gradient_checkpointing_enable()
            assert model.stellar.encoder.grad_checkpointing == checkpointing
            loss = loss_of(model, views)
            loss.backward()
            found.append((loss.detach(), gradients(model)))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-7)


class TestTeacher:
    def test_teacher__equals_the_model_it_is_built_with(self, build_pretraining_model: Build) -> None:
        config = build_pretraining_model(**TEACHER).config
        assert_teacher_is_a_copy(StellarForPreTraining(config))

    def test_update__follows_the_formula(self, build_pretraining_model: Build) -> None:
        model = build_pretraining_model(**TEACHER)
        before = {name: tensor.clone() for name, tensor in teacher_of(model).items()}
        student = {name: tensor.clone() for name, tensor in student_of(model).items()}
        model.update_teacher(0.75)
        expected = {name: 0.75 * before[name] + 0.25 * student[name] for name in before}
        torch.testing.assert_close(teacher_of(model), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(student_of(model), student, rtol=0, atol=0)

    def test_update__takes_the_configurations_momentum_by_default(self, build_pretraining_model: Build) -> None:
        by_default, explicit = build_pretraining_model(**TEACHER), build_pretraining_model(**TEACHER)
        by_default.update_teacher()
        explicit.update_teacher(0.9)
        torch.testing.assert_close(teacher_of(by_default), teacher_of(explicit), rtol=0, atol=0)

    def test_momentum_1__keeps_the_teacher_and_0_copies_the_model(self, build_pretraining_model: Build) -> None:
        model = build_pretraining_model(**TEACHER)
        before = {name: tensor.clone() for name, tensor in teacher_of(model).items()}
        model.update_teacher(1)
        torch.testing.assert_close(teacher_of(model), before, rtol=0, atol=0)
        model.update_teacher(0.0)
        assert_teacher_is_a_copy(model)

    @pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
    def test_momentum_out_of_range__is_refused(self, build_pretraining_model: Build, momentum: float) -> None:
        with pytest.raises(ValueError, match=rf"momentum .* got {momentum}"):
            build_pretraining_model(**TEACHER).update_teacher(momentum)

    def test_update__without_a_teacher_is_refused(self, build_pretraining_model: Build) -> None:
        with pytest.raises(ValueError, match=r"no teacher: set teacher_momentum"):
            build_pretraining_model().update_teacher()

    def test_teacher__decides_the_targets(self, build_pretraining_model: Build, views: Views) -> None:
        model = build_pretraining_model(**TEACHER)
        before = loss_of(model, views)
        model.update_teacher(0.0)
        assert abs(loss_of(model, views) - before) > 1e-4


def test_public_name__is_the_class() -> None:
    assert stellar_hub.StellarForPreTraining is StellarForPreTraining


def reordered(views: Views, order: list[int]) -> Views:
    """The same batch with its global views, and the patches kept of them, in another order."""
    kept = views["kept_patches"].unflatten(0, (2, 3))[:, order].flatten(0, 1)
    return views | {"global_views": views["global_views"][:, order], "kept_patches": kept}


def teacher_of(model: StellarForPreTraining) -> dict[str, Tensor]:
    assert model.teacher is not None
    return model.teacher.state_dict()


def student_of(model: StellarForPreTraining) -> dict[str, Tensor]:
    """The model's tensors under their names in the teacher."""
    named = {name.removeprefix("stellar."): tensor for name, tensor in model.state_dict().items()}
    return {name: named[name] for name in teacher_of(model)}


def assert_teacher_is_a_copy(model: StellarForPreTraining) -> None:
    torch.testing.assert_close(teacher_of(model), student_of(model), rtol=0, atol=0)


LOGGER = "stellar_hub.training.model.modeling_pretraining"


def assert_equal_states(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def trainable(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def without(folder: Path, names: Callable[[str], bool]) -> Path:
    """Take tensors out of a folder's weights."""
    path = folder / "model.safetensors"
    kept = {name: tensor.clone() for name, tensor in load_file(path).items() if not names(name)}
    save_file(kept, path, metadata={"format": "pt"})
    return folder


@pytest.fixture
def saved(tmp_path: Path, build_pretraining_model: Build) -> Path:
    """A "vq" model with all parts, whose teacher is not a copy."""
    build_pretraining_model(**TEACHER, **VQ).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


class TestRoundTrip:
    @pytest.mark.parametrize(
        "options",
        [TEACHER | VQ, {"use_cls_head": False, "use_local_views": False}, {"use_decoder": False}],
        ids=["all parts", "no cls head", "no decoder"],
    )
    def test_load__gives_back_every_tensor_and_field(
        self, tmp_path: Path, build_pretraining_model: Build, options: dict[str, object]
    ) -> None:
        model = build_pretraining_model(**options)
        model.save_pretrained(tmp_path)
        loaded = StellarForPreTraining.from_pretrained(tmp_path)
        assert_equal_states(loaded.state_dict(), model.state_dict())
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        assert trainable(loaded) == trainable(model)
        assert loaded.newly_initialized == ()

    def test_load__gives_the_same_loss(self, saved: Path, build_pretraining_model: Build, views: dict) -> None:
        model = build_pretraining_model(**TEACHER, **VQ)
        loaded = StellarForPreTraining.from_pretrained(saved).train()
        torch.testing.assert_close(loaded(**views).loss, model(**views).loss, rtol=0, atol=0)

    def test_load__says_nothing_where_nothing_is_new(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            StellarForPreTraining.from_pretrained(saved)
        assert caplog.messages == []

    def test_folder__carries_no_code_of_the_model(self, saved: Path) -> None:
        assert list(saved.glob("modeling_*.py")) == []
        assert "AutoModel" not in (saved / "config.json").read_text()

    def test_gradient_checkpointing__leaves_no_trace(self, tmp_path: Path, build_pretraining_model: Build) -> None:
        model = build_pretraining_model()
        model.gradient_checkpointing_enable()
        model.save_pretrained(tmp_path)
        assert not StellarForPreTraining.from_pretrained(tmp_path).stellar.encoder.grad_checkpointing


class TestForInference:
    def test_model__loads_the_folder_and_leaves_the_heads(self, saved: Path, build_pretraining_model: Build) -> None:
        expected = build_pretraining_model(**TEACHER, **VQ).stellar.state_dict()
        model = StellarModel.from_pretrained(saved)
        assert type(model) is StellarModel
        assert_equal_states(model.state_dict(), expected)

    def test_encoder_alone__loads_from_the_folder(self, saved: Path) -> None:
        assert StellarModel.from_pretrained(saved, decoder=False).decoder is None


class TestNewParts:
    def test_inference_checkpoint__gets_heads_and_a_teacher_that_is_a_copy(
        self, tmp_path: Path, build_pretraining_model: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        inner = build_pretraining_model().stellar
        inner.save_pretrained(tmp_path)
        with caplog.at_level(logging.WARNING, LOGGER):
            model = StellarForPreTraining.from_pretrained(tmp_path, **TEACHER)
        assert_equal_states(model.stellar.state_dict(), inner.state_dict())
        assert model.newly_initialized == ("clustering_head", "cls_clustering_head", "teacher")
        (message,) = caplog.messages
        assert f"{tmp_path}' has no clustering_head, cls_clustering_head, teacher" in message
        assert_teacher_is_a_copy(model)
        assert {name for name in trainable(model) if name.startswith("teacher.")} == set()
        assert model.clustering_head.prototypes.weight.std() > 0.5

    def test_checkpoint_without_a_teacher__gets_a_copy(self, tmp_path: Path, build_pretraining_model: Build) -> None:
        model = build_pretraining_model()
        model.save_pretrained(tmp_path)
        loaded = StellarForPreTraining.from_pretrained(tmp_path, **TEACHER)
        assert loaded.newly_initialized == ("teacher",)
        assert_teacher_is_a_copy(loaded)
        assert_equal_states({name: loaded.state_dict()[name] for name in model.state_dict()}, model.state_dict())

    def test_teacher__is_left_out_where_the_configuration_has_none(self, saved: Path) -> None:
        model = StellarForPreTraining.from_pretrained(saved, teacher_momentum=None)
        assert model.teacher is None
        assert model.newly_initialized == ()

    @pytest.mark.parametrize("options", [{"decoder": False}, {"use_tokenizer": False}])
    def test_parts_left_out__are_no_reason_to_complain(self, saved: Path, options: dict[str, bool]) -> None:
        model = StellarForPreTraining.from_pretrained(saved, **options)
        assert model.stellar.tokenizer is None
        assert model.tokenizer_encoder is None
        assert model.newly_initialized == ()


class TestErrors:
    @pytest.mark.parametrize(
        "missing",
        [
            ["clustering_head.mlp.fc1.bias"],
            ["cls_clustering_head.prototypes.weight", "cls_clustering_head.mlp.fc2.weight"],
            ["teacher.encoder.sparse_tokens"],
            ["tokenizer_encoder.conv_in.weight"],
            ["stellar.localization.dense_proj.bias"],
        ],
        ids=lambda names: names[0],
    )
    def test_half_missing_part__is_an_error_that_names_tensors(self, saved: Path, missing: Iterable[str]) -> None:
        without(saved, lambda name: name in missing)
        with pytest.raises(ValueError, match="do not fit the model") as error:
            StellarForPreTraining.from_pretrained(saved)
        assert f"missing: {', '.join(sorted(missing))}" in str(error.value)

    def test_head_of_another_size__is_named_with_both_shapes(self, saved: Path) -> None:
        message = r"clustering_head\.prototypes\.weight is \(16, 12\), the model has \(8, 12\)"
        with pytest.raises(ValueError, match=message):
            StellarForPreTraining.from_pretrained(saved, num_prototypes=8)

    def test_inference_checkpoint_with_a_missing_tensor__is_an_error(
        self, tmp_path: Path, build_pretraining_model: Build
    ) -> None:
        build_pretraining_model().stellar.save_pretrained(tmp_path)
        without(tmp_path, lambda name: name == "encoder.norm.bias")
        with pytest.raises(ValueError, match=r"missing: stellar\.encoder\.norm\.bias"):
            StellarForPreTraining.from_pretrained(tmp_path)


def test_fields__are_in_the_documented_order() -> None:
    assert [field.name for field in dataclasses.fields(StellarPreTrainingOutput)] == [
        "loss",
        "reconstruction_loss",
        "koleo_loss",
        "clustering_loss",
        "cls_clustering_loss",
        "mask_loss",
        "cls_loss",
        "tokens",
        "localization",
        "mean_assignment",
        "agreement",
        "sop_token_loss",
        "sop_cls_loss",
        "anchors",
        "new_cls_rows",
        "new_token_rows",
        "baseline_loss",
        "projections",
        "new_center",
    ]


def test_fields__are_described() -> None:
    for field in dataclasses.fields(StellarPreTrainingOutput):
        assert f"\n        {field.name}: " in (StellarPreTrainingOutput.__doc__ or "")


def test_terms_that_are_off__are_none_and_no_keys() -> None:
    output = StellarPreTrainingOutput(loss=torch.ones(()), clustering_loss=torch.ones(()))
    assert list(output) == ["loss", "clustering_loss"]
    assert output.mask_loss is None
    assert output[0] is output.loss
