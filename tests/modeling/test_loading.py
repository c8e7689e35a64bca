"""What a load checks before and after it reads weights, and what it leaves alone: other threads, and the log."""

import copy
import json
import logging
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.loading import TRANSFORMERS_LOGGER, without_load_report

Altered = Callable[..., Path]


def test_without_load_report__holds_back_the_table_alone(transformers_log: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(TRANSFORMERS_LOGGER)
    with without_load_report():
        logger.warning("a LOAD REPORT of tensors")
        logger.warning("something else")
    assert set(transformers_log.messages) == {"something else"}  # twice where transformers propagates


class TestValues:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_not_finite__is_named(self, pixel_folder: Path, altered: Altered, value: float, dtype: torch.dtype) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors["encoder.norm.weight"][7] = value

        path = altered(pixel_folder, spoil)
        with pytest.raises(ValueError, match=r"must be finite.* in encoder\.norm\.weight$"):
            StellarModel.from_pretrained(path, dtype=dtype)

    def test_not_finite_in_the_decoder__does_not_matter_without_it(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, lambda tensors: tensors["decoder.proj.bias"].fill_(float("nan")))
        StellarModel.from_pretrained(path, decoder=False)
        with pytest.raises(ValueError, match=r"decoder\.proj\.bias"):
            StellarModel.from_pretrained(path)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn])
    def test_type__is_refused_by_name(self, pixel_folder: Path, altered: Altered, dtype: torch.dtype) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors["localization.dense_proj.weight"] = tensors["localization.dense_proj.weight"].to(dtype)

        with pytest.raises(ValueError, match=r"float32.*: localization\.dense_proj\.weight is "):
            StellarModel.from_pretrained(altered(pixel_folder, spoil))

    def test_control_characters_in_a_name__are_escaped(self, pixel_folder: Path, altered: Altered) -> None:
        path = altered(pixel_folder, lambda tensors: tensors.update({"\x1b[31mred": torch.zeros(1)}))
        with pytest.raises(ValueError, match="unexpected") as caught:
            StellarModel.from_pretrained(path)
        assert str(caught.value).isprintable()


