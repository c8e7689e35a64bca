"""The numbers of the authors' implementation (`tests/data/golden`), through `load_original`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.conversion import convert_original, load_original
from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.captured_calls import CapturedCalls
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.modeling.inference_variants import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    GELU_IN_PRODUCT,
    PACKED_AND_EXPLICIT,
    UNFOLDED,
)
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder, nearest_codes
from tests.modeling.fake_capture import FakeCapture

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
EXPECTED = load_file(GOLDEN / "expected.safetensors")
NAMES = sorted(name for name in EXPECTED if name.startswith(("vq.", "pixel.")) and not name.endswith(".image"))
HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}
GRID = (4, 4)


def encoder_values(model: StellarModel, pixel_values: Tensor, prefix: str) -> dict[str, Tensor]:
    out = model(pixel_values)
    return {
        f"{prefix}.cls": out.cls_token[:, None],
        f"{prefix}.sparse": out.last_hidden_state,
        f"{prefix}.dense": out.patch_features,
        f"{prefix}.spatial": out.localization,
        f"{prefix}.lowrank": low_rank_product(out.localization, out.last_hidden_state),
    }


def decoder_values(model: StellarModel, pixel_values: Tensor, prefix: str) -> dict[str, Tensor]:
    semantics, localization = model.encode(pixel_values)
    hidden_states = model.decoder(low_rank_product(localization, semantics), GRID)
    head = model.decoder.predict(hidden_states, GRID)
    return {f"{prefix}.decoder_hidden": hidden_states, f"{prefix}.head": head}


def tokenizer_encoder() -> MaskGitVQGANEncoder:
    config, tensors = convert_original(
        load_file(GOLDEN / "original-vq.safetensors"), vqgan=read_checkpoint(GOLDEN / "vqgan.bin"), **HEADS
    )
    encoder = MaskGitVQGANEncoder(config)
    prefix = "tokenizer_encoder."
    encoder.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return encoder


def tokenizer_values(model: StellarModel, pixel_values: Tensor, logits: Tensor) -> dict[str, Tensor]:
    targets = nearest_codes(tokenizer_encoder()(pixel_values), model.tokenizer.codebook.weight)
    return {
        "vq.codes": logits.argmax(dim=-1),
        "vq.reconstruction": model.decode(*model.encode(pixel_values)),
        "vq.target_codes": targets.flatten(1),
        "vq.tokenizer_roundtrip": model.tokenizer(targets),
        "vq.recon_loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
    }


def compute(change: Callable[[StellarModel], object]) -> dict[str, Tensor]:
    """All values of this library, by their names in `expected.safetensors`; models are changed first."""
    image = EXPECTED["image"]
    with torch.no_grad():
        vq = load_original(GOLDEN / "original-vq.safetensors", vqgan=GOLDEN / "vqgan.bin", **HEADS)
        change(vq)
        values = encoder_values(vq, image, "vq.native")
        for size in ("larger", "smaller", "tall"):
            values |= encoder_values(vq, EXPECTED[f"vq.{size}.image"], f"vq.{size}")
        values |= decoder_values(vq, image, "vq")
        values |= tokenizer_values(vq, image, values["vq.head"])

        pixel = load_original(GOLDEN / "original-pixel.safetensors", **HEADS)
        change(pixel)
        values |= encoder_values(pixel, image, "pixel.native") | decoder_values(pixel, image, "pixel")
        values["pixel.recon_loss"] = F.mse_loss(values["pixel.head"], image)
    return values


def change_for_a_cpu(model: StellarModel) -> None:
    """All that `optimize_for_inference` may choose on a CPU, whether it is faster here or not."""
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        PACKED_AND_EXPLICIT.apply(block)


def change_for_a_gpu(model: StellarModel) -> None:
    """What it may choose on a GPU and a CPU can run; calls are replayed by a fake."""
    model.eval().requires_grad_(False)
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        GELU_IN_PRODUCT.apply(block)
    UNFOLDED.apply(model.encoder.patch_embed)
    if model.tokenizer is not None:
        CHANNELS_LAST.apply(model.tokenizer)
        CHANNELS_FIRST.apply(model.tokenizer)
    model._captured = CapturedCalls(FakeCapture(), default="graph")


def compile_calls(model: StellarModel) -> None:
    """Calls compiled as a whole, replayed by a fake."""
    model.eval().requires_grad_(False)
    model._captured = CapturedCalls(FakeCapture(), default="whole")


@pytest.fixture(scope="module")
def computed() -> dict[str, Tensor]:
    """All values of this library."""
    return compute(lambda model: None)


@pytest.fixture(scope="module")
def computed_on_a_cpu() -> dict[str, Tensor]:
    """The same of models made faster for a CPU."""
    return compute(change_for_a_cpu)


@pytest.fixture(scope="module")
def computed_on_a_gpu() -> dict[str, Tensor]:
    """The same of models made faster for a GPU."""
    return compute(change_for_a_gpu)


@pytest.mark.parametrize("name", NAMES)
def test_golden__value_is_the_authors(computed: dict[str, Tensor], name: str) -> None:
    expected = EXPECTED[name]
    if not expected.is_floating_point():
        torch.testing.assert_close(computed[name], expected, rtol=0, atol=0)
    else:
        torch.testing.assert_close(computed[name], expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_golden__value_is_the_authors_also_when_made_faster(computed_on_a_cpu: dict[str, Tensor], name: str) -> None:
    test_golden__value_is_the_authors(computed_on_a_cpu, name)


@pytest.mark.parametrize("name", NAMES)
def test_golden__value_is_the_authors_also_by_the_ways_of_a_gpu(
    computed_on_a_gpu: dict[str, Tensor], name: str
) -> None:
    test_golden__value_is_the_authors(computed_on_a_gpu, name)


def encoded_and_decoded(change: Callable[[StellarModel], object]) -> dict[str, Tensor]:
    """What `encode` and `decode` themselves give, by the names of the same values."""
    model = load_original(GOLDEN / "original-vq.safetensors", vqgan=GOLDEN / "vqgan.bin", **HEADS)
    change(model)
    with torch.no_grad():
        semantics, localization = model.encode(EXPECTED["image"])
        return {
            "vq.native.sparse": semantics,
            "vq.native.spatial": localization,
            "vq.reconstruction": model.decode(semantics, localization),
        }


@pytest.mark.parametrize("change", [change_for_a_gpu, pytest.param(compile_calls, marks=pytest.mark.slow)])
def test_golden__replayed_calls_give_the_authors_values(change: Callable[[StellarModel], object]) -> None:
    for name, value in encoded_and_decoded(change).items():
        test_golden__value_is_the_authors({name: value}, name)


def test_golden__four_input_sizes_are_among_them() -> None:
    grids = {size: EXPECTED[f"vq.{size}.image"].shape[-2:] for size in ("larger", "smaller", "tall")}
    assert grids == {"larger": (48, 40), "smaller": (16, 16), "tall": (64, 32)}
    assert EXPECTED["image"].shape[-2:] == (32, 32)


def test_golden__no_value_of_either_head_is_left_unchecked(computed: dict[str, Tensor]) -> None:
    given = {name for name in EXPECTED if name.startswith(("vq.", "pixel."))}
    assert given - computed.keys() == {"vq.larger.image", "vq.smaller.image", "vq.tall.image"}
    assert computed.keys() == set(NAMES)
