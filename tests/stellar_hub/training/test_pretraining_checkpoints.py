"""`StellarForPreTraining` to a folder and back, to and from what is made for inference."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stellar_hub.modeling import StellarModel
from stellar_hub.training import StellarForPreTraining

Build = Callable[..., StellarForPreTraining]
TEACHER = {"teacher_momentum": 0.9}
VQ = {"reconstruction_head": "vq"}
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


def teacher_is_a_copy(model: StellarForPreTraining) -> bool:
    assert model.teacher is not None
    named = {name.removeprefix("stellar."): tensor for name, tensor in model.state_dict().items()}
    return all(torch.equal(tensor, named[name]) for name, tensor in model.teacher.state_dict().items())


@pytest.fixture
def saved(tmp_path: Path, build_pretraining_model: Build) -> Path:
    """A "vq" model with all parts, whose teacher is no copy."""
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
        assert caplog.messages == [f"{tmp_path} has no clustering_head, cls_clustering_head, teacher: they begin anew"]
        assert teacher_is_a_copy(model)
        assert {name for name in trainable(model) if name.startswith("teacher.")} == set()
        assert model.clustering_head.prototypes.weight.std() > 0.5

    def test_checkpoint_without_a_teacher__gets_a_copy(self, tmp_path: Path, build_pretraining_model: Build) -> None:
        model = build_pretraining_model()
        model.save_pretrained(tmp_path)
        loaded = StellarForPreTraining.from_pretrained(tmp_path, **TEACHER)
        assert loaded.newly_initialized == ("teacher",)
        assert teacher_is_a_copy(loaded)
        assert_equal_states({name: loaded.state_dict()[name] for name in model.state_dict()}, model.state_dict())

    def test_stellar_tiny__loads_with_new_heads(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, LOGGER):
            model = StellarForPreTraining.from_pretrained("stellar-tiny")
        assert caplog.messages == ["stellar-tiny has no clustering_head, cls_clustering_head, teacher: they begin anew"]
        assert_equal_states(model.stellar.state_dict(), StellarModel.from_pretrained("stellar-tiny").state_dict())

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
        for name in missing:
            assert f"missing: {name}" in str(error.value)
        assert str(error.value).count("missing: ") == len(list(missing))

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
