"""Loading of checkpoints: what is read, what is refused, and how it is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, ViTConfig

from stellar_hub.modeling import StellarConfig, StellarModel

Altered = Callable[..., Path]


def assert_same_state(actual: StellarModel, expected: StellarModel) -> None:
    ours, theirs = actual.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(params=["pixel", "vq"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A saved checkpoint of either head."""
    return request.getfixturevalue(f"{request.param}_folder")


class TestRoundTrip:
    def test_load__is_bit_equal_and_in_evaluation_mode(self, pixel_folder: Path, pixel_model: StellarModel) -> None:
        loaded = StellarModel.from_pretrained(pixel_folder)
        assert_same_state(loaded, pixel_model)
        assert not loaded.training
        assert loaded.dtype == torch.float32

    def test_vq_load__has_its_frozen_tokenizer(self, vq_folder: Path, vq_model: StellarModel) -> None:
        loaded = StellarModel.from_pretrained(str(vq_folder))
        assert_same_state(loaded, vq_model)
        assert not any(parameter.requires_grad for parameter in loaded.tokenizer.parameters())

    def test_shards__are_put_together(self, tmp_path: Path, pixel_model: StellarModel) -> None:
        pixel_model.save_pretrained(tmp_path, max_shard_size="100KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        assert_same_state(StellarModel.from_pretrained(tmp_path), pixel_model)

    def test_loading__logs_nothing(
        self, folder: Path, transformers_log: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        StellarModel.from_pretrained(folder)
        assert transformers_log.messages == []
        assert "REPORT" not in "".join(capsys.readouterr())

    def test_loading_info__is_given_on_request(self, pixel_folder: Path) -> None:
        model, info = StellarModel.from_pretrained(pixel_folder, output_loading_info=True)
        assert isinstance(model, StellarModel)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtype__leaves_the_frequencies_in_float32(
        self, pixel_folder: Path, pixel_model: StellarModel, dtype: torch.dtype
    ) -> None:
        loaded = StellarModel.from_pretrained(pixel_folder, dtype=dtype)
        assert {name: p.dtype for name, p in loaded.named_parameters() if p.dtype != dtype} == {}
        frequencies = loaded.decoder.position_code.frequencies
        torch.testing.assert_close(frequencies, pixel_model.decoder.position_code.frequencies, rtol=0, atol=0)

    def test_half_checkpoint__keeps_frequencies_in_float32(
        self, tmp_path: Path, pixel_model: StellarModel, images: Tensor
    ) -> None:
        pixel_model.bfloat16().save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        assert {name for name, t in stored.items() if t.dtype != torch.bfloat16} == {
            "decoder.position_code.frequencies"
        }
        loaded = StellarModel.from_pretrained(tmp_path)
        assert_same_state(loaded, pixel_model)
        torch.testing.assert_close(
            loaded.decode(*loaded.encode(images)), pixel_model.decode(*pixel_model.encode(images)), rtol=0, atol=0
        )

    def test_pretraining_tensors__are_passed_over(
        self, pixel_folder: Path, altered: Altered, transformers_log: pytest.LogCaptureFixture
    ) -> None:
        names = ("clustering_head.mlp.fc1.bias", "cls_clustering_head.x", "teacher.encoder.y", "tokenizer_encoder.z")
        path = altered(pixel_folder, lambda tensors: tensors.update({name: torch.zeros(1) for name in names}))
        StellarModel.from_pretrained(path)
        assert transformers_log.messages == []


class TestWithoutDecoder:
    def test_model__is_the_encoder_alone(self, folder: Path, images: Tensor) -> None:
        full = StellarModel.from_pretrained(folder)
        features = StellarModel.from_pretrained(folder, decoder=False)
        assert features.decoder is None
        assert features.tokenizer is None
        assert features.config.use_decoder is False
        assert {name.split(".")[0] for name in features.state_dict()} == {"encoder", "localization"}
        for actual, expected in zip(features.encode(images), full.encode(images), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)

    def test_no_report__is_printed(
        self, folder: Path, transformers_log: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        StellarModel.from_pretrained(folder, decoder=False)
        assert transformers_log.messages == []
        assert "REPORT" not in "".join(capsys.readouterr())

    def test_decoders_tensors__are_not_needed(self, folder: Path, altered: Altered, images: Tensor) -> None:
        def strip(tensors: dict[str, Tensor]) -> None:
            for name in [name for name in tensors if name.startswith(("decoder.", "tokenizer."))]:
                del tensors[name]

        expected = StellarModel.from_pretrained(folder).encode(images)
        actual = StellarModel.from_pretrained(altered(folder, strip), decoder=False).encode(images)
        torch.testing.assert_close(actual.semantics, expected.semantics, rtol=0, atol=0)
        torch.testing.assert_close(actual.localization, expected.localization, rtol=0, atol=0)

    def test_decoders_tensors__are_not_looked_at(
        self, folder: Path, altered: Altered, transformers_log: pytest.LogCaptureFixture
    ) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            for name in [name for name in tensors if name.startswith(("decoder.", "tokenizer."))]:
                tensors[name] = torch.zeros(7, dtype=torch.int16)

        model = StellarModel.from_pretrained(altered(folder, spoil), decoder=False)
        assert model.decoder is None
        assert transformers_log.messages == []

    def test_save__keeps_it_so(self, tmp_path: Path, folder: Path, images: Tensor) -> None:
        features = StellarModel.from_pretrained(folder, decoder=False)
        features.save_pretrained(tmp_path)
        loaded = StellarModel.from_pretrained(tmp_path)
        assert loaded.decoder is None
        assert_same_state(loaded, features)
        with pytest.raises(ValueError, match="no decoder"):
            loaded.decode(*loaded.encode(images))

    @pytest.mark.parametrize("as_path", [False, True], ids=["object", "path"])
    def test_given_config__is_not_changed(self, folder: Path, as_path: bool) -> None:
        config = StellarConfig.from_pretrained(folder)
        model = StellarModel.from_pretrained(folder, config=str(folder) if as_path else config, decoder=False)
        assert model.decoder is None
        assert config.use_decoder is True

    def test_true__insists_on_a_decoder(self, folder: Path) -> None:
        assert StellarModel.from_pretrained(folder, decoder=True).decoder is not None

    def test_true_on_an_encoder__says_how_to_load_it(self, tmp_path: Path, folder: Path) -> None:
        StellarModel.from_pretrained(folder, decoder=False).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"has no decoder: .*decoder=False") as caught:
            StellarModel.from_pretrained(tmp_path, decoder=True)
        assert "blocks" not in str(caught.value)

    @pytest.mark.parametrize("layers", [1, 24])  # with 24, most of the model is missing
    def test_configured_decoder_that_is_not_there__is_said_once(
        self, tmp_path: Path, folder: Path, altered: Altered, layers: int
    ) -> None:
        StellarModel.from_pretrained(folder, decoder=False).save_pretrained(tmp_path / "features")
        sizes = {"decoder_hidden_size": 512, "decoder_intermediate_size": 2048, "decoder_num_hidden_layers": layers}
        path = altered(tmp_path / "features", config=lambda config: config.update(use_decoder=True, **sizes))
        with pytest.raises(ValueError, match="has no decoder: "):
            StellarModel.from_pretrained(path)

    def test_features_alone__say_so_when_asked_to_decode(self, tmp_path: Path, folder: Path, images: Tensor) -> None:
        StellarModel.from_pretrained(folder, decoder=False).save_pretrained(tmp_path)
        model = StellarModel.from_pretrained(tmp_path)
        for decode in (model.reconstruct, lambda images: model.decode(model.encode(images))):
            with pytest.raises(ValueError, match="this model has no decoder: "):
                decode(images)


class TestTensors:
    @pytest.mark.parametrize(
        "name",
        [
            "encoder.sparse_tokens",
            "encoder.blocks.1.attn.qkv.weight",
            "localization.dense_proj.weight",
            "decoder.position_code.frequencies",
            "tokenizer.codebook.weight",
        ],
    )
    def test_missing__is_named(self, vq_folder: Path, altered: Altered, name: str) -> None:
        path = altered(vq_folder, lambda tensors: tensors.pop(name))
        with pytest.raises(ValueError, match=rf": missing: {name}$"):
            StellarModel.from_pretrained(path)

    @pytest.mark.parametrize("name", ["surprise", "encoder.blocks.2.norm1.weight", "decoder.cls_token"])
    def test_unexpected__is_named(self, pixel_folder: Path, altered: Altered, name: str) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.update({name: torch.zeros(1)}))
        with pytest.raises(ValueError, match=rf": unexpected: {name}$"):
            StellarModel.from_pretrained(path)

    @pytest.mark.parametrize("decoder", [None, False])
    def test_unexpected_in_the_encoder__is_named_without_decoder_too(
        self, pixel_folder: Path, altered: Altered, decoder: bool | None
    ) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.update({"encoder.pooler": torch.zeros(1)}))
        with pytest.raises(ValueError, match=r": unexpected: encoder\.pooler$"):
            StellarModel.from_pretrained(path, decoder=decoder)

    def test_misshapen__is_named_with_both_shapes(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.update({"encoder.sparse_tokens": torch.zeros(5, 48)}))
        message = r"encoder\.sparse_tokens is \(5, 48\), the model has \(4, 48\)$"
        with pytest.raises(ValueError, match=message):
            StellarModel.from_pretrained(path)

    def test_other_config__names_every_tensor_that_differs(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, config=lambda content: content.update({"image_size": 64, "num_sparse_tokens": 8}))
        message = (
            r"encoder\.pos_embed is \(1, 17, 48\), the model has \(1, 65, 48\), "
            r".*encoder\.sparse_tokens is \(4, 48\), the model has \(8, 48\)$"
        )
        with pytest.raises(ValueError, match=message):
            StellarModel.from_pretrained(path)

    def test_all_kinds__are_listed_together(self, pixel_folder: Path, altered: Altered) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            del tensors["encoder.cls_token"], tensors["decoder.head.bias"]
            tensors |= {"surprise": torch.zeros(1), "encoder.norm.weight": torch.zeros(2)}

        path = altered(pixel_folder, spoil)
        message = (
            rf"'{path}' .*: "
            r"missing: decoder\.head\.bias, encoder\.cls_token; "
            r"unexpected: surprise; .*: encoder\.norm\.weight is \(2,\), the model has \(48,\)$"
        )
        with pytest.raises(ValueError, match=message):
            StellarModel.from_pretrained(path)

    def test_mismatched_sizes__are_tolerated_on_request(
        self, pixel_folder: Path, altered: Altered, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.update({"encoder.sparse_tokens": torch.zeros(5, 48)}))
        model = StellarModel.from_pretrained(path, ignore_mismatched_sizes=True)
        assert "new weights (1, such as encoder.sparse_tokens)" in caplog.text
        assert model.encoder.sparse_tokens.shape == (4, 48)

    def test_auto_model__refuses_as_well(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.pop("encoder.sparse_tokens"))
        with pytest.raises(ValueError, match=r"missing: encoder\.sparse_tokens"):
            AutoModel.from_pretrained(path)


