import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
    StrictDataclassError,
    StrictDataclassFieldValidationError,
)
from transformers import AutoConfig, ViTConfig

from stellar_hub.modeling import StellarConfig


class TestDefaults:
    def test_defaults__are_those_of_stellar_b16(self) -> None:
        config = StellarConfig()
        published = {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "image_size": 224,
            "patch_size": 16,
            "num_channels": 3,
            "layer_norm_eps": 1e-12,
            "num_sparse_tokens": 16,
            "spatial_temp": 0.06,
            "use_decoder": True,
            "decoder_hidden_size": 512,
            "decoder_num_hidden_layers": 6,
            "decoder_num_attention_heads": 8,
            "decoder_intermediate_size": 2048,
            "reconstruction_head": "vq",
            "pixel_head_overlap": False,
            "use_tokenizer": True,
            "codebook_size": 1024,
            "tokenizer_hidden_channels": 128,
            "tokenizer_channel_mult": [1, 1, 2, 2, 4],
            "tokenizer_num_res_blocks": 2,
            "tokenizer_embed_dim": 256,
            "num_prototypes": 16384,
            "prototype_dim": 256,
            "prototype_hidden_size": 2048,
            "teacher_momentum": None,
            "teacher_momentum_schedule": "constant",
            "reconstruction_weight": None,
            "koleo_weight": 0.1,
            "mask_ratio": 0.8,
            "mask_strategy": "focal",
            "focal_probability": 0.5,
            "use_matching": True,
            "nested_dropout": 0.0,
            "use_cls_head": True,
            "use_local_views": True,
            "use_global_align": False,
            "sinkhorn_temp": 0.06,
            "sinkhorn_num_iters": 3,
            "sinkhorn_scale": 1.0,
            "prototype_temp": 0.12,
            "matching_epsilon": 0.1,
            "matching_num_iters": 5,
            "token_objective": "prototypes",
            "sop_memory_size": 65536,
            "sop_num_tasks": 4,
            "sop_num_anchors": 64,
            "sop_num_supports": 9,
            "sop_anchor_choice": "uniform",
            "sop_token_memory_size": 8192,
            "sop_num_token_anchors": 512,
            "sop_num_token_supports": 1,
            "sop_smoothing": 0.1,
            "sop_temp": 0.1,
            "sop_teacher_temp": 0.04,
        }
        assert {name: getattr(config, name) for name in published} == published
        assert config.model_type == "stellar"

    def test_intermediate_sizes__are_four_times_the_width_unless_given(self) -> None:
        config = StellarConfig(hidden_size=96, decoder_hidden_size=64)
        assert (config.intermediate_size, config.decoder_intermediate_size) == (384, 256)
        config = StellarConfig(intermediate_size=100, decoder_intermediate_size=70)
        assert (config.intermediate_size, config.decoder_intermediate_size) == (100, 70)

    def test_channel_mult__is_not_shared_between_configurations(self) -> None:
        first, second = StellarConfig(), StellarConfig()
        first.tokenizer_channel_mult.append(7)
        assert second.tokenizer_channel_mult == [1, 1, 2, 2, 4]


