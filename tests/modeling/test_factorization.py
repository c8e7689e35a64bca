import math

import pytest
import torch

from stellar_hub.modeling.factorization import StellarLocalization, localize, low_rank_product, renormalize


class TestRenormalize:
    def test_part_of_a_softmax__becomes_the_softmax_of_the_part(self) -> None:
        logits = 10 * torch.randn(2, 9, 5)
        whole, expected = logits.softmax(dim=-1), logits[..., :3].softmax(dim=-1)
        torch.testing.assert_close(renormalize(whole[..., :3]), expected)
        kept = torch.tensor([[True] * 3 + [False] * 2] * 2)
        torch.testing.assert_close(renormalize(whole, kept)[..., :3], expected)
        assert (renormalize(whole, kept)[..., 3:] == 0).all()

    def test_tokens_without_a_share__share_evenly(self) -> None:
        result = renormalize(torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float16)[..., :2])
        assert result.dtype == torch.float16
        assert result.tolist() == [[[0.5, 0.5]]]


class TestLocalize:
    def test_values__are_the_softmax_of_cosines_over_temperature(self) -> None:
        query = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
        key = torch.tensor([[[5.0, 0.0], [0.0, 0.1]]])
        diagonal = 1 / (1 + math.exp(-2))  # cosines 1 and 0 at temperature 0.5
        expected = torch.tensor([[[diagonal, 1 - diagonal], [1 - diagonal, diagonal], [0.5, 0.5]]])
        torch.testing.assert_close(localize(query, key, temperature=0.5), expected, rtol=1e-6, atol=1e-6)

    def test_scale__does_not_matter(self) -> None:
        query, key = torch.randn(2, 9, 16), torch.randn(2, 4, 16)
        torch.testing.assert_close(
            localize(1000 * query, 0.01 * key, 0.06), localize(query, key, 0.06), rtol=1e-4, atol=1e-6
        )

    def test_zero_vectors__give_an_even_row(self) -> None:
        result = localize(torch.zeros(1, 3, 8), torch.randn(1, 5, 8), temperature=0.06)
        torch.testing.assert_close(result, torch.full((1, 3, 5), 0.2), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_input__is_computed_in_float32(self, dtype: torch.dtype) -> None:
        query, key = torch.randn(2, 9, 16).to(dtype), torch.randn(2, 4, 16).to(dtype)
        result = localize(query, key, 0.06)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, localize(query.float(), key.float(), 0.06), rtol=0, atol=0)

    def test_float64__stays_float64(self) -> None:
        query, key = torch.randn(1, 9, 16).double(), torch.randn(1, 4, 16).double()
        assert localize(query, key, 0.06).dtype == torch.float64

    def test_autocast__does_not_coarsen_it(self) -> None:
        query, key = torch.randn(2, 9, 16), torch.randn(2, 4, 16)
        expected = localize(query, key, 0.06)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = localize(query, key, 0.06)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, rtol=0, atol=0)

    def test_gradient__is_that_of_finite_differences(self) -> None:
        query = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
        key = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda q, k: localize(q, k, 0.5), (query, key))


class TestLowRankProduct:
    def test_values__weigh_tokens_by_place(self) -> None:
        localization = torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
        semantics = torch.tensor([[[4.0, 8.0, 0.0], [0.0, 4.0, 4.0]]])
        expected = torch.tensor([[[4.0, 8.0, 0.0], [1.0, 5.0, 3.0]]])
        torch.testing.assert_close(low_rank_product(localization, semantics), expected, rtol=0, atol=0)

    def test_rank__is_at_most_the_number_of_tokens(self) -> None:
        dense = low_rank_product(torch.rand(1, 36, 4).double(), torch.randn(1, 4, 48).double())
        assert torch.linalg.matrix_rank(dense[0]).item() == 4


class TestModule:
    def test_forward__compares_the_two_projections(self) -> None:
        module = StellarLocalization(hidden_size=8, spatial_temp=0.1)
        patches, tokens = torch.randn(2, 6, 8), torch.randn(2, 3, 8)
        expected = localize(module.dense_proj(patches), module.sparse_proj(tokens), 0.1)
        torch.testing.assert_close(module(patches, tokens), expected, rtol=0, atol=0)
        swapped = localize(module.sparse_proj(patches), module.dense_proj(tokens), 0.1)
        assert (swapped - expected).abs().max() > 0.01

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_result__has_the_dtype_of_the_tokens(self, dtype: torch.dtype) -> None:
        module = StellarLocalization(hidden_size=8, spatial_temp=0.06).to(dtype)
        result = module(torch.randn(1, 6, 8).to(dtype), torch.randn(1, 3, 8).to(dtype))
        assert result.dtype == dtype
        torch.testing.assert_close(result.double().sum(dim=-1), torch.ones(1, 6).double(), rtol=0, atol=0.01)
