"""KoLeo, and the losses of the reconstruction."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder, nearest_codes
from stellar_hub.training.objectives import code_loss, koleo_loss, pixel_loss, target_codes


def test_koleo_loss__meets_the_authors_number(golden_dir: Path) -> None:
    expected = load_file(golden_dir / "expected.safetensors")
    torch.testing.assert_close(koleo_loss(expected["koleo.tokens"])[None], expected["koleo.loss"], rtol=1e-5, atol=0)


def test_koleo_loss__of_two_opposite_tokens_is_zero() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    torch.testing.assert_close(koleo_loss(tokens), torch.tensor(0.0), rtol=0, atol=1e-6)


def test_koleo_loss__falls_when_tokens_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    close = torch.ones(2, 4, 8) + 0.01 * torch.randn(2, 4, 8, generator=generator)
    assert koleo_loss(torch.randn(2, 4, 8, generator=generator)) < koleo_loss(close)


def test_koleo_loss__stays_finite_with_equal_tokens() -> None:
    tokens = torch.ones(1, 3, 4, requires_grad=True)
    koleo_loss(tokens).backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


def test_koleo_loss__is_computed_in_float32_for_bfloat16() -> None:
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert koleo_loss(tokens).dtype == torch.float32
    torch.testing.assert_close(koleo_loss(tokens), koleo_loss(tokens.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 8), (4, 8)])
def test_koleo_loss__refuses_tokens_without_a_neighbour(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, r, d\) with r >= 2"):
        koleo_loss(torch.ones(shape))


def test_koleo_loss__is_the_same_under_autocast() -> None:
    tokens = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = koleo_loss(tokens)  # in bfloat16 other tokens would be the nearest
    torch.testing.assert_close(found, koleo_loss(tokens), rtol=0, atol=0)


Tokenizer = tuple[MaskGitVQGANEncoder, Tensor]


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokenizer(build_pretraining_model: Callable[..., Any]) -> Tokenizer:
    """Encoder, eight pixels to a cell, and codebook."""
    model = build_pretraining_model(reconstruction_head="vq")
    return model.tokenizer_encoder, model.stellar.tokenizer.codebook.weight


def test_code_loss__is_the_mean_negative_log_probability() -> None:
    logits, codes = random(2, 6, 5), torch.tensor([[[0, 1, 2], [3, 4, 0]], [[4, 4, 4], [0, 0, 0]]])
    chosen = logits.log_softmax(dim=-1).gather(2, codes.flatten(1)[..., None])
    torch.testing.assert_close(code_loss(logits, codes), -chosen.mean(), rtol=1e-6, atol=0)


def test_pixel_loss__is_the_mean_squared_error() -> None:
    prediction, image = random(1, 3, 4, 4) + 0.1, random(1, 3, 4, 4)
    torch.testing.assert_close(pixel_loss(prediction, image), torch.tensor(0.01), rtol=1e-5, atol=0)


def test_pixel_loss__takes_uint8_as_256_steps_of_one() -> None:
    image = (random(1, 3, 4, 4) * 255).byte()
    found = pixel_loss(torch.zeros(1, 3, 4, 4), image)
    torch.testing.assert_close(found, (image / 255).square().mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("given", "computed"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_losses__are_computed_in_at_least_float32(given: torch.dtype, computed: torch.dtype) -> None:
    assert pixel_loss(random(1, 3, 4, 4).to(given), random(1, 3, 4, 4)).dtype == computed
    assert code_loss(random(1, 4, 5).to(given), torch.zeros(1, 2, 2, dtype=torch.int64)).dtype == computed


def test_target_codes__are_the_tokenizers(tokenizer: Tokenizer) -> None:
    image = random(2, 3, 16, 32)
    expected = nearest_codes(tokenizer[0](image), tokenizer[1])
    found = target_codes(*tokenizer, image, (2, 4))
    assert found.dtype == torch.int64
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(found.unique()) > 1


@pytest.mark.parametrize("patch", [4, 7, 16])
def test_target_codes__of_another_patch_are_those_of_the_resized_image(tokenizer: Tokenizer, patch: int) -> None:
    image = random(1, 3, 3 * patch, 2 * patch)
    resized = F.interpolate(image, size=(24, 16), mode="bicubic", align_corners=False)
    found = target_codes(*tokenizer, image, (3, 2))
    torch.testing.assert_close(found, nearest_codes(tokenizer[0](resized), tokenizer[1]), rtol=0, atol=0)


@pytest.mark.parametrize("patch", [8, 4])
def test_target_codes__of_uint8_are_those_of_floats(tokenizer: Tokenizer, patch: int) -> None:
    image = (random(1, 3, 4 * patch, 4 * patch) * 255).byte()
    torch.testing.assert_close(
        target_codes(*tokenizer, image, (4, 4)), target_codes(*tokenizer, image / 255, (4, 4)), rtol=0, atol=0
    )