class TestValidation:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("hidden_size", "768"),
            ("hidden_size", True),
            ("use_decoder", 1),
            ("reconstruction_head", "mae"),
            ("tokenizer_channel_mult", 4),
            ("teacher_momentum_schedule", "linear"),
            ("mask_ratio", "0.8"),
            ("use_matching", 1),
            ("sinkhorn_num_iters", 3.0),
        ],
    )
    def test_wrong_type__names_the_field(self, name: str, value: object) -> None:
        with pytest.raises(StrictDataclassFieldValidationError, match=rf"^Field '{name}'"):
            StellarConfig(**{name: value})

    def test_count_below_one__is_named(self) -> None:
        counts = (
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "image_size",
            "patch_size",
            "num_sparse_tokens",
            "decoder_hidden_size",
            "decoder_num_attention_heads",
            "decoder_intermediate_size",
            "codebook_size",
            "tokenizer_hidden_channels",
            "tokenizer_num_res_blocks",
            "tokenizer_embed_dim",
            "num_prototypes",
            "prototype_dim",
            "prototype_hidden_size",
            "sinkhorn_num_iters",
            "matching_num_iters",
            "sop_memory_size",
            "sop_num_tasks",
            "sop_num_anchors",
            "sop_num_supports",
            "sop_token_memory_size",
            "sop_num_token_anchors",
            "sop_num_token_supports",
        )
        for name in counts:
            with pytest.raises(StrictDataclassClassValidationError, match=rf"{name} must be at least 1, got 0"):
                StellarConfig(**{name: 0})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"teacher_momentum": None}, "needs a teacher.* set teacher_momentum"),
            ({"mask_ratio": None}, "needs masked views, got mask_ratio=None"),
            ({"mask_ratio": 0}, "needs masked views, got mask_ratio=0"),
            ({"use_cls_head": False, "use_local_views": False}, "set use_cls_head=True"),
            ({"use_global_align": True}, "excludes use_global_align"),
            (
                {"token_objective": "sop_patches", "koleo_weight": 0},
                "excludes reconstruction .*reconstruction_weight=0",
            ),
            ({"token_objective": "sop_patches", "use_decoder": False}, "excludes reconstruction and KoLeo"),
            ({"sop_temp": 0}, "sop_temp must be above 0 and finite, got 0"),
            ({"sop_teacher_temp": float("nan")}, "sop_teacher_temp must be above 0 and finite, got nan"),
            ({"sop_smoothing": 1.5}, r"sop_smoothing must be in \[0, 1\], got 1\.5"),
            ({"sop_memory_size": 2**20}, "sop_memory_size"),
        ],
    )
    def test_sop__names_what_it_needs_and_excludes(self, options: dict[str, object], message: str) -> None:
        sop = {"token_objective": "sop", "teacher_momentum": 0.9}
        StellarConfig(**sop)
        with pytest.raises(StrictDataclassClassValidationError) as caught:
            StellarConfig(**(sop | options))
        assert re.search(message, str(caught.value.__cause__))
        assert "\n" not in str(caught.value.__cause__)

    def test_overlap__is_saved_only_where_it_is_on(self) -> None:
        assert "pixel_head_overlap" not in StellarConfig(reconstruction_head="pixel").to_diff_dict()
        overlapping = StellarConfig(reconstruction_head="pixel", pixel_head_overlap=True)
        assert StellarConfig.from_dict(overlapping.to_diff_dict()).pixel_head_overlap

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "reconstruction_head='pixel', got 'vq'"),
            ({"reconstruction_head": "pixel", "patch_size": 7, "image_size": 70}, "an even patch_size, got 7"),
        ],
    )
    def test_overlap__needs_a_pixel_head_and_an_even_patch(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            StellarConfig(pixel_head_overlap=True, **options)

    def test_objective__is_saved_only_where_it_is_not_the_usual_one(self) -> None:
        assert not any("sop" in name or "objective" in name for name in StellarConfig().to_diff_dict())
        sop = StellarConfig(token_objective="sop", teacher_momentum=0.9, sop_memory_size=100)
        assert StellarConfig.from_dict(sop.to_diff_dict()).to_dict() == sop.to_dict()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_hidden_layers": -1}, "num_hidden_layers must be at least 0, got -1"),
            ({"spatial_temp": 0}, "spatial_temp must be above 0, got 0"),
            ({"spatial_temp": float("nan")}, "spatial_temp must be above 0, got nan"),
            ({"layer_norm_eps": 0.0}, r"layer_norm_eps must be above 0, got 0\.0"),
            ({"num_channels": 1}, "num_channels must be 3 .*got 1"),
            ({"hidden_size": 770}, "num_attention_heads 12, got 770"),
            ({"image_size": 230}, "patch_size 16, got 230"),
            (
                {"decoder_hidden_size": 500},
                "decoder_num_attention_heads 8, got 500",
            ),
            (
                {"decoder_hidden_size": 63, "decoder_num_attention_heads": 7},
                "decoder_hidden_size must be even, got 63",
            ),
            ({"tokenizer_channel_mult": [1, 0]}, r"tokenizer_channel_mult .* at least 1, got \[1, 0\]"),
            ({"tokenizer_hidden_channels": 48}, "tokenizer_hidden_channels must be a multiple of 32, .* got 48"),
            ({"teacher_momentum": 1.5}, r"teacher_momentum .*\[0, 1\], got 1\.5"),
            ({"prototype_temp": float("nan")}, "prototype_temp must be above 0, got nan"),
            ({"matching_epsilon": 0.0}, r"matching_epsilon must be above 0, got 0\.0"),
            ({"sinkhorn_scale": -1}, "sinkhorn_scale must be above 0, got -1"),
            ({"mask_ratio": 1}, r"mask_ratio .*\[0, 1\), got 1"),
            ({"mask_ratio": float("nan")}, r"mask_ratio .*\[0, 1\), got nan"),
            ({"focal_probability": 1.1}, r"focal_probability .*\[0, 1\], got 1\.1"),
            ({"reconstruction_weight": -1}, "reconstruction_weight must be at least 0, got -1"),
            ({"koleo_weight": float("nan")}, "koleo_weight must be "),
            ({"koleo_weight": float("inf")}, "koleo_weight must be finite, got inf"),
            ({"reconstruction_weight": float("inf")}, "reconstruction_weight must be finite, got inf"),
            ({"initializer_range": -0.1}, r"initializer_range must be at least 0, got -0\.1"),
            ({"initializer_range": float("nan")}, "initializer_range must be "),
            ({"sinkhorn_temp": 0}, "sinkhorn_temp must be above 0, got 0"),
            ({"output_attentions": True}, "output_attentions must be False"),
            ({"nested_dropout": 1.5}, r"nested_dropout .*\[0, 1\], got 1\.5"),
            ({"nested_dropout": float("nan")}, r"nested_dropout .*\[0, 1\], got nan"),
            ({"nested_dropout": 0.5, "num_sparse_tokens": 1}, "num_sparse_tokens of at least 2"),
            ({"use_cls_head": False}, "use_cls_head=True, .* use_local_views=False"),
        ],
    )
    def test_values_that_do_not_fit__are_named(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(StrictDataclassClassValidationError, match=message):
            StellarConfig(**options)

    @pytest.mark.parametrize("options", [{"hidden_size": "wide"}, {"hidden_size": 10}, {"spatial_temp": "a"}])
    def test_error__is_a_value_error_of_one_line(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))) as caught:
            StellarConfig(**options)
        assert isinstance(caught.value, StrictDataclassError)  # what transformers' users catch
        assert str(caught.value).isprintable()
        assert "Validation" not in str(caught.value)

    @pytest.mark.parametrize("field", ["spatial_temp", "sinkhorn_temp", "prototype_temp", "matching_epsilon"])
    def test_keyword_of_loading__is_checked(self, tmp_path: Path, field: str) -> None:
        StellarConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"{field} must be above 0, got 0"):
            StellarConfig.from_pretrained(tmp_path, **{field: 0})

    def test_assignment__is_validated(self) -> None:
        config = StellarConfig()
        with pytest.raises(StrictDataclassFieldValidationError, match=r"^Field 'hidden_size' expected int"):
            config.hidden_size = "wide"  # type: ignore[assignment]

    @pytest.mark.parametrize(
        "options",
        [
            {"teacher_momentum": 0},
            {"spatial_temp": 1},
            {"decoder_num_hidden_layers": 0},
            {"tokenizer_channel_mult": (1, 2)},
            {"mask_ratio": None},
            {"mask_ratio": 0},
            {"focal_probability": 1, "mask_strategy": "block"},
            {"reconstruction_weight": 0, "koleo_weight": 0},
            {"use_cls_head": False, "use_local_views": False},
            {"sinkhorn_scale": 0.8, "sinkhorn_num_iters": 1, "matching_num_iters": 1},
            {"teacher_momentum": 0.996, "teacher_momentum_schedule": "cosine"},
        ],
    )
    def test_allowed_edges__pass(self, options: dict[str, Any]) -> None:
        content = StellarConfig(**options).to_dict()
        assert {name: content[name] for name in options} == {
            name: list(value) if isinstance(value, tuple) else value for name, value in options.items()
        }


