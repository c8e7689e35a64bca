"""Tests of `conversion/convert.py`."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stellar_hub.conversion import convert_original
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.encoder_stellar import StellarEncoder
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder

StateDict = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

PUBLISHED = ("stellar-b16", "stellar-l16", "stellar-h16", "stellar-b8", "stellar-b24")
TOKENIZER = {
    "tokenizer_hidden_channels": 128,
    "tokenizer_channel_mult": [1, 1, 2, 2, 4],
    "tokenizer_num_res_blocks": 2,
    "tokenizer_embed_dim": 256,
    "codebook_size": 1024,
}
LAYER = "encoder.encoder.layer.1"


def shapes_of(module: nn.Module, prefix: str) -> Shapes:
    return {f"{prefix}.{name}": tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def head_shapes(config: StellarConfig, prefix: str) -> Shapes:
    hidden, width = config.prototype_hidden_size, config.prototype_dim
    return {
        f"{prefix}.mlp.fc1.weight": (hidden, config.hidden_size),
        f"{prefix}.mlp.fc1.bias": (hidden,),
        f"{prefix}.mlp.fc2.weight": (width, hidden),
        f"{prefix}.mlp.fc2.bias": (width,),
        f"{prefix}.prototypes.weight": (config.num_prototypes, width),
    }


def expected_shapes(config: StellarConfig) -> Shapes:
    """Of base model, tokenizer's encoder and both clustering heads."""
    with torch.device("meta"):
        shapes = shapes_of(StellarModel(config), "stellar")
        if config.use_tokenizer:
            shapes |= shapes_of(MaskGitVQGANEncoder(config), "tokenizer_encoder")
    return shapes | head_shapes(config, "clustering_head") | head_shapes(config, "cls_clustering_head")


