"""The tokenizer's weights, into models that begin without them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stellar_hub.conversion import convert_original
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from torch import Tensor

from stellar_hub.registry import TOKENIZER
from stellar_hub.training import StellarForPreTraining, tokenizer
from stellar_hub.training.tokenizer import CODEBOOK, load_tokenizer

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
    monkeypatch.setattr(tokenizer, "fetch", lambda file: asked.append(file) or vqgan)
    load_tokenizer(model, None, keep_decoder=False)
    assert asked == [TOKENIZER]
    assert torch.equal(model.state_dict()[CODEBOOK], read_checkpoint(vqgan)[ORIGINAL_CODEBOOK])


def test_another_codebook__is_refused(
    model: StellarForPreTraining, altered: Callable[..., Path], converted: dict[str, Tensor]
) -> None:
    model.load_state_dict(parts(converted, "stellar.tokenizer."), strict=False)
    path = altered(lambda tensors: tensors[ORIGINAL_CODEBOOK].add_(0.1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"altered\.bin is another tokenizer than the model's: the codebooks differ"):
        load_tokenizer(model, path, keep_decoder=True)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_missing_tensors__are_named(model: StellarForPreTraining, altered: Callable[..., Path]) -> None:
    path = altered(lambda tensors: tensors.pop("encoder.conv_out.bias"))
    with pytest.raises(ValueError, match=r"is not the tokenizer of this model: it lacks encoder\.conv_out\.bias"):
        load_tokenizer(model, path, keep_decoder=False)


def test_tensors_of_other_shapes__are_named(build_pretraining_model: Build, vqgan: Path) -> None:
    model = build_pretraining_model(reconstruction_head="vq", codebook_size=50)
    with pytest.raises(ValueError, match=r"stellar\.tokenizer\.codebook\.weight have other shapes"):
        load_tokenizer(model, vqgan, keep_decoder=False)


def test_file_that_is_not_there__is_named(model: StellarForPreTraining, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint file: .*nowhere\.bin"):
        load_tokenizer(model, tmp_path / "nowhere.bin", keep_decoder=False)