@pytest.fixture
def config(tiny_options: dict[str, Any]) -> StellarConfig:
    """A configuration with values that are not the defaults."""
    return StellarConfig(
        **tiny_options, reconstruction_head="pixel", teacher_momentum=0.99, mask_ratio=None, koleo_weight=0.2
    )


class TestFiles:
    def test_save_and_load__gives_an_equal_configuration(self, tmp_path: Path, config: StellarConfig) -> None:
        config.save_pretrained(tmp_path)
        loaded = StellarConfig.from_pretrained(tmp_path)
        assert type(loaded) is StellarConfig
        assert loaded.to_diff_dict() == config.to_diff_dict()
        assert loaded.tokenizer_channel_mult == [1, 1, 1, 2]

    def test_json_string__is_complete(self, config: StellarConfig, tiny_options: dict[str, Any]) -> None:
        content = json.loads(config.to_json_string(use_diff=False))
        assert {name: content[name] for name in tiny_options} == tiny_options
        assert content["model_type"] == "stellar"

    def test_dict__round_trips_and_is_not_changed(self, config: StellarConfig) -> None:
        content = config.to_dict()
        before = json.dumps(content, default=str)
        assert StellarConfig.from_dict(content).to_dict() == content
        assert json.dumps(content, default=str) == before

    def test_auto_config__knows_the_type(self, tmp_path: Path, config: StellarConfig) -> None:
        config.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is StellarConfig
        assert type(AutoConfig.for_model("stellar")) is StellarConfig

    def test_keywords__override_the_file(self, tmp_path: Path, config: StellarConfig) -> None:
        config.save_pretrained(tmp_path)
        assert StellarConfig.from_pretrained(tmp_path, use_decoder=False).use_decoder is False

    def test_wrong_value_in_the_file__is_named(self, tmp_path: Path, config: StellarConfig) -> None:
        config.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(content | {"hidden_size": "48"}))
        with pytest.raises(ValueError, match="'hidden_size' expected int, got str"):
            StellarConfig.from_pretrained(tmp_path)


