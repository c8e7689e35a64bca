"""Names of pretrained models."""

import re
from pathlib import Path

import pytest

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel, list_models
from stellar_hub.registry import MODELS, TOKENIZER, check_name, embedded_folder, published

PUBLISHED = [name for name, model in MODELS.items() if model.file is not None]


def test_list_models__names_the_published_models_and_the_embedded_one() -> None:
    assert list_models() == ["stellar-tiny", "stellar-b16", "stellar-l16", "stellar-h16", "stellar-b8", "stellar-b24"]


def test_embedded_folder__is_that_of_an_embedded_model_alone() -> None:
    folder = embedded_folder("stellar-tiny")
    assert folder is not None
    assert (folder / "config.json").is_file()
    assert embedded_folder("stellar-b16") is None


def test_files__are_pinned_to_a_commit() -> None:
    for file in (TOKENIZER, *(model.file for model in MODELS.values())):
        assert file is None or re.fullmatch(r"[0-9a-f]{40}", file.revision)


def test_check_name__accepts_repository_ids_and_known_names() -> None:
    for name in ("user/repository", "stellar-b16", "stellar-tiny"):
        check_name(name)


def test_check_name__names_the_nearest_known_names() -> None:
    with pytest.raises(ValueError, match=r"'stelar-tiny'.*mean 'stellar-tiny'"):
        check_name("stelar-tiny")


def test_check_name__says_which_models_the_original_repository_holds() -> None:
    with pytest.raises(ValueError, match=r"'microsoft/STELLAR' .* stellar-b16, stellar-l16, stellar-h16"):
        check_name("microsoft/STELLAR")


@pytest.mark.parametrize("cls", [StellarConfig, StellarModel, StellarImageProcessor])
def test_from_pretrained__refuses_an_unknown_name_without_touching_the_network(cls: type) -> None:
    with pytest.raises(ValueError, match="'nope'"):
        cls.from_pretrained("nope")


@pytest.mark.parametrize("name", PUBLISHED)
def test_config_and_processor__of_published_names_need_no_file(name: str) -> None:
    config = StellarConfig.from_pretrained(name)
    processor = StellarImageProcessor.from_pretrained(name)
    assert config.image_size == processor.crop_size["height"] == 224
    assert config.patch_size == processor.patch_size
    assert processor.size["shortest_edge"] == 256


def test_published_config__is_that_of_the_original_layouts(data_dir: Path) -> None:
    import json

    import torch

    from stellar_hub.conversion import convert_original

    layouts = json.loads((data_dir / "original-layouts.json").read_text())
    for name in PUBLISHED:
        tensors = {key: torch.empty(shape, device="meta") for key, shape in layouts[name]["tensors"].items()}
        tokenizer = layouts["maskgit-vqgan-imagenet-f16-256"]["tensors"]
        vqgan = {key: torch.empty(shape, device="meta") for key, shape in tokenizer.items()}
        converted, _ = convert_original(tensors, vqgan=vqgan)
        assert published(name) is not None
        assert StellarConfig.from_pretrained(name).to_dict() == converted.to_dict() | {"_name_or_path": name}


def test_from_pretrained__prefers_a_local_folder_of_the_same_name(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel_model.save_pretrained(tmp_path / "stellar-tiny")
    monkeypatch.chdir(tmp_path)
    assert StellarModel.from_pretrained("stellar-tiny").config.hidden_size == pixel_model.config.hidden_size