class TestFiles:
    @pytest.mark.parametrize("kept", [0, 1000, -1])
    def test_truncated__says_so(self, pixel_folder: Path, altered: Altered, kept: int) -> None:
        path = altered(pixel_folder)
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:kept])
        with pytest.raises(ValueError, match=rf"'{path}' are damaged"):
            StellarModel.from_pretrained(path)

    def test_other_content__says_so(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder)
        (path / "model.safetensors").write_text("This is a letter, and by no means a file of tensors.")
        with pytest.raises(ValueError, match="damaged"):
            StellarModel.from_pretrained(path)

    def test_missing_weights__are_named(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder)
        (path / "model.safetensors").unlink()
        with pytest.raises(OSError, match=rf"no file named model\.safetensors found in directory {path}"):
            StellarModel.from_pretrained(path)

    def test_missing_shard__is_named(self, tmp_path: Path, pixel_model: StellarModel) -> None:
        pixel_model.save_pretrained(tmp_path, max_shard_size="100KB")
        shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
        shard.unlink()
        with pytest.raises(OSError, match=shard.name):
            StellarModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("kind", ["path", "string"])
    def test_missing_folder__is_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "nowhere"
        with pytest.raises(OSError, match=rf"{path}$"):
            StellarModel.from_pretrained(path if kind == "path" else str(path))

    def test_empty_folder__is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=rf"{tmp_path}"):
            StellarModel.from_pretrained(tmp_path)

    def test_config_file_instead_of_its_folder__is_refused(self, pixel_folder: Path) -> None:
        with pytest.raises(OSError, match=r"config\.json is a file"):
            StellarModel.from_pretrained(pixel_folder / "config.json")

    def test_pickled_weights__are_not_unpickled(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder)
        (path / "model.safetensors").unlink()
        opened = path / "opened"

        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(opened),)

        torch.save({"weight": Trap()}, path / "pytorch_model.bin")
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            StellarModel.from_pretrained(path)
        assert not opened.exists()


