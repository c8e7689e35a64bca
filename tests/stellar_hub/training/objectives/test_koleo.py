"""KoLeo."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stellar_hub.training.objectives import koleo_loss


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
