"""What a name stands for, and what is fetched for it."""

from pathlib import Path

import pytest
import torch

from stellar_hub.conversion import load_original
from stellar_hub.hub.originals import convert_if_original
from stellar_hub.modeling.pretrained_names import published_config
from stellar_hub.modeling.pretrained_names import resolve_pretrained as resolve
from stellar_hub.registry import EMBEDDED_FOLDER

from .conftest import HEADS


class TestResolve:
    def test_resolve__is_the_folder_of_an_embedded_model(self) -> None:
        assert resolve("stellar-tiny") == str(EMBEDDED_FOLDER / "stellar-tiny")

    @pytest.mark.parametrize("name", ["stellar-b16", "user/repo"])
    def test_resolve__leaves_published_names_and_repositories(self, name: str) -> None:
        assert resolve(name) == name

    def test_resolve__prefers_what_lies_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "stellar-tiny").mkdir()
        monkeypatch.chdir(tmp_path)
        assert resolve("stellar-tiny") == "stellar-tiny"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("stellar-b61", "'stellar-b61'.*mean 'stellar-b16'"),
            ("vit", "'vit'.*stellar-tiny, "),
            ("microsoft/STELLAR", "'microsoft/STELLAR' .*stellar-b16, stellar-l16, stellar-h16"),
        ],
    )
    def test_resolve__refuses_what_cannot_be_loaded(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            resolve(name)


class TestPublishedConfig:
    def test_published_config__has_what_differs_from_the_defaults(self) -> None:
        assert published_config("stellar-b8") == {"num_sparse_tokens": 8, "name_or_path": "stellar-b8"}

    @pytest.mark.parametrize("name", ["stellar-tiny", "user/repo"])
    def test_published_config__is_none_for_what_has_a_file_of_its_own(self, name: str) -> None:
        assert published_config(name) is None

    def test_published_config__is_none_for_a_folder_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "stellar-b16").mkdir()
        monkeypatch.chdir(tmp_path)
        assert published_config("stellar-b16") is None


class TestConvertIfOriginal:
    def test_convert_if_original__leaves_folders_and_repositories(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").touch()
        for name in ("user/repo", str(tmp_path), str(tmp_path / "config.json"), str(EMBEDDED_FOLDER / "stellar-tiny")):
            assert convert_if_original(name, None, True, {}) is None

    def test_convert_if_original__takes_an_original_file(self, golden_dir: Path) -> None:
        options = HEADS | {"vqgan": golden_dir / "vqgan.bin"}
        converted = convert_if_original(str(golden_dir / "original-vq.safetensors"), None, True, options)
        assert converted is not None
        expected = load_original(golden_dir / "original-vq.safetensors", vqgan=golden_dir / "vqgan.bin", **HEADS)
        assert converted.config.use_tokenizer
        assert converted.state_dict.keys() == expected.state_dict().keys()

    def test_convert_if_original__keeps_the_options_that_are_not_its_own(self, golden_dir: Path) -> None:
        options = HEADS | {"decoder": None, "token": "hf_reader", "cache_dir": "there", "dtype": torch.float16}
        converted = convert_if_original(str(golden_dir / "original-pixel.safetensors"), None, True, options)
        assert converted is not None
        assert converted.options == {"decoder": None, "dtype": torch.float16}

    def test_convert_if_original__refuses_a_missing_decoder(self, golden_dir: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(golden_dir / "original-pixel.safetensors")
        save_file({key: tensor for key, tensor in tensors.items() if "decoder" not in key}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"a.safetensors .*decoder=False"):
            convert_if_original(str(tmp_path / "a.safetensors"), True, True, dict(HEADS))

    def test_convert_if_original__refuses_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "a.safetensors").write_bytes(b"<html>")
        with pytest.raises(ValueError, match=r"a.safetensors is damaged"):
            convert_if_original(str(tmp_path / "a.safetensors"), None, True, {})
