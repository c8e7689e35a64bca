"""Blend and interpolate."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.editing import blend_encodings, interpolate_encodings, slerp
from stellar_hub.editing.blending import one_to_one
from stellar_hub.modeling import StellarEncoding
from stellar_hub.modeling.factorization import low_rank_product

from .conftest import make_encoding

fractions = st.floats(0, 1)


def dense(encoding: StellarEncoding) -> torch.Tensor:
    return low_rank_product(encoding.localization, encoding.semantics)


class TestBlend:
    @given(weight=fractions)
    def test_dense_map__is_the_weighted_sum(self, weight: float) -> None:
        first, second = make_encoding(1), make_encoding(2, num_tokens=3)
        blended = blend_encodings(first, second, weight)
        assert blended.semantics.shape[1] == 7
        expected = (1 - weight) * dense(first) + weight * dense(second)
        torch.testing.assert_close(dense(blended), expected, rtol=0, atol=1e-12)

    def test_weight_per_image__blends_each_its_own_way(self) -> None:
        first, second = make_encoding(1), make_encoding(2)
        blended = blend_encodings(first, second, torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(dense(blended), torch.stack([dense(first)[0], dense(second)[1]]))

    @pytest.mark.parametrize("weight", [-0.1, 1.1])
    def test_weight_out_of_range__is_refused(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight must be from 0 to 1, got"):
            blend_encodings(make_encoding(), make_encoding(), weight)

    def test_another_grid__is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"one grid of patches, got \(4, 5\) and \(5, 4\)"):
            blend_encodings(make_encoding(), make_encoding(grid=(5, 4)))


class TestInterpolate:
    @pytest.mark.parametrize(("own", "theirs"), [(4, 4), (2, 5), (5, 2)])
    def test_ends__are_the_two_images(self, own: int, theirs: int) -> None:
        first, second = make_encoding(1, num_tokens=own), make_encoding(2, num_tokens=theirs)
        for fraction, expected in ((0, first), (1, second)):
            torch.testing.assert_close(dense(interpolate_encodings(first, second, fraction)), dense(expected))

    def test_start__keeps_the_numbers_of_the_first(self) -> None:
        first = make_encoding(1)
        start = interpolate_encodings(first, make_encoding(2), 0)
        torch.testing.assert_close(start.semantics, first.semantics)
        torch.testing.assert_close(start.localization, first.localization)

    def test_the_same_image_in_another_order__changes_nothing(self) -> None:
        first = make_encoding(1)
        order = [2, 0, 3, 1]
        second = StellarEncoding(first.semantics[:, order], first.localization[..., order], first.grid_size)
        middle = interpolate_encodings(first, second, 0.5)
        torch.testing.assert_close(middle.semantics, first.semantics)
        torch.testing.assert_close(middle.localization, first.localization)

    def test_gradient__reaches_the_fraction(self) -> None:
        fraction = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        dense(interpolate_encodings(make_encoding(1), make_encoding(2), fraction)).square().sum().backward()
        assert fraction.grad is not None
        assert fraction.grad.isfinite()
        assert fraction.grad != 0

    @given(seed=st.integers(0, 10**6), own=st.integers(1, 6), theirs=st.integers(1, 6))
    def test_matching__is_one_to_one(self, seed: int, own: int, theirs: int) -> None:
        first, second = make_encoding(seed, num_tokens=own), make_encoding(seed + 1, num_tokens=theirs)
        partner = one_to_one(first.semantics, second.semantics)
        assert partner.sort(dim=1).values.tolist() == [list(range(max(own, theirs)))] * 2


class TestSlerp:
    @given(fraction=fractions, seed=st.integers(0, 10**6))
    def test_direction__turns_at_a_constant_speed_and_length_is_linear(self, fraction: float, seed: int) -> None:
        first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        between = slerp(first, second, fraction)
        lengths = [x.norm(dim=-1) for x in (first, second, between)]
        torch.testing.assert_close(lengths[2], (1 - fraction) * lengths[0] + fraction * lengths[1])

        def angle(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return torch.cosine_similarity(one, other, dim=-1).clamp(-1, 1).acos()

        torch.testing.assert_close(angle(first, between), fraction * angle(first, second), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("factor", [1.0, 3.0, -2.0, 0.0])
    def test_vectors_on_a_line__are_interpolated_linearly(self, factor: float) -> None:
        first = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        between = slerp(first, factor * first, 0.25)
        torch.testing.assert_close(between, (0.75 + 0.25 * factor) * first)
        between.sum().backward()
        assert first.grad is not None
        assert first.grad.isfinite().all()

    def test_half_types__are_kept(self) -> None:
        first = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        found = slerp(first.half(), first.flip(0).half(), 0.5)
        assert found.dtype == torch.float16
        torch.testing.assert_close(found.float(), slerp(first, first.flip(0), 0.5), rtol=0, atol=5e-3)

    @pytest.mark.parametrize("fraction", [-0.1, 1.01, math.nan, torch.tensor([0.5, 2.0, 0.5])])
    def test_fraction_out_of_range__is_refused(self, fraction: float | torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]"):
            slerp(torch.ones(3, 5), torch.ones(3, 5), fraction)

    def test_other_shapes__are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"got \(3, 5\) and \(3, 4\)"):
            slerp(torch.ones(3, 5), torch.ones(3, 4), 0.5)