def actual_shapes(state_dict: StateDict) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def assert_same(actual: tuple[StellarConfig, StateDict], wanted: tuple[StellarConfig, StateDict]) -> None:
    """The same configuration, and the same tensors bit by bit."""
    assert actual[0].to_dict() == wanted[0].to_dict()
    assert actual[1].keys() == wanted[1].keys()
    for name, tensor in wanted[1].items():
        torch.testing.assert_close(actual[1][name], tensor, rtol=0, atol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_convert_original__converts_every_published_name(name: str, on_meta: Callable[[str], StateDict]) -> None:
    config, state_dict = convert_original(on_meta(name), vqgan=on_meta("vqgan"))
    assert config.use_tokenizer
    assert {field: getattr(config, field) for field in TOKENIZER} == TOKENIZER
    assert all(tensor.is_meta for tensor in state_dict.values())
    assert actual_shapes(state_dict) == expected_shapes(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_convert_original__converts_published_names_without_a_tokenizer(
    name: str, on_meta: Callable[[str], StateDict]
) -> None:
    config, state_dict = convert_original(on_meta(name))
    assert not config.use_tokenizer
    assert config.num_attention_heads == {"stellar-l16": 16, "stellar-h16": 16}.get(name, 12)
    assert config.patch_size == (14 if name == "stellar-h16" else 16)
    assert config.num_sparse_tokens == {"stellar-b8": 8, "stellar-b24": 24}.get(name, 16)
    assert actual_shapes(state_dict) == expected_shapes(config)


def test_convert_original__keeps_every_value(vq: StateDict, vqgan: StateDict, heads: dict[str, int]) -> None:
    _, state_dict = convert_original(vq, vqgan=vqgan, **heads)
    attention = [f"{LAYER}.attention.attention.{part}.weight" for part in ("query", "key", "value")]
    pairs = {
        "stellar.encoder.sparse_tokens": vq["sparse_tokens"],
        "stellar.encoder.blocks.1.attn.qkv.weight": torch.cat([vq[name] for name in attention]),
        "stellar.encoder.blocks.1.mlp.fc2.bias": vq[f"{LAYER}.output.dense.bias"],
        "stellar.encoder.blocks.1.attn.proj.bias": vq[f"{LAYER}.attention.output.dense.bias"],
        "stellar.localization.dense_proj.weight": vq["dense_proj.weight"],
        "stellar.localization.sparse_proj.weight": vq["sparse_proj.weight"],
        "stellar.decoder.position_code.frequencies": vq["position_embedding.positional_encoding_gaussian_matrix"],
        "stellar.decoder.head.bias": vq["reconstruction_head.bias"],
        "stellar.decoder.blocks.0.norm2.weight": vq["decoder.encoder.layer.0.layernorm_after.weight"],
        "stellar.tokenizer.codebook.weight": vqgan["quantize.embedding.weight"],
        "stellar.tokenizer.up.2.block.0.conv1.weight": vqgan["decoder.up.2.block.0.conv1.weight"],
        "tokenizer_encoder.down.3.block.0.nin_shortcut.weight": vqgan["encoder.down.3.block.0.nin_shortcut.weight"],
        "clustering_head.mlp.fc1.weight": vq["clustering_head.predictor.layers.0.weight"],
        "cls_clustering_head.prototypes.weight": vq["cls_cluster_head.layer.weight"],
    }
    for target, tensor in pairs.items():
        torch.testing.assert_close(state_dict[target], tensor, rtol=0, atol=0)


def test_convert_original__copies_nothing_but_query_key_and_value(
    pixel: StateDict, teacher: StateDict, vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    for inputs, tokenizer in ((pixel | teacher, None), (vq, vqgan)):
        known = {tensor.data_ptr() for tensor in (*inputs.values(), *(tokenizer or {}).values())}
        _, state_dict = convert_original(inputs, vqgan=tokenizer, **heads)
        copied = {name for name, tensor in state_dict.items() if tensor.data_ptr() not in known}
        assert copied == {name for name in state_dict if ".attn.qkv." in name}


def test_convert_original__leaves_its_input_alone(
    pixel: StateDict, teacher: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    inputs = pixel | teacher | {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}
    given, given_vqgan = dict(inputs), dict(vqgan)
    values = {name: tensor.clone() for name, tensor in inputs.items()}
    convert_original(inputs, vqgan=vqgan, **heads)
    assert list(inputs) == list(given)
    assert all(inputs[name] is given[name] for name in given)
    assert all(vqgan[name] is given_vqgan[name] for name in given_vqgan)
    assert len(vqgan) == len(given_vqgan)
    for name, value in values.items():
        torch.testing.assert_close(inputs[name], value, rtol=0, atol=0)


def test_convert_original__keeps_the_dtype(vq: StateDict, heads: dict[str, int]) -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in vq.items()}
    assert {tensor.dtype for tensor in convert_original(half, **heads)[1].values()} == {torch.bfloat16}


@pytest.mark.parametrize("head", ["vq", "pixel"])
def test_convert_original__understands_newer_vit_names(
    head: str,
    teacher: StateDict,
    newer_name: Callable[[str], str],
    heads: dict[str, int],
    request: pytest.FixtureRequest,
) -> None:
    original = request.getfixturevalue(head) | teacher
    newer = {newer_name(name): tensor for name, tensor in original.items()}
    assert "encoder.layers.0.attention.q_proj.weight" in newer
    assert "teacher_encoder.layers.1.mlp.fc2.bias" in newer
    assert_same(convert_original(newer, **heads), convert_original(original, **heads))


@pytest.mark.parametrize(
    ("prefix", "newer"),
    [
        ("model.", True),
        ("module.", False),
        ("_orig_mod.", False),
        ("_fsdp_wrapped_module.", False),
        ("module._orig_mod.model.", True),
    ],
)
def test_convert_original__understands_prefixes(
    prefix: str, newer: bool, vq: StateDict, newer_name: Callable[[str], str], heads: dict[str, int]
) -> None:
    wrapped = {prefix + (newer_name(name) if newer else name): tensor for name, tensor in vq.items()}
    assert_same(convert_original(wrapped, **heads), convert_original(vq, **heads))


def test_convert_original__understands_wrapped_blocks(vq: StateDict, heads: dict[str, int]) -> None:
    def wrap(name: str) -> str:
        return "_fsdp_wrapped_module." + re.sub(r"(layer\.\d+)\.", r"\1._fsdp_wrapped_module._orig_mod.", name)

    wrapped = {wrap(name): tensor for name, tensor in vq.items()}
    assert_same(convert_original(wrapped, **heads), convert_original(vq, **heads))


def test_convert_original__takes_the_teacher_along(pixel: StateDict, teacher: StateDict, heads: dict[str, int]) -> None:
    config, state_dict = convert_original(pixel | teacher, **heads)
    assert config.teacher_momentum == 0.996
    with torch.device("meta"):
        expected = shapes_of(StellarEncoder(config), "teacher.encoder")
    expected |= head_shapes(config, "teacher.clustering_head") | head_shapes(config, "teacher.cls_clustering_head")
    ours = {name: tensor for name, tensor in state_dict.items() if name.startswith("teacher.")}
    assert actual_shapes(ours) == expected
    torch.testing.assert_close(ours["teacher.encoder.sparse_tokens"], teacher["teacher_sparse_tokens"], rtol=0, atol=0)
    torch.testing.assert_close(
        ours["teacher.cls_clustering_head.prototypes.weight"], teacher["teacher_cls_head.layer.weight"], rtol=0, atol=0
    )
    base = convert_original(pixel, **heads)[1]
    assert_same((config, {name: state_dict[name] for name in base}), (config, base))


def test_convert_original__takes_the_tokenizer_inside(vq: StateDict, vqgan: StateDict, heads: dict[str, int]) -> None:
    whole = vq | {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}
    wanted = convert_original(vq, vqgan=vqgan, **heads)
    assert wanted[0].use_tokenizer
    assert_same(convert_original(whole, **heads), wanted)
    assert_same(convert_original({f"model.{name}": tensor for name, tensor in whole.items()}, **heads), wanted)


def test_convert_original__prefers_the_tokenizer_given(vq: StateDict, vqgan: StateDict, heads: dict[str, int]) -> None:
    inside = {f"tokenizer.{name}": torch.zeros_like(tensor) for name, tensor in vqgan.items()}
    inside["tokenizer.of_another_kind"] = torch.zeros(1)
    assert_same(convert_original(vq | inside, vqgan=vqgan, **heads), convert_original(vq, vqgan=vqgan, **heads))


def test_convert_original__leaves_the_tokenizer_of_a_pixel_model_out(
    pixel: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    wanted = convert_original(pixel, **heads)
    assert wanted[0].reconstruction_head == "pixel"
    assert actual_shapes(wanted[1]) == expected_shapes(wanted[0])
    assert_same(convert_original(pixel, vqgan=vqgan, **heads), wanted)
    inside = {f"tokenizer.{name}": tensor for name, tensor in vqgan.items()}
    assert_same(convert_original(pixel | inside, **heads), wanted)


@pytest.mark.parametrize("rest", [(), ("decoder_proj.", "position_embedding.", "reconstruction_head.")])
def test_convert_original__converts_features_only(
    rest: tuple[str, ...], vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    features = {name: tensor for name, tensor in vq.items() if not name.startswith(("decoder.", *rest))}
    config, state_dict = convert_original(features, vqgan=vqgan, num_attention_heads=3)
    assert not config.use_decoder
    assert not config.use_tokenizer
    assert actual_shapes(state_dict) == expected_shapes(config)
    whole = convert_original(vq, **heads)[1]
    assert_same((config, state_dict), (config, {name: whole[name] for name in whole if "stellar.decoder" not in name}))


def test_convert_original__refuses_two_tensors_of_one_name(vq: StateDict, heads: dict[str, int]) -> None:
    vq["model.dense_proj.bias"] = vq["dense_proj.bias"]
    with pytest.raises(ValueError, match=r"'dense_proj.bias' twice, as 'model.dense_proj.bias'"):
        convert_original(vq, **heads)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("pixel", "sparse_tokens"),
        ("pixel", "encoder.embeddings.patch_embeddings.projection.weight"),
        ("vq", "encoder.encoder.layer.0.attention.attention.key.bias"),
        ("vq", "position_embedding.positional_encoding_gaussian_matrix"),
        ("vq", "reconstruction_head.weight"),
        ("pixel", "cls_cluster_head.predictor.layers.2.bias"),
    ],
)
def test_convert_original__names_a_missing_tensor_alone(
    head: str, name: str, heads: dict[str, int], request: pytest.FixtureRequest
) -> None:
    tensors = request.getfixturevalue(head)
    del tensors[name]
    with pytest.raises(ValueError, match=rf": missing: {re.escape(name)}$"):
        convert_original(tensors, **heads)


@pytest.mark.parametrize(
    "name",
    [
        "teacher_sparse_tokens",
        "teacher_encoder.encoder.layer.1.output.dense.bias",
        "teacher_cls_head.layer.weight",
    ],
)
def test_convert_original__names_a_missing_and_a_misshapen_tensor_of_the_teacher(
    name: str, pixel: StateDict, teacher: StateDict, heads: dict[str, int]
) -> None:
    shape = tuple(teacher[name].shape)
    message = f": wrong shape: {name} is {(*shape, 1)}, expected {shape}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        convert_original(pixel | teacher | {name: teacher[name][..., None]}, **heads)
    del teacher[name]
    with pytest.raises(ValueError, match=rf": missing: {re.escape(name)}$"):
        convert_original(pixel | teacher, **heads)


@pytest.mark.parametrize(("name", "inside"), [("encoder.conv_in.weight", False), ("decoder.mid.0.norm1.bias", True)])
def test_convert_original__names_a_missing_tensor_of_the_tokenizer(
    name: str, inside: bool, vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    del vqgan[name]
    tensors = vq | {f"tokenizer.{tensor}": vqgan[tensor] for tensor in vqgan if inside}
    with pytest.raises(ValueError, match=rf": missing: tokenizer\.{re.escape(name)}$"):
        convert_original(tensors, vqgan=None if inside else vqgan, **heads)


@pytest.mark.parametrize("name", ["epoch", "encoder.mask_token"])
def test_convert_original__names_an_unknown_tensor(name: str, vq: StateDict, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf": unexpected: {re.escape(name)}$"):
        convert_original(vq | {name: torch.zeros(3)}, **heads)


def test_convert_original__names_an_unknown_tensor_of_the_tokenizer(
    vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    vqgan["decoder.up.0.attn.0.q.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r": unexpected: tokenizer\.decoder\.up\.0\.attn\.0\.q\.weight$"):
        convert_original(vq, vqgan=vqgan, **heads)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("sparse_tokens", (4, 60), (4, 48)),
        ("encoder.embeddings.position_embeddings", (1, 13, 48), (1, 10, 48)),
        (f"{LAYER}.attention.attention.value.weight", (96, 48), (48, 48)),
        ("encoder.encoder.layer.0.intermediate.dense.weight", (100, 48), (192, 48)),
        ("decoder.layernorm.bias", (), (32,)),
        ("cls_cluster_head.layer.weight", (65, 16), (64, 16)),
    ],
)
def test_convert_original__names_a_misshapen_tensor_alone(
    name: str, shape: tuple[int, ...], wanted: tuple[int, ...], vq: StateDict, heads: dict[str, int]
) -> None:
    tensors = vq | {name: torch.empty(shape, device="meta")}
    message = f": wrong shape: {name} is {shape}, expected {wanted}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        convert_original(tensors, **heads)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("quantize.embedding.weight", (47, 32), (48, 32)),
        ("quantize.embedding.weight", (1536,), (48, 32)),
        ("decoder.conv_out.bias", (4,), (3,)),
    ],
)
def test_convert_original__names_a_misshapen_tensor_of_the_tokenizer(
    name: str, shape: tuple[int, ...], wanted: tuple[int, ...], vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    message = f": wrong shape: tokenizer.{name} is {shape}, expected {wanted}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        convert_original(vq, vqgan=vqgan | {name: torch.empty(shape)}, **heads)


def test_convert_original__lists_everything_that_is_wrong(
    vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    for name in ("sparse_tokens", "decoder_proj.bias", "encoder.layernorm.weight"):
        del vq[name]
    del vqgan["decoder.conv_in.bias"]
    vq |= {"loss.weight": torch.zeros(1), "dense_proj.bias": torch.zeros(49), "decoder.layernorm.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match="missing: decoder_proj") as caught:
        convert_original(vq, vqgan=vqgan, **heads)
    assert str(caught.value).partition(": ")[2] == (
        "missing: decoder_proj.bias, encoder.layernorm.weight, sparse_tokens, tokenizer.decoder.conv_in.bias; "
        "unexpected: loss.weight; "
        "wrong shape: decoder.layernorm.bias is (3,), expected (32,), dense_proj.bias is (49,), expected (48,)"
    )


@pytest.mark.parametrize("index", [0, 1])
def test_convert_original__names_every_tensor_of_a_lost_layer(index: int, vq: StateDict, heads: dict[str, int]) -> None:
    lost = [name for name in vq if name.startswith(f"encoder.encoder.layer.{index}.")]
    # The last layer is missed only where something of it is left.
    kept = {name: tensor for name, tensor in vq.items() if name not in lost or name == lost[-1]}
    with pytest.raises(ValueError, match=r": missing") as caught:
        convert_original(kept, **heads)
    assert str(caught.value).partition("missing: ")[2] == ", ".join(sorted(lost[:-1]))


@pytest.mark.parametrize(
    ("argument", "width"),
    [("num_attention_heads", 48), ("decoder_num_attention_heads", 32)],
    ids=["encoder", "decoder"],
)
def test_convert_original__names_the_argument_for_an_unknown_width(
    argument: str, width: int, vq: StateDict, heads: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=rf"width {width} .*{argument}="):
        convert_original(vq, **{name: number for name, number in heads.items() if name != argument})


def test_convert_original__refuses_what_is_no_stellar_checkpoint(vqgan: StateDict, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"sparse_tokens, .* got encoder\.conv_in\.weight"):
        convert_original(vqgan, **heads)


def test_convert_original__refuses_a_checkpoint_as_tokenizer(vq: StateDict, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"MaskGIT-VQGAN: .*encoder\.conv_in\.weight"):
        convert_original(vq, vqgan=vq, **heads)


def test_convert_original__refuses_empty_dictionaries(vq: StateDict, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the checkpoint is empty"):
        convert_original({}, **heads)
    with pytest.raises(ValueError, match="vqgan is empty"):
        convert_original(vq, vqgan={}, **heads)


def test_convert_original__names_entries_that_are_no_tensors(
    vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=r"the checkpoint .*: sparse_tokens$"):
        convert_original(vq | {"sparse_tokens": 3}, **heads)
    with pytest.raises(ValueError, match=r"vqgan .*: decoder\.norm_out\.bias$"):
        convert_original(vq, vqgan=vqgan | {"decoder.norm_out.bias": [1.0]}, **heads)


def test_convert_original__says_what_to_pass_of_a_training_checkpoint(vq: StateDict, heads: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r'state_dict, epoch: .*"state_dict"'):
        convert_original({"state_dict": vq, "epoch": 3}, **heads)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8, torch.complex64])
@pytest.mark.parametrize("name", ["encoder.layernorm.weight", "decoder_proj.bias"])
def test_convert_original__names_a_tensor_that_is_not_of_floats(
    name: str, dtype: torch.dtype, vq: StateDict, heads: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=rf"float32.*: {re.escape(name)} is {str(dtype)[6:]}$"):
        convert_original(vq | {name: vq[name].to(dtype)}, **heads)


def test_convert_original__names_a_tensor_of_the_tokenizer_that_is_not_of_floats(
    vq: StateDict, vqgan: StateDict, heads: dict[str, int]
) -> None:
    name = "decoder.conv_out.bias"
    with pytest.raises(ValueError, match=r"tokenizer\.decoder\.conv_out\.bias is int32$"):
        convert_original(vq, vqgan=vqgan | {name: vqgan[name].int()}, **heads)


def test_convert_original__many_missing_tensors_are_counted(vq: StateDict, heads: dict[str, int]) -> None:
    kept = {name: tensor for name, tensor in vq.items() if ".layer." not in name}
    kept["encoder.encoder.layer.1000.x"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unexpected") as caught:
        convert_original(kept, **heads)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 4000