class TestWrongUse:
    @pytest.mark.parametrize("name", [None, "", "  "])
    def test_no_name__is_refused(self, name: Any) -> None:
        with pytest.raises(ValueError, match="needs the name or folder of a model"):
            StellarModel.from_pretrained(name)

    def test_model_instead_of_a_name__is_refused(self, pixel_model: StellarModel) -> None:
        with pytest.raises(TypeError, match="got StellarModel"):
            StellarModel.from_pretrained(pixel_model)  # type: ignore[call-overload]

    @pytest.mark.parametrize("kind", [str, Path])
    def test_folder_without_a_model__is_named_in_full(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OSError, match=rf"{tmp_path} holds no model, because it has no config\.json"):
            StellarModel.from_pretrained(kind("."))

    @pytest.mark.parametrize("value", [0, -1])
    def test_temperature_out_of_range__is_refused(self, pixel_folder: Path, value: float) -> None:
        with pytest.raises(ValueError, match=f"spatial_temp must be above 0, got {value}"):
            StellarModel.from_pretrained(pixel_folder, spatial_temp=value)

    def test_image_size__belongs_to_the_processor(self, pixel_folder: Path) -> None:
        with pytest.raises(ValueError, match=r"pos_embed.*any size.*StellarImageProcessor"):
            StellarModel.from_pretrained(pixel_folder, image_size=64)

    @pytest.mark.parametrize(
        ("keyword", "hint"),
        [
            ("device", "did you mean 'device_map'"),
            ("load_in_8bit", "float8"),
            ("num_classes", r"StellarForImageClassification\.from_pretrained\(name, num_labels="),
            ("pretrained", "always loaded"),
            ("features_only", r"model\.forward_intermediates"),
            ("global_pool", r"model\.embed\(images, pooling="),
            ("img_size", "StellarImageProcessor.*image_size="),
            ("in_chans", "did you mean 'num_channels'"),
            ("auto_class", "it takes options"),
        ],
    )
    def test_keyword_of_another_library__has_its_hint(self, pixel_folder: Path, keyword: str, hint: str) -> None:
        with pytest.raises(TypeError, match=f"'{keyword}'; .*{hint}"):
            StellarModel.from_pretrained(pixel_folder, **{keyword: "cpu"})

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            ("fp16", r"torch\.float16\?"),
            ("BF16", r"torch\.bfloat16\?"),
            ("torch.float16", r"torch\.float16\?"),
            ("flaot16", "'float16' or"),
            ("load", "got 'load'"),
        ],
    )
    def test_word_that_is_no_dtype__has_its_hint(self, pixel_folder: Path, value: str, hint: str) -> None:
        for keyword in ("dtype", "torch_dtype"):
            with pytest.raises(ValueError, match=f"{keyword} must be 'auto' or .*{hint}"):
                StellarModel.from_pretrained(pixel_folder, **{keyword: value})

    @pytest.mark.parametrize("value", ["half", "float16"])
    def test_dtype__may_be_torchs_word(self, pixel_folder: Path, value: str) -> None:
        assert StellarModel.from_pretrained(pixel_folder, dtype=value).dtype == torch.float16

    @pytest.mark.parametrize("value", ["no", 0, "True"])
    def test_decoder__is_true_false_or_none(self, pixel_folder: Path, value: Any) -> None:
        with pytest.raises(TypeError, match=f"decoder must be True, False or None, got {value!r}"):
            StellarModel.from_pretrained(pixel_folder, decoder=value)


