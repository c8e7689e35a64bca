"""Tests of `conversion/names.py`."""

import re
from collections.abc import Callable

import pytest
import torch
from stellar_hub.conversion.names import published_name, with_published_names
from torch import Tensor
from transformers import ViTConfig, ViTModel

WRAPPED = (
    "model.{}",
    "module.{}",
    "_orig_mod.{}",
    "_fsdp_wrapped_module.{}",
    "model.module.{}",
    "module.model.{}",
    "module._orig_mod.model.{}",
    "model._orig_mod._fsdp_wrapped_module.{}",
)


@pytest.mark.parametrize("name", ["stellar-b16", "stellar-l16", "stellar-h16", "stellar-b8", "stellar-b24"])
def test_published_name__leaves_published_names_alone(name: str, layouts: dict[str, dict[str, list[int]]]) -> None:
    assert {tensor: published_name(tensor) for tensor in layouts[name]} == {tensor: tensor for tensor in layouts[name]}


def test_published_name__leaves_the_tokenizer_alone(layouts: dict[str, dict[str, list[int]]]) -> None:
    names = [f"tokenizer.{name}" for name in layouts["maskgit-vqgan-imagenet-f16-256"]]
    names.append("tokenizer.decoder.attention.q_proj.weight")
    assert [published_name(name) for name in names] == names


@pytest.mark.parametrize("pattern", WRAPPED)
def test_published_name__takes_wrappers_off_the_front(pattern: str) -> None:
    for name in ("sparse_tokens", "encoder.encoder.layer.0.output.dense.bias", "tokenizer.decoder.conv_in.weight"):
        assert published_name(pattern.format(name)) == name


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_published_name__takes_wrappers_out_of_the_middle(wrapper: str) -> None:
    wrapped = f"model.encoder.encoder.layer.3.{wrapper}.attention.{wrapper}.output.dense.weight"
    assert published_name(wrapped) == "encoder.encoder.layer.3.attention.output.dense.weight"


@pytest.mark.parametrize("name", ["encoder.submodule.weight", "my_model.weight", "remodel.x", "encoder.model.weight"])
def test_published_name__leaves_names_that_only_resemble_wrappers(name: str) -> None:
    assert published_name(name) == name


@pytest.mark.parametrize("prefix", ["", "model."])
def test_published_name__undoes_the_names_of_newer_transformers(
    prefix: str,
    layouts: dict[str, dict[str, list[int]]],
    teacher: dict[str, Tensor],
    newer_name: Callable[[str], str],
) -> None:
    names = [*layouts["stellar-b16"], *teacher]
    newer = [newer_name(name) for name in names]
    assert sum(old != new for old, new in zip(names, newer, strict=True)) == 16 * (12 + 6 + 2)
    assert [published_name(prefix + name) for name in newer] == names


def test_published_name__undoes_newer_names_behind_the_older_path() -> None:
    assert published_name("encoder.encoder.layers.2.mlp.fc2.bias") == "encoder.encoder.layer.2.output.dense.bias"


@pytest.mark.parametrize("source", ["encoder", "teacher_encoder"])
def test_published_name__understands_the_installed_transformers(
    source: str, layouts: dict[str, dict[str, list[int]]]
) -> None:
    with torch.device("meta"):
        vit = ViTModel(ViTConfig(num_hidden_layers=12))
    published = {name for name in layouts["stellar-b16"] if name.startswith("encoder.")}
    expected = {name.replace("encoder.", f"{source}.", 1) for name in published}
    assert {published_name(f"{source}.{name}") for name in vit.state_dict()} == expected


def test_with_published_names__keeps_the_tensors(vq: dict[str, Tensor], newer_name: Callable[[str], str]) -> None:
    renamed = with_published_names({f"model.{newer_name(name)}": tensor for name, tensor in vq.items()})
    assert list(renamed) == list(vq)
    assert all(renamed[name] is vq[name] for name in vq)


@pytest.mark.parametrize("other", ["model.sparse_tokens", "module.sparse_tokens", "module.model.sparse_tokens"])
def test_with_published_names__refuses_two_of_one_name(other: str) -> None:
    tensor = torch.zeros(1)
    expected = re.escape(f"'{other}' and 'sparse_tokens' are both 'sparse_tokens'")
    with pytest.raises(ValueError, match=expected):
        with_published_names({"sparse_tokens": tensor, other: tensor})


def test_with_published_names__refuses_older_and_newer_names_together(
    vq: dict[str, Tensor], newer_name: Callable[[str], str]
) -> None:
    name = "encoder.encoder.layer.1.intermediate.dense.bias"
    with pytest.raises(ValueError, match=re.escape(f"{newer_name(name)!r} and {name!r} are both {name!r}")):
        with_published_names(vq | {newer_name(name): vq[name]})
