"""The model that a run starts with: random weights, a ViT, a checkpoint; and the tokenizer's weights."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.conversion import convert_original, load_original
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.modeling import StellarConfig, StellarModel, modeling_stellar
from stellar_hub.modeling.backbones import backbone_weights, load_backbone
from stellar_hub.registry import TOKENIZER
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training import initialization as module
from stellar_hub.training.initialization import CODEBOOK, check_architecture, check_fit, initialize, load_tokenizer
from stellar_hub.training.recipes.sections import ModelRecipe

Build = Callable[..., StellarForPreTraining]
ORIGINAL_CODEBOOK = "quantize.embedding.weight"


def parts(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items() if name.startswith(prefixes)}


@pytest.fixture
def vqgan(golden_dir: Path) -> Path:
    """The original tokenizer's file, which fits the tiny model."""
    return golden_dir / "vqgan.bin"


@pytest.fixture
def altered(tmp_path: Path, vqgan: Path) -> Callable[[Callable[[dict[str, Tensor]], object]], Path]:
    """A copy of the file with its dictionary changed in place."""

    def make(change: Callable[[dict[str, Tensor]], object]) -> Path:
        tensors = {name: tensor.clone() for name, tensor in read_checkpoint(vqgan).items()}
        change(tensors)
        torch.save(tensors, tmp_path / "altered.bin")
        return tmp_path / "altered.bin"

    return make


@pytest.fixture
def model(build_pretraining_model: Build) -> StellarForPreTraining:
    """With a random tokenizer."""
    return build_pretraining_model(reconstruction_head="vq")


@pytest.fixture
def converted(golden_dir: Path, vqgan: Path) -> dict[str, Tensor]:
    """What conversion makes of the file."""
    original = load_file(golden_dir / "original-vq.safetensors")
    heads = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}
    return convert_original(original, vqgan=read_checkpoint(vqgan), **heads)[1]


def test_load__fills_both_halves_and_leaves_the_rest(
    model: StellarForPreTraining, vqgan: Path, converted: dict[str, Tensor]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_tokenizer(model, vqgan, keep_decoder=False)
    expected = before | parts(converted, "tokenizer_encoder.", "stellar.tokenizer.")
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "tokenizer" in name)


def test_load__keeps_the_models_own_pixel_decoder(
    model: StellarForPreTraining, vqgan: Path, converted: dict[str, Tensor]
) -> None:
    assert model.stellar.tokenizer is not None
    model.stellar.tokenizer.codebook.weight.data.copy_(converted[CODEBOOK])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_tokenizer(model, vqgan, keep_decoder=True)
    expected = before | parts(converted, "tokenizer_encoder.")
    torch.testing.assert_close(model.state_dict(), expected, rtol=0, atol=0)


def test_file__is_fetched_from_the_hub_where_none_is_given(
    model: StellarForPreTraining, vqgan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "fetch", lambda file: asked.append(file) or vqgan)
    load_tokenizer(model, None, keep_decoder=False)
    assert asked == [TOKENIZER]
    assert torch.equal(model.state_dict()[CODEBOOK], read_checkpoint(vqgan)[ORIGINAL_CODEBOOK])