class TestForeign:
    def test_other_model_type__is_refused_by_dict(self) -> None:
        with pytest.raises(ValueError, match="'stellar', got 'vit'"):
            StellarConfig.from_dict(ViTConfig().to_dict())

    def test_other_model_type__is_refused_by_folder(self, tmp_path: Path) -> None:
        ViTConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="'stellar', got 'vit'"):
            StellarConfig.from_pretrained(tmp_path)

    def test_original_config_json__names_its_models(self, tmp_path: Path) -> None:
        original = {"models": {"stellar-h16": {"embed_dim": 1280}, "stellar-b16": {"embed_dim": 768}}}
        (tmp_path / "config.json").write_text(json.dumps(original))
        with pytest.raises(ValueError, match="stellar-b16, stellar-h16"):
            StellarConfig.from_pretrained(tmp_path)

    def test_broken_json__is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"hidden_size": 4')
        with pytest.raises(ValueError, match=r"config\.json is not a valid JSON file"):
            StellarConfig.from_pretrained(tmp_path)

    def test_missing_folder__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"no such file or folder: .*nowhere"):
            StellarConfig.from_pretrained(tmp_path / "nowhere")


class TestUnknownFields:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("num_tokens", "'num_tokens'; did you mean 'num_sparse_tokens'"),
            ("num_hidden_layer", "'num_hidden_layer'; did you mean 'num_hidden_layers'"),
            ("hidden_act", "'hidden_act'"),
            ("temperature", "'temperature'"),  # transformers would drop it
            ("zzz", "'zzz'$"),
        ],
    )
    def test_constructor__refuses_them_with_the_nearest(self, name: str, hint: str) -> None:
        with pytest.raises(TypeError, match=hint):
            StellarConfig(**{name: 3})

    def test_file__is_read_without_them_and_they_are_named(
        self, tmp_path: Path, config: StellarConfig, caplog: pytest.LogCaptureFixture
    ) -> None:
        config.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layer": 3, "hidden_act": "gelo"}))
        for load in (StellarConfig.from_pretrained, AutoConfig.from_pretrained):
            caplog.clear()
            loaded = load(tmp_path)
            assert loaded.num_hidden_layers == config.num_hidden_layers
            assert not hasattr(loaded, "hidden_act")
            assert "'num_hidden_layer'; did you mean 'num_hidden_layers'" in caplog.text
            assert "'hidden_act'" in caplog.text
        assert StellarConfig.from_json_file(file).to_dict() == StellarConfig.from_pretrained(tmp_path).to_dict()

    def test_fields_of_transformers__pass_silently(
        self, tmp_path: Path, config: StellarConfig, caplog: pytest.LogCaptureFixture
    ) -> None:
        written = {
            "architectures": ["StellarModel"],
            "_name_or_path": "somewhere",
            "torch_dtype": "float16",
            "id2label": {"0": "cat", "1": "dog"},
            "num_labels": 2,
            "auto_map": {"AutoConfig": "configuration_stellar.StellarConfig"},
            "_attn_implementation_autoset": True,
            "output_attentions": False,
            "tie_word_embeddings": True,
            "use_cache": False,
        }
        StellarConfig(**{**config.to_dict(), **written})
        config.save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | written))
        assert StellarConfig.from_pretrained(tmp_path).id2label == {0: "cat", 1: "dog"}
        assert not caplog.records

    def test_keyword_of_loading__is_refused_with_the_nearest(self, tmp_path: Path, config: StellarConfig) -> None:
        config.save_pretrained(tmp_path)
        for load, name in (
            (StellarConfig.from_pretrained, tmp_path),
            (StellarConfig.from_pretrained, "stellar-b16"),
            (AutoConfig.from_pretrained, tmp_path),
        ):
            with pytest.raises(TypeError, match="'num_spars_tokens'; did you mean 'num_sparse_tokens'"):
                load(name, num_spars_tokens=3)
        loaded = StellarConfig.from_pretrained(tmp_path, token="x", revision="main", local_files_only=True)
        assert loaded.to_dict() == config.to_dict()
        _, unused = StellarConfig.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
        assert unused["other"] == 1


