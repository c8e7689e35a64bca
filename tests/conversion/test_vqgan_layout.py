"""Tests of `conversion/vqgan_layout.py`."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stellar_hub.conversion.vqgan_layout import common_size, max_index, tokenizer_sizes, vqgan_sources
from stellar_hub.modeling import StellarConfig
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANDecoder, MaskGitVQGANEncoder

TENSORS = {"a": torch.empty(3, 5), "b": torch.empty(5), "c": torch.empty(7, 5, 2), "odd": torch.empty(6)}


def test_common_size__reads_the_named_dimension() -> None:
    assert common_size(TENSORS, ("c", 0)) == 7
    assert common_size(TENSORS, ("c", 2)) == 2


def test_common_size__outvotes_the_odd_one_wherever_it_stands() -> None:
    assert common_size(TENSORS, ("odd", 0), ("a", 1), ("b", 0)) == 5
    assert common_size(TENSORS, ("a", 1), ("b", 0), ("odd", 0)) == 5


def test_common_size__takes_the_first_among_equals() -> None:
    assert common_size(TENSORS, ("odd", 0), ("b", 0)) == 6
    assert common_size(TENSORS, ("b", 0), ("odd", 0)) == 5


def test_common_size__passes_over_missing_tensors_and_dimensions() -> None:
    assert common_size(TENSORS, ("nowhere", 0), ("b", 1), ("c", 1)) == 5


def test_common_size__is_one_where_nothing_tells() -> None:
    assert common_size(TENSORS, ("nowhere", 0), ("b", 3)) == 1


REAL = {
    "tokenizer_embed_dim": 256,
    "tokenizer_hidden_channels": 128,
    "tokenizer_channel_mult": [1, 1, 2, 2, 4],
    "tokenizer_num_res_blocks": 2,
}
TINY = {
    "tokenizer_embed_dim": 32,
    "tokenizer_hidden_channels": 32,
    "tokenizer_channel_mult": [1, 1, 1, 2],
    "tokenizer_num_res_blocks": 1,
}


def test_tokenizer_sizes__reads_the_real_one(on_meta: Callable[[str], dict[str, Tensor]]) -> None:
    assert tokenizer_sizes(on_meta("vqgan"), "") == REAL


def test_tokenizer_sizes__reads_the_tiny_one_behind_a_prefix(vqgan: dict[str, Tensor]) -> None:
    tensors = {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}
    tensors["encoder.conv_in.weight"] = torch.empty(7, 7)  # somebody else's
    assert tokenizer_sizes(tensors, "tokenizer.") == TINY


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.conv_in.weight", (64, 3, 3, 3)),
        ("encoder.down.3.block.0.conv1.weight", (5,)),
        ("decoder.norm_out.bias", (96,)),
        ("quantize.embedding.weight", (48, 32, 1)),
    ],
)
def test_tokenizer_sizes__is_not_misled_by_one_misshapen_tensor(
    name: str, shape: tuple[int, ...], vqgan: dict[str, Tensor]
) -> None:
    assert tokenizer_sizes(vqgan | {name: torch.empty(shape)}, "") == TINY


@pytest.mark.parametrize("name", ["encoder.conv_in.weight", "quantize.embedding.weight", "decoder.norm_out.bias"])
def test_tokenizer_sizes__is_not_misled_by_one_missing_tensor(name: str, vqgan: dict[str, Tensor]) -> None:
    del vqgan[name]
    assert tokenizer_sizes(vqgan, "") == TINY


def test_tokenizer_sizes__refuses_what_is_no_vqgan(vq: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"MaskGIT-VQGAN: .*encoder\.conv_in\.weight"):
        tokenizer_sizes(vq, "")


@pytest.mark.parametrize("sizes", [REAL | {"codebook_size": 1024}, TINY | {"codebook_size": 48}])
def test_vqgan_sources__fills_both_halves_exactly(sizes: dict[str, int]) -> None:
    config = StellarConfig(**sizes)
    with torch.device("meta"):
        decoder, encoder = MaskGitVQGANDecoder(config), MaskGitVQGANEncoder(config)
    expected = {f"stellar.tokenizer.{name}" for name in decoder.state_dict()}
    expected |= {f"tokenizer_encoder.{name}" for name in encoder.state_dict()}
    assert vqgan_sources(config, "").keys() == expected


def test_vqgan_sources__uses_every_tensor_of_the_real_one_once(layouts: dict[str, dict[str, list[int]]]) -> None:
    table = vqgan_sources(StellarConfig(), "tokenizer.")
    used = [name for sources in table.values() for name in sources]
    assert sorted(used) == sorted(f"tokenizer.{name}" for name in layouts["maskgit-vqgan-imagenet-f16-256"])


def test_vqgan_sources__takes_the_codebook_from_the_quantizer() -> None:
    table = vqgan_sources(StellarConfig(), "tokenizer.")
    assert table["stellar.tokenizer.codebook.weight"] == ["tokenizer.quantize.embedding.weight"]
    assert table["tokenizer_encoder.conv_in.weight"] == ["tokenizer.encoder.conv_in.weight"]
    assert table["stellar.tokenizer.conv_in.weight"] == ["tokenizer.decoder.conv_in.weight"]


def test_max_index__finds_the_highest() -> None:
    assert max_index(["a.2.x", "a.10.y", "b.99.z", "xa.50."], r"a\.(\d+)\.") == 10
    assert max_index(["b.1."], r"a\.(\d+)\.") == -1


@pytest.mark.parametrize("name", ["encoder.down.99999999999.x", "encoder.down.0.block.99999999999.x"])
def test_tokenizer_sizes__refuses_numbers_above_the_limit(name: str, vqgan: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"99999999999.*STELLAR_HUB_MAX_CONFIG_LAYERS"):
        tokenizer_sizes(vqgan | {name: torch.empty(1)}, "")