class TestSizes:
    def test_model_far_larger_than_its_file__is_refused_before_it_gets_memory(
        self, pixel_folder: Path, altered: Altered, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def enlarge(content: dict[str, Any]) -> None:
            content |= {"hidden_size": 3072, "num_attention_heads": 3, "num_hidden_layers": 100, "intermediate_size": 1}

        path = altered(pixel_folder, config=enlarge)
        monkeypatch.setattr(StellarModel, "_initialize_missing_keys", lambda *_: pytest.fail("memory was allocated"))
        with pytest.raises(ValueError, match=r"numbers, and 3,\d+,\d+,\d+ that the model .* encoder\.blocks"):
            StellarModel.from_pretrained(path)

    def test_tensor_above_the_limit__is_refused(self, pixel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STELLAR_HUB_MAX_TENSOR_ELEMENTS", "100")
        with pytest.raises(ValueError, match="STELLAR_HUB_MAX_TENSOR_ELEMENTS"):
            StellarModel.from_pretrained(pixel_folder)


class TestNames:
    @pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "a\x1b.safetensors", 3, "m.bin", ""])
    def test_index__names_files_of_its_folder_alone(
        self, tmp_path: Path, pixel_model: StellarModel, name: object
    ) -> None:
        pixel_model.save_pretrained(tmp_path, max_shard_size="100KB")
        index = tmp_path / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        content["weight_map"]["encoder.norm.weight"] = name
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json") as caught:
            StellarModel.from_pretrained(tmp_path)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "entries", [{"weight_map": []}, {"weight_map": {}}, {"metadata": None}, {"metadata": {"dtype": "x"}}]
    )
    def test_index__of_another_form_is_refused(
        self, tmp_path: Path, pixel_model: StellarModel, entries: dict[str, Any]
    ) -> None:
        pixel_model.save_pretrained(tmp_path, max_shard_size="100KB")
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps(json.loads(index.read_text()) | entries))
        with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json must have"):
            StellarModel.from_pretrained(tmp_path)

    def test_adapter__does_not_lead_to_another_model(self, tmp_path: Path, pixel_folder: Path) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(pixel_folder)}))
        with pytest.raises(ValueError, match="adapter to another model"):
            StellarModel.from_pretrained(tmp_path)

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000])
    def test_adapter__that_is_damaged_is_named(self, pixel_folder: Path, altered: Altered, content: str) -> None:
        path = altered(pixel_folder, lambda tensors: None)
        (path / "adapter_config.json").write_text(content)
        with pytest.raises(ValueError, match=r"adapter_config\.json "):
            StellarModel.from_pretrained(path)

    def test_folder__whose_name_is_not_utf8_loads(self, pixel_folder: Path, tmp_path: Path) -> None:
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
        shutil.copytree(pixel_folder, folder)
        assert StellarModel.from_pretrained(folder).config.name_or_path == str(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_dtype__that_torch_does_not_compute_with_is_refused(pixel_folder: Path, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        StellarModel.from_pretrained(pixel_folder, dtype=dtype)


class TestThreads:
    def test_other_threads__keep_torchs_default_dtype(
        self, pixel_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[torch.dtype] = []
        original = torch.nn.Linear.__init__

        def build(self: torch.nn.Linear, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=lambda: seen.append(torch.nn.LayerNorm(2).weight.dtype))
                other.start()
                other.join()

        monkeypatch.setattr(torch.nn.Linear, "__init__", build)
        model = StellarModel.from_pretrained(pixel_folder, dtype=torch.bfloat16)
        assert set(seen) == {torch.float32}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}

    def test_dtype__must_be_of_floats(self, pixel_folder: Path) -> None:
        with pytest.raises(ValueError, match="floating"):
            StellarModel.from_pretrained(pixel_folder, dtype=torch.int8)


class TestKeywords:
    def test_unknown__is_refused_with_the_nearest(self, pixel_folder: Path) -> None:
        for load in (StellarModel.from_pretrained, AutoModel.from_pretrained):
            with pytest.raises(TypeError, match=r"'num_spars_tokens'; did you mean 'num_sparse_tokens'"):
                load(pixel_folder, num_spars_tokens=3)
        with pytest.raises(TypeError, match=r"^from_pretrained got .* 'foo'; it takes"):
            StellarModel.from_pretrained(pixel_folder, foo=3)

    def test_field_of_the_configuration__changes_it(self, pixel_folder: Path) -> None:
        assert StellarModel.from_pretrained(pixel_folder, spatial_temp=0.5).localization.spatial_temp == 0.5

    def test_folder_of_a_run__says_where_its_model_is(self, tmp_path: Path, pixel_folder: Path) -> None:
        shutil.copytree(pixel_folder, tmp_path / "run" / "model")
        for kind in (StellarModel, StellarConfig, StellarImageProcessor):
            with pytest.raises(OSError, match=r"folder of a training run: load .*run.model$"):
                kind.from_pretrained(tmp_path / "run")
            kind.from_pretrained(tmp_path / "run", subfolder="model")

    def test_folder_of_a_run_without_a_model__says_how_to_make_one(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").touch()
        with pytest.raises(OSError, match=r"has no model yet: .*--resume auto.*checkpoints/step-N"):
            StellarConfig.from_pretrained(tmp_path)


class TestPickle:
    @pytest.mark.parametrize("part", ["encoder", "decoder", "encoder.blocks.0"])
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
    def test_part__is_copied_after_hidden_states(
        self, pixel_model: StellarModel, images: Tensor, part: str, duplicate: Callable[[Any], Any]
    ) -> None:
        expected = pixel_model(images, output_hidden_states=True).hidden_states
        again = duplicate(pixel_model.get_submodule(part))
        pixel_model.set_submodule(part, again)
        states = pixel_model(images, output_hidden_states=True).hidden_states
        assert len(states) == len(expected) == pixel_model.config.num_hidden_layers + 1
        torch.testing.assert_close(states, expected, rtol=0, atol=0)

    def test_model__is_pickled_after_hidden_states(self, pixel_model: StellarModel, images: Tensor) -> None:
        expected = pixel_model(images, output_hidden_states=True).hidden_states
        again: StellarModel = pickle.loads(pickle.dumps(pixel_model))
        for model in (again, pixel_model):
            states = model(images, output_hidden_states=True).hidden_states
            assert len(states) == len(expected)
            torch.testing.assert_close(states[-1], expected[-1], rtol=0, atol=0)


class TestPacked:
    def test_load_state_dict__takes_new_weights(self, pixel_model: StellarModel, images: Tensor) -> None:
        pixel_model.optimize_for_inference()
        from stellar_hub.modeling.inference_variants import pack_linears

        pack_linears(pixel_model.encoder)
        state = {name: tensor * 0.5 for name, tensor in pixel_model.state_dict().items()}
        pixel_model.load_state_dict(state)
        for name, tensor in pixel_model.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
        del state["encoder.blocks.0.attn.qkv.weight"]
        with pytest.raises(RuntimeError, match=r"encoder\.blocks\.0\.attn\.qkv\.weight"):
            pixel_model.load_state_dict(state)


def test_saved_weights__load_bit_by_bit(tmp_path: Path, pixel_model: StellarModel) -> None:
    pixel_model.save_pretrained(tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = StellarModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in pixel_model.state_dict().items())