class TestHostile:
    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ({"hidden_size": 2**30, "num_attention_heads": 2}, "hidden_size has 1,073,741,824 .*MAX_CONFIG_DIMENSION"),
            ({"num_hidden_layers": 10**9}, "num_hidden_layers has 1,000,000,000 layers.*MAX_CONFIG_LAYERS"),
            ({"decoder_num_hidden_layers": 1025}, "decoder_num_hidden_layers has 1,025"),
            ({"num_sparse_tokens": 10**12}, "num_sparse_tokens"),
            ({"codebook_size": 10**10}, "codebook_size"),
            ({"image_size": 2**16}, "MAX_IMAGE_PIXELS"),
            ({"tokenizer_channel_mult": [1] * 600}, "tokenizer has 1,200 layers"),
            ({"tokenizer_channel_mult": [1] * 40}, "upsampling"),
            ({"tokenizer_channel_mult": [1, 10**9]}, "tokenizer_channel_mult times"),
            ({"hidden_size": 2**16, "num_attention_heads": 16, "intermediate_size": 2**17}, "MAX_MODEL_PARAMETERS"),
            ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be finite"),
            ({"initializer_range": float("nan")}, "initializer_range must be finite"),
            ({"layer_scale_init_value": 10**400}, "layer_scale_init_value must be finite"),
            ({"dtype": "evil"}, "dtype must be one of float32.*got 'evil'"),
            ({"torch_dtype": "int8"}, "torch_dtype must be one of"),
            ({"to_dict": 3}, "'to_dict' is not a setting"),
            ({"attribute_map": {"hidden_size": "x"}}, "'attribute_map' is not a setting"),
            ({"__class__": 3}, "'__class__' is not the name of a setting"),
            ({"id2label": {"a": 1}}, "invalid literal|id2label"),
            ({"transformers_weights": "../other/model.safetensors"}, "transformers_weights.*leads out"),
            ({"transformers_weights": "/etc/passwd"}, "transformers_weights.*not relative"),
            ({"transformers_weights": "adapter_model.bin"}, "transformers_weights must name a .safetensors"),
            ({"_adapter_model_path": "user/repo"}, "'_adapter_model_path' leads out"),
            ({"base_model_name_or_path": "user/repo"}, "'base_model_name_or_path' leads out"),
            ({"offload_folder": "/"}, "'offload_folder' leads out"),
            ({"quantization_config": {"quant_method": "gptq"}}, "'quantization_config' is not a setting"),
            ({"attn_implementation": "user/kernel"}, "attn_implementation must be a name"),
            ({"model_type": "a\x1b[31m"}, r"got 'a\\x1b"),
        ],
    )
    def test_entry__is_refused_in_one_line(self, entries: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            StellarConfig.from_dict(entries)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000

    def test_too_large__is_refused_from_python_too(self) -> None:
        with pytest.raises(StrictDataclassClassValidationError, match="MAX_CONFIG_LAYERS"):
            StellarConfig(num_hidden_layers=10**6)

    def test_limit__can_be_raised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STELLAR_HUB_MAX_CONFIG_LAYERS", "2000")
        assert StellarConfig(num_hidden_layers=1500, hidden_size=48, num_attention_heads=3).num_hidden_layers == 1500

    @pytest.mark.parametrize(
        "place",
        ["user/repo--modeling_stellar.StellarModel", "../x.Y", "a.b.C", "modeling_stellar", 3, ["tok.A", "user--b.C"]],
    )
    def test_code_of_another_repository__is_refused(self, tmp_path: Path, place: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "stellar", "auto_map": {"AutoModel": place}}))
        with pytest.raises(ValueError, match="auto_map must name classes in files of the model's folder"):
            StellarConfig.from_pretrained(tmp_path)

    def test_code_of_the_repository_it_came_from__is_not_saved(self, tmp_path: Path) -> None:
        config = StellarConfig(auto_map={"AutoModel": "user/repo--modeling_stellar.StellarModel"})
        config.save_pretrained(tmp_path)
        assert "--" not in (tmp_path / "config.json").read_text()
        StellarConfig.from_pretrained(tmp_path)

    def test_origin_in_the_file__is_passed_over(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"_name_or_path": "/home/other", "name_or_path": "/home/other"}')
        assert "other" not in StellarConfig.from_pretrained(tmp_path).name_or_path


@pytest.mark.parametrize("name", ["", " ", None])
def test_no_name__is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="needs the name or folder of a model"):
        StellarConfig.from_pretrained(name)


def test_folder_without_a_configuration__is_not_the_defaults(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"holds no model, because it has no config\.json"):
        StellarConfig.from_pretrained(tmp_path)


def test_save__over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="a is a file"):
        StellarConfig().save_pretrained(tmp_path / "a")


def test_save__refuses_a_keyword_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'token_'; did you mean 'token'"):
        StellarConfig().save_pretrained(tmp_path, token_="x")
