"""Names of pretrained models."""

from pathlib import Path

import pytest

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.registry import MODELS, locate


def test_locate__gives_the_folder_of_an_embedded_model() -> None:
    assert (Path(locate("stellar-tiny")) / "config.json").is_file()


def test_locate__leaves_repository_ids_alone() -> None:
    assert locate("user/repository") == "user/repository"


def test_locate__names_the_nearest_known_names() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'stelar-tiny': did you mean 'stellar-tiny'"):
        locate("stelar-tiny")


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model.embedded])
def test_locate__says_how_to_get_a_published_model(name: str) -> None:
    with pytest.raises(ValueError, match=rf"stellar-hub convert {name}\.safetensors"):
        locate(name)


@pytest.mark.parametrize("cls", [StellarConfig, StellarModel, StellarImageProcessor])
def test_from_pretrained__refuses_an_unknown_name_without_touching_the_network(cls: type) -> None:
    with pytest.raises(ValueError, match="unknown model 'nope'"):
        cls.from_pretrained("nope")


def test_from_pretrained__prefers_a_local_folder_of_the_same_name(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel_model.save_pretrained(tmp_path / "stellar-tiny")
    monkeypatch.chdir(tmp_path)
    assert StellarModel.from_pretrained("stellar-tiny").config.hidden_size == pixel_model.config.hidden_size