class TestForeign:
    def test_other_model_type__is_refused(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, config=lambda content: content.update({"model_type": "vit"}))
        with pytest.raises(ValueError, match="'stellar', got 'vit'"):
            StellarModel.from_pretrained(path)

    def test_real_vit_folder__is_refused(self, tmp_path: Path) -> None:
        ViTConfig(hidden_size=48).save_pretrained(tmp_path)
        save_file({"embeddings.cls_token": torch.zeros(1, 1, 48)}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="'stellar', got 'vit'"):
            StellarModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("decoder", [None, False])
    def test_original_config_json__names_its_models(
        self, tmp_path: Path, pixel_folder: Path, decoder: bool | None
    ) -> None:
        original = {"models": {"stellar-h16": {"embed_dim": 1280}, "stellar-b16": {"embed_dim": 768}}}
        (tmp_path / "config.json").write_text(json.dumps(original))
        shutil.copy(pixel_folder / "model.safetensors", tmp_path)
        with pytest.raises(ValueError, match="stellar-b16, stellar-h16"):
            StellarModel.from_pretrained(tmp_path, decoder=decoder)

    def test_tensors_of_another_model__are_all_named(self, pixel_folder: Path, altered: Altered) -> None:
        def replace(tensors: dict[str, Tensor]) -> None:
            tensors.clear()
            tensors["embeddings.cls_token"] = torch.zeros(1, 1, 48)

        message = r"missing: decoder\.blocks.* more; unexpected: embeddings\.cls_token$"
        with pytest.raises(ValueError, match=message):
            StellarModel.from_pretrained(altered(pixel_folder, replace))

    def test_broken_config__is_named(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder)
        (path / "config.json").write_text('{"hidden_size"')
        with pytest.raises(ValueError, match=r"config\.json is not a valid JSON file"):
            StellarModel.from_pretrained(path)


class TestLogCapture:
    def test_capture__sees_a_report_where_there_is_one(
        self, pixel_folder: Path, altered: Altered, transformers_log: pytest.LogCaptureFixture
    ) -> None:
        # What the tests above rely on when they find nothing: loaded by transformers alone, there is a table.
        path = altered(pixel_folder, lambda tensors: tensors.pop("encoder.sparse_tokens"))
        PreTrainedModel.from_pretrained.__func__(StellarModel, path)
        assert any("LOAD REPORT" in message for message in transformers_log.messages)

    def test_error__is_not_preceded_by_the_table(
        self, pixel_folder: Path, altered: Altered, transformers_log: pytest.LogCaptureFixture
    ) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.pop("encoder.sparse_tokens"))
        with pytest.raises(ValueError, match="missing"):
            StellarModel.from_pretrained(path)
        assert not any("LOAD REPORT" in message for message in transformers_log.messages)