def test_another_codebook__is_refused(
    model: StellarForPreTraining, altered: Callable[..., Path], converted: dict[str, Tensor]
) -> None:
    model.load_state_dict(parts(converted, "stellar.tokenizer."), strict=False)
    path = altered(lambda tensors: tensors[ORIGINAL_CODEBOOK].add_(0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"altered\.bin is another tokenizer"):
        load_tokenizer(model, path, keep_decoder=True)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_missing_tensors__are_named(model: StellarForPreTraining, altered: Callable[..., Path]) -> None:
    path = altered(lambda tensors: tensors.pop("encoder.conv_out.bias"))
    with pytest.raises(ValueError, match=r"lacks encoder\.conv_out\.bias"):
        load_tokenizer(model, path, keep_decoder=False)


def test_tensors_of_other_shapes__are_named(build_pretraining_model: Build, vqgan: Path) -> None:
    model = build_pretraining_model(reconstruction_head="vq", codebook_size=50)
    with pytest.raises(ValueError, match=r"stellar\.tokenizer\.codebook\.weight"):
        load_tokenizer(model, vqgan, keep_decoder=False)


@pytest.mark.parametrize("change", [lambda weight: weight * float("nan"), lambda weight: weight.int()])
def test_weights_that_are_not_numbers__are_named(
    model: StellarForPreTraining, altered: Callable[..., Path], change: Callable[[Tensor], Tensor]
) -> None:
    name = "encoder.conv_out.bias"
    path = altered(lambda tensors: tensors.update({name: change(tensors[name])}))
    with pytest.raises(ValueError, match=r"conv_out\.bias"):
        load_tokenizer(model, path, keep_decoder=False)


def test_file_that_is_not_there__is_named(model: StellarForPreTraining, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint file: .*nowhere\.bin"):
        load_tokenizer(model, tmp_path / "nowhere.bin", keep_decoder=False)


LOGGER = "stellar_hub.training.initialization"
HEADS: dict[str, Any] = {"num_prototypes": 8, "prototype_dim": 4, "prototype_hidden_size": 8}
NO_CLS = {"use_cls_head": False, "use_local_views": False}


def begin(init: object, vqgan: Path | None = None, **config: Any) -> StellarForPreTraining:
    return initialize(ModelRecipe(str(init), config, None if vqgan is None else str(vqgan)))


def assert_states(found: StellarForPreTraining, expected: dict[str, Tensor], *prefixes: str) -> None:
    """The tensors whose names begin so (all, if none is given) are exactly these."""
    chosen = [
        {name: tensor for name, tensor in state.items() if name.startswith(prefixes or ("",))}
        for state in (found.state_dict(), expected)
    ]
    assert chosen[0]
    torch.testing.assert_close(*chosen, rtol=0, atol=0)


def teacher_is_a_copy(model: StellarForPreTraining) -> bool:
    assert model.teacher is not None
    named = {name.removeprefix("stellar."): tensor for name, tensor in model.state_dict().items()}
    return all(torch.equal(tensor, named[name]) for name, tensor in model.teacher.state_dict().items())


class TestRandom:
    def test_random__is_the_configuration_with_fresh_weights(self, tiny_options: dict[str, Any]) -> None:
        options = tiny_options | HEADS | {"reconstruction_head": "pixel", "teacher_momentum": 0.9}
        torch.manual_seed(3)
        model = begin("random", **options)
        assert {name: getattr(model.config, name) for name in options} == options
        assert model.training
        assert teacher_is_a_copy(model)
        torch.manual_seed(3)
        assert_states(begin("random", **options), model.state_dict())

    def test_random_vq__gets_the_tokenizers_weights(self, tiny_options: dict[str, Any], golden_dir: Path) -> None:
        model = begin("random", golden_dir / "vqgan.bin", **tiny_options, **HEADS)
        assert model.stellar.tokenizer is not None
        original = read_checkpoint(golden_dir / "vqgan.bin")["quantize.embedding.weight"]
        torch.testing.assert_close(model.stellar.tokenizer.codebook.weight.data, original, rtol=0, atol=0)

    def test_no_init__says_what_may_be_given(self) -> None:
        with pytest.raises(ValueError, match=r"pass --init"):
            initialize(ModelRecipe(None, {}, None))


class TestTimm:
    OPTIONS: ClassVar[dict[str, Any]] = HEADS | {
        "reconstruction_head": "pixel",
        "decoder_hidden_size": 32,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4,
        "num_sparse_tokens": 5,
        "teacher_momentum": 0.9,
    }

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The calls to timm, which returns random weights and downloads nothing."""
        calls: list[Any] = []

        def load(name: str, pretrained: Any) -> Any:
            calls.append((name, pretrained))
            torch.manual_seed(0)
            calls.append(load_backbone(name, pretrained=False))
            return calls[-1]

        monkeypatch.setattr(modeling_stellar, "load_backbone", load)
        return calls

    def test_timm__gives_the_encoder_its_weights(self, asked: list[Any]) -> None:
        model = begin("timm:vit_tiny_patch16_224", **self.OPTIONS)
        assert asked[0] == ("vit_tiny_patch16_224", True)
        assert (model.config.hidden_size, model.config.num_sparse_tokens) == (192, 5)
        found = model.stellar.encoder.state_dict()
        assert found.pop("sparse_tokens").shape == (5, 192)
        torch.testing.assert_close(found, backbone_weights(asked[1]), rtol=0, atol=0)
        assert teacher_is_a_copy(model)
        assert model.training

    def test_configuration_of_another_size__is_a_value_error(self, asked: list[Any]) -> None:
        with pytest.raises(ValueError, match=r"of vit_tiny_patch16_224 do not fit model\.config: .*\n.*size mismatch"):
            begin("timm:vit_tiny_patch16_224", **self.OPTIONS, image_size=32)

    def test_unknown_name__is_said(self) -> None:
        with pytest.raises(ValueError, match="'vit_nowhere'"):
            begin("timm:vit_nowhere", **self.OPTIONS)


class TestCheckpoints:
    def test_stellar_tiny__begins_with_new_heads(self, caplog: pytest.LogCaptureFixture) -> None:
        torch.manual_seed(0)
        with caplog.at_level(logging.WARNING, "stellar_hub"):
            model = begin("stellar-tiny", **HEADS, teacher_momentum=0.99)
        assert sum("start with new weights" in message for message in caplog.messages) == 1
        expected = StellarModel.from_pretrained("stellar-tiny").state_dict()
        assert_states(model, {f"stellar.{name}": tensor for name, tensor in expected.items()}, "stellar.")
        assert teacher_is_a_copy(model)
        assert model.clustering_head.prototypes.weight.shape == (8, 4)
        assert model.clustering_head.prototypes.weight.std() > 0.5

    def test_pretraining_checkpoint__keeps_heads_and_teacher(
        self, tmp_path: Path, build_pretraining_model: Build
    ) -> None:
        source = build_pretraining_model(teacher_momentum=0.9)
        source.save_pretrained(tmp_path)
        assert_states(begin(tmp_path), source.state_dict())
        changed = begin(tmp_path, koleo_weight=0.2, teacher_momentum=0.5)
        assert_states(changed, source.state_dict())
        assert (changed.config.koleo_weight, changed.config.teacher_momentum) == (0.2, 0.5)

    def test_half_precision__is_trained_in_float32(self, tmp_path: Path, build_pretraining_model: Build) -> None:
        build_pretraining_model().bfloat16().save_pretrained(tmp_path)
        configs: list[dict[str, Any]] = [{}, {"koleo_weight": 0.2}]
        for config in configs:
            model = initialize(ModelRecipe(str(tmp_path), config, None))
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    @pytest.mark.parametrize("teacher", [None, 0.9])
    def test_heads_of_another_size__get_new_weights_and_so_does_the_teacher(
        self,
        tmp_path: Path,
        build_pretraining_model: Build,
        caplog: pytest.LogCaptureFixture,
        teacher: float | None,
    ) -> None:
        source = build_pretraining_model(teacher_momentum=teacher)
        source.save_pretrained(tmp_path)
        with caplog.at_level(logging.WARNING, LOGGER):
            model = begin(tmp_path, num_prototypes=8)
        assert_states(model, source.state_dict(), "stellar.")
        assert model.clustering_head.prototypes.weight.shape == (8, 12)
        assert not torch.equal(model.clustering_head.mlp.fc1.weight, source.clustering_head.mlp.fc1.weight)
        parts = "clustering_head, cls_clustering_head" + (", teacher" if teacher else "")
        (message,) = caplog.messages
        assert message.startswith(f"{tmp_path}: {parts} do not fit model.config")
        assert teacher is None or teacher_is_a_copy(model)

    def test_teacher_added__is_a_copy(self, tmp_path: Path, build_pretraining_model: Build) -> None:
        source = build_pretraining_model()
        source.save_pretrained(tmp_path)
        model = begin(tmp_path, teacher_momentum=0.996)
        assert_states(model, source.state_dict(), "stellar.", "clustering_head.", "cls_clustering_head.")
        assert teacher_is_a_copy(model)

    @pytest.mark.parametrize(
        "config",
        [{"teacher_momentum": None}, {"use_decoder": False}, NO_CLS, {"reconstruction_weight": 0}],
        ids=lambda config: next(iter(config)),
    )
    def test_parts_left_out__leave_the_rest_as_it_is(
        self, tmp_path: Path, build_pretraining_model: Build, config: dict[str, Any]
    ) -> None:
        source = build_pretraining_model(teacher_momentum=0.9)
        source.save_pretrained(tmp_path)
        model = begin(tmp_path, **config)
        assert_states(model, {name: source.state_dict()[name] for name in model.state_dict()})

    def test_change_of_architecture__names_tensors_and_shapes(
        self, tmp_path: Path, build_pretraining_model: Build
    ) -> None:
        build_pretraining_model().save_pretrained(tmp_path)
        line = f"stellar.encoder.sparse_tokens: (4, 48) in {tmp_path}, (6, 48) by model.config"
        with pytest.raises(ValueError, match="do not fit model") as error:
            begin(tmp_path, num_sparse_tokens=6)
        assert str(error.value).startswith(f"the weights of {tmp_path} do not fit model.config: {line}. ")
        recipe = ModelRecipe(str(tmp_path), {"num_sparse_tokens": 6}, None)
        with pytest.raises(ValueError, match="do not fit model") as early:
            check_architecture(recipe, StellarConfig.from_pretrained(tmp_path))
        assert str(early.value) == str(error.value)

    @pytest.mark.parametrize("config", [{}, {"mask_ratio": 0.5}, {"num_prototypes": 7}, {"teacher_momentum": None}])
    def test_change_of_heads_or_numbers__fits(
        self, tmp_path: Path, build_pretraining_model: Build, config: dict[str, Any]
    ) -> None:
        before = build_pretraining_model(teacher_momentum=0.9).config
        check_architecture(ModelRecipe(str(tmp_path), config, None), before)

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            (3, r"stellar\.encoder\.blocks\.2\.norm1\.weight: missing in .*, \(48,\) by model\.config"),
            (1, r"stellar\.encoder\.blocks\.1\.norm1\.weight: \(48,\) in .*, missing by model\.config"),
        ],
    )
    def test_more_or_fewer_blocks__are_an_error(
        self, tmp_path: Path, build_pretraining_model: Build, layers: int, message: str
    ) -> None:
        build_pretraining_model().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=message):
            begin(tmp_path, num_hidden_layers=layers)

    def test_checkpoint_that_is_not_there__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
            begin(tmp_path / "nowhere")


class TestTokenizer:
    @pytest.fixture
    def folder(self, tmp_path: Path, golden_dir: Path) -> Path:
        """A "vq" model as for inference: it has no encoder of the tokenizer."""
        heads = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}
        model = load_original(golden_dir / "original-vq.safetensors", vqgan=golden_dir / "vqgan.bin", **heads)
        model.save_pretrained(tmp_path / "vq")
        return tmp_path / "vq"

    @pytest.mark.parametrize("config", [{}, HEADS], ids=["as it is", "changed"])
    def test_vq_checkpoint__gets_the_tokenizers_encoder(
        self, folder: Path, golden_dir: Path, config: dict[str, Any], views: dict[str, Tensor]
    ) -> None:
        model = begin(folder, golden_dir / "vqgan.bin", **config)
        original = read_checkpoint(golden_dir / "vqgan.bin")
        encoder = {
            f"tokenizer_encoder.{name.removeprefix('encoder.')}": tensor
            for name, tensor in original.items()
            if name.startswith("encoder.")
        }
        assert_states(model, encoder, "tokenizer_encoder.")
        saved = {f"stellar.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        assert_states(model, saved, "stellar.")
        model(**views).loss.backward()

    def test_another_tokenizer__is_refused(self, folder: Path, golden_dir: Path, tmp_path: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in read_checkpoint(golden_dir / "vqgan.bin").items()}
        tensors["quantize.embedding.weight"] += 1
        torch.save(tensors, tmp_path / "other.bin")
        with pytest.raises(ValueError, match=r"other\.bin is another tokenizer than the model's"):
            begin(folder, tmp_path / "other.bin")

    def test_vqgan__is_not_asked_for_where_the_checkpoint_has_it(
        self, tmp_path: Path, build_pretraining_model: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "fetch", lambda file: pytest.fail("nothing is to be fetched"))
        source = build_pretraining_model(reconstruction_head="vq")
        source.save_pretrained(tmp_path)
        assert_states(begin(tmp_path, koleo_weight=0.5), source.state_dict())

    def test_checkpoint_without_tokenizer__can_be_given_one(
        self, tmp_path: Path, build_pretraining_model: Build, golden_dir: Path, views: dict[str, Tensor]
    ) -> None:
        source = build_pretraining_model(reconstruction_head="vq", use_tokenizer=False)
        source.save_pretrained(tmp_path)
        model = begin(tmp_path, golden_dir / "vqgan.bin", use_tokenizer=True)
        assert model.stellar.tokenizer is not None
        original = read_checkpoint(golden_dir / "vqgan.bin")["quantize.embedding.weight"]
        torch.testing.assert_close(model.stellar.tokenizer.codebook.weight.data, original, rtol=0, atol=0)
        assert_states(model, source.state_dict(), "stellar.encoder.", "stellar.decoder.", "clustering_head.")
        assert model(**views).reconstruction_loss.isfinite()


def test_check_fit__accepts_parts_that_are_left_out_as_a_whole() -> None:
    tensor = torch.zeros(2)
    found = {"stellar.encoder.a": tensor, "stellar.decoder.b": tensor, "teacher.encoder.a": tensor}
    check_fit(found, {"stellar.encoder.a": tensor}, "folder")
    with pytest.raises(ValueError, match=r"stellar\.encoder\.c: \(2,\) in folder, missing by model\.config"):
        check_fit(found | {"stellar.encoder.c": tensor}, {"stellar.encoder.a": tensor}, "folder")
