"""What the decoder is to predict."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder, nearest_codes
from stellar_hub.training.objectives.reconstruction import code_loss, pixel_loss, target_codes

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
