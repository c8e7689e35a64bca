"""Tests of `conversion/load.py`."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stellar_hub.conversion import convert_original, load_original
from stellar_hub.conversion.load import convert_checkpoint
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.modeling import StellarModel

StateDict = dict[str, Tensor]
DECODING = ("decoder.", "decoder_proj.", "position_embedding.", "reconstruction_head.")


@pytest.fixture
def vq_path(golden_dir: Path) -> Path:
    """The tiny checkpoint with a "vq" head."""
    return golden_dir / "original-vq.safetensors"


@pytest.fixture
def vqgan_path(golden_dir: Path) -> Path:
    """The tiny tokenizer."""
    return golden_dir / "vqgan.bin"


@pytest.fixture
def large_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that does not outlive the test."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@torch.inference_mode()
def assert_encodes_as_expected(model: StellarModel, expected: StateDict, head: str = "vq") -> None:
    semantics, localization = model.encode(expected["image"])
    torch.testing.assert_close(semantics, expected[f"{head}.native.sparse"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(localization, expected[f"{head}.native.spatial"], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def assert_decodes_as_expected(model: StellarModel, expected: StateDict) -> None:
    images = model.decode(*model.encode(expected["image"]))
    torch.testing.assert_close(images, expected["vq.reconstruction"], rtol=1e-5, atol=1e-5)


def assert_same_weights(model: StellarModel, other: StellarModel) -> None:
    place = {"_name_or_path": None}
    assert model.config.to_dict() | place == other.config.to_dict() | place
    wanted = other.state_dict()
    assert model.state_dict().keys() == wanted.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


def test_load_original__meets_the_authors_numbers(
    vq_path: Path, vqgan_path: Path, expected: StateDict, heads: dict[str, int]
) -> None:
    model = load_original(vq_path, vqgan=vqgan_path, **heads)
    assert isinstance(model, StellarModel)
    assert not model.training
    assert model.dtype == torch.float32
    assert_encodes_as_expected(model, expected)
    assert_decodes_as_expected(model, expected)


def test_load_original__loads_a_pixel_head(golden_dir: Path, expected: StateDict, heads: dict[str, int]) -> None:
    model = load_original(golden_dir / "original-pixel.safetensors", **heads)
    assert_encodes_as_expected(model, expected, "pixel")
    with torch.inference_mode():
        images = model.decode(*model.encode(expected["image"]))
    torch.testing.assert_close(images, expected["pixel.head"].clamp(0, 1), rtol=1e-5, atol=1e-5)


def test_load_original__takes_paths_as_strings(vq_path: Path, vqgan_path: Path, heads: dict[str, int]) -> None:
    assert_same_weights(
        load_original(str(vq_path), vqgan=str(vqgan_path), **heads), load_original(vq_path, vqgan=vqgan_path, **heads)
    )


@pytest.mark.parametrize("newer", [False, True])
def test_load_original__loads_a_lightning_checkpoint(
    newer: bool, vq: StateDict, vq_path: Path, newer_name: Callable[[str], str], heads: dict[str, int], tmp_path: Path
) -> None:
    state_dict = {f"model.{newer_name(name) if newer else name}": tensor for name, tensor in vq.items()}
    torch.save({"state_dict": state_dict, "epoch": 7, "global_step": 100}, tmp_path / "last.ckpt")
    assert_same_weights(load_original(tmp_path / "last.ckpt", **heads), load_original(vq_path, **heads))


def test_load_original__loads_the_tokenizer_inside(
    vq: StateDict, vqgan: StateDict, vq_path: Path, vqgan_path: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    state_dict = vq | {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in state_dict.items()}}, tmp_path / "x.ckpt")
    assert_same_weights(load_original(tmp_path / "x.ckpt", **heads), load_original(vq_path, vqgan=vqgan_path, **heads))


def test_load_original__takes_the_tokenizer_from_safetensors(
    vq_path: Path, vqgan: StateDict, vqgan_path: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    save_file(vqgan, tmp_path / "vqgan.safetensors")
    assert_same_weights(
        load_original(vq_path, vqgan=tmp_path / "vqgan.safetensors", **heads),
        load_original(vq_path, vqgan=vqgan_path, **heads),
    )


def test_load_original__leaves_the_teacher_to_pretraining(
    pixel: StateDict, teacher: StateDict, golden_dir: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    save_file(pixel | teacher, tmp_path / "x.safetensors")
    model = load_original(tmp_path / "x.safetensors", **heads)
    plain = load_original(golden_dir / "original-pixel.safetensors", **heads)
    assert model.config.teacher_momentum == 0.996
    model.config.teacher_momentum = None
    assert_same_weights(model, plain)


def test_load_original__encodes_without_a_tokenizer_but_decode_asks_for_it(
    vq_path: Path, expected: StateDict, heads: dict[str, int]
) -> None:
    model = load_original(vq_path, **heads)
    assert_encodes_as_expected(model, expected)
    with pytest.raises(ValueError, match=r"no tokenizer.* with vqgan="):
        model.decode(expected["vq.native.sparse"], expected["vq.native.spatial"])


def test_load_original__loads_features_only_from_a_whole_checkpoint(
    vq_path: Path, vqgan_path: Path, expected: StateDict, heads: dict[str, int]
) -> None:
    whole = load_original(vq_path, vqgan=vqgan_path, **heads)
    model = load_original(vq_path, decoder=False, num_attention_heads=3)
    assert model.decoder is None
    assert model.tokenizer is None
    with torch.inference_mode():
        for actual, wanted in zip(model.encode(expected["image"]), whole.encode(expected["image"]), strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no decoder"):
        model.decode(expected["vq.native.sparse"], expected["vq.native.spatial"])


def test_load_original__reads_nothing_of_decoder_and_tokenizer_for_features_only(
    vq: StateDict, vqgan: StateDict, vq_path: Path, tmp_path: Path
) -> None:
    spoilt = {name: torch.zeros(1) if name.startswith(DECODING) else tensor for name, tensor in vq.items()}
    spoilt |= {f"tokenizer.{name}": torch.zeros(1) for name in vqgan}
    path = tmp_path / "spoilt.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in spoilt.items()}, path)
    model = load_original(path, vqgan=tmp_path / "nowhere.bin", decoder=False, num_attention_heads=3)
    assert_same_weights(model, load_original(vq_path, decoder=False, num_attention_heads=3))
    with pytest.raises(ValueError, match="decoder_hidden_size must be even, got 1"):
        load_original(path, num_attention_heads=3, decoder_num_attention_heads=1)


def test_load_original__loads_a_checkpoint_of_features_only(
    vq: StateDict, vq_path: Path, expected: StateDict, tmp_path: Path
) -> None:
    save_file({n: tensor for n, tensor in vq.items() if not n.startswith(DECODING)}, tmp_path / "x.safetensors")
    model = load_original(tmp_path / "x.safetensors", num_attention_heads=3)
    assert model.decoder is None
    assert_encodes_as_expected(model, expected)
    assert_same_weights(model, load_original(vq_path, decoder=False, num_attention_heads=3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_load_original__keeps_the_checkpoints_dtype(
    dtype: torch.dtype, vq: StateDict, vqgan_path: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in vq.items()}, tmp_path / "x.safetensors")
    model = load_original(tmp_path / "x.safetensors", **heads)
    assert model.dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.inference_mode():
        assert model.encode(torch.rand(1, 3, 32, 32)).semantics.dtype == dtype


def test_load_original__does_not_write_to_the_file(vq_path: Path, heads: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    shutil.copy(vq_path, path)
    model = load_original(path, **heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert path.read_bytes() == vq_path.read_bytes()


def test_load_original__survives_save_and_load(
    vq_path: Path, vqgan_path: Path, expected: StateDict, heads: dict[str, int], tmp_path: Path
) -> None:
    model = load_original(vq_path, vqgan=vqgan_path, **heads)
    model.save_pretrained(tmp_path)
    again = StellarModel.from_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert_same_weights(again, model)
    assert_decodes_as_expected(again, expected)


def test_convert_checkpoint__gives_everything_or_the_base_model_alone(
    vq: StateDict, vqgan: StateDict, vq_path: Path, vqgan_path: Path, heads: dict[str, int]
) -> None:
    wanted_config, wanted = convert_original(vq, vqgan=vqgan, **heads)
    config, state_dict = convert_checkpoint(vq_path, vqgan=vqgan_path, decoder=True, base_only=False, **heads)
    assert config.to_dict() == wanted_config.to_dict()
    assert state_dict.keys() == wanted.keys()
    config, state_dict = convert_checkpoint(vq_path, vqgan=vqgan_path, decoder=True, base_only=True, **heads)
    assert config.to_dict() == wanted_config.to_dict()
    with torch.device("meta"):
        assert state_dict.keys() == StellarModel(config).state_dict().keys()
    for name, tensor in state_dict.items():
        torch.testing.assert_close(tensor, wanted[f"stellar.{name}"], rtol=0, atol=0)


def test_load_original__names_a_missing_file(vq_path: Path, heads: dict[str, int], tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.safetensors"
    with pytest.raises(FileNotFoundError, match=f"no such checkpoint file: {re.escape(str(missing))}"):
        load_original(missing, **heads)
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint file: .*nowhere\.bin"):
        load_original(vq_path, vqgan=tmp_path / "nowhere.bin", **heads)


def test_load_original__names_a_truncated_tokenizer(
    vq_path: Path, vqgan_path: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(vqgan_path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged"):
        load_original(vq_path, vqgan=path, **heads)


def test_load_original__refuses_files_that_are_swapped(vq_path: Path, vqgan_path: Path, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="STELLAR checkpoint"):
        load_original(vqgan_path, vqgan=vq_path, **heads)
    with pytest.raises(ValueError, match="MaskGIT-VQGAN"):
        load_original(vq_path, vqgan=vq_path, **heads)


def random_values(layout: dict[str, list[int]], generator: torch.Generator) -> StateDict:
    """Values with which activations keep their size: norms near 1, weights by their fan-in."""
    tensors: StateDict = {}
    for name, shape in layout.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            tensors[name] = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        elif name.endswith(("cls_token", "position_embeddings", "gaussian_matrix", "embedding.weight")):
            tensors[name] = values
        else:
            tensors[name] = values / max(1, values[0].numel()) ** 0.5
    return tensors


@pytest.mark.slow
def test_load_original__b16_survives_save_and_load(
    layouts: dict[str, dict[str, list[int]]], large_folder: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    original, tokenizer = large_folder / "stellar-b16.safetensors", large_folder / "vqgan.bin"
    save_file(random_values(layouts["stellar-b16"], generator), original)
    torch.save(random_values(layouts["maskgit-vqgan-imagenet-f16-256"], generator), tokenizer)
    image = torch.rand(1, 3, 224, 224, generator=generator)

    model = load_original(original, vqgan=tokenizer)
    model.save_pretrained(large_folder / "converted")
    with torch.inference_mode():
        encoding = model.encode(image)
        reconstruction = model.decode(*encoding)
    assert encoding.semantics.shape == (1, 16, 768)
    assert encoding.localization.shape == (1, 196, 16)
    assert reconstruction.shape == (1, 3, 224, 224)
    assert reconstruction.std() > 0.05  # an image, not a constant
    assert encoding.localization.std() > 0.001

    again = StellarModel.from_pretrained(large_folder / "converted")
    assert_same_weights(again, model)
    del model
    with torch.inference_mode():
        for actual, wanted in zip(again.encode(image), encoding, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
        torch.testing.assert_close(again.decode(*encoding), reconstruction, rtol=0, atol=0)


@pytest.mark.parametrize("part", ["checkpoint", "tokenizer"])
def test_load_original__names_file_and_tensor_that_is_not_finite(
    part: str, vq_path: Path, vqgan_path: Path, heads: dict[str, int], tmp_path: Path
) -> None:
    paths = {"checkpoint": vq_path, "tokenizer": vqgan_path}
    tensors = read_checkpoint(paths[part])
    name = {"checkpoint": "encoder.layernorm.weight", "tokenizer": "decoder.conv_out.bias"}[part]
    tensors[name] = torch.full_like(tensors[name], float("nan"))
    paths[part] = tmp_path / "nan.pt"
    torch.save(tensors, paths[part])
    ours = {"checkpoint": "encoder.norm.weight", "tokenizer": "tokenizer.conv_out.bias"}[part]
    with pytest.raises(ValueError, match=rf"{re.escape(str(paths['checkpoint']))}.* in {re.escape(ours)}$"):
        load_original(paths["checkpoint"], vqgan=paths["tokenizer"], **heads)


@pytest.mark.parametrize("prefix", ["", "stellar."])
def test_weights_of_this_library__need_no_conversion(tmp_path: Path, pixel_model: StellarModel, prefix: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in pixel_model.state_dict().items()}, path)
    for load in (load_original, StellarModel.from_pretrained):
        with pytest.raises(ValueError, match=r"need no conversion.*from_pretrained\(FOLDER\)"):
            load(path)
