"""Matching of token sets."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from stellar_hub.matching import match_tokens, transport_plan


def test_match_tokens__meets_the_authors_numbers(golden_dir: Path) -> None:
    expected = load_file(golden_dir / "expected.safetensors")
    index, plan = match_tokens(expected["match.pred"], expected["match.target"])
    torch.testing.assert_close(plan, expected["match.plan"], rtol=1e-5, atol=1e-6)
    assert torch.equal(index, expected["match.index"])


def test_match_tokens__finds_a_permutation() -> None:
    target = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 4, 1, 2])
    index, _ = match_tokens(target[:, order], target)
    assert torch.equal(index, order.expand(3, 5))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_transport_plan__columns_sum_to_one(num_rows: int, num_columns: int, seed: int) -> None:
    cost = 3 * torch.rand(2, num_rows, num_columns, generator=torch.Generator().manual_seed(seed))
    plan = transport_plan(cost, epsilon=0.1, num_iters=5)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, num_columns), rtol=1e-4, atol=1e-5)


def test_match_tokens__passes_no_gradient() -> None:
    predicted = torch.randn(1, 3, 4, requires_grad=True)
    _, plan = match_tokens(predicted, torch.randn(1, 3, 4))
    assert not plan.requires_grad


def test_match_tokens__is_computed_in_float32_for_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(2, 4, 8, generator=generator).bfloat16() for _ in range(2))
    assert match_tokens(predicted, target)[1].dtype == torch.float32
    torch.testing.assert_close(
        match_tokens(predicted, target)[1], match_tokens(predicted.float(), target.float())[1], rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("shapes", [((2, 3, 4), (1, 3, 4)), ((3, 4), (3, 4))])
def test_match_tokens__refuses_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"\(B, q, d\) and \(B, t, d\)"):
        match_tokens(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"num_iters": 0}])
def test_match_tokens__refuses_parameters_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"epsilon .* num_iters .* got"):
        match_tokens(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), **options)  # type: ignore[arg-type]
