"""How features spread: entropies, ranks, alignment and uniformity."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.measures import (
    alignment,
    diffusion_eigenvalues,
    diffusion_spectral_entropy,
    effective_rank,
    median_distance,
    normalized_entropy,
    singular_values,
    uniformity,
    vendi_score,
    without_rounding,
)


def test_entropy__runs_from_one_to_all() -> None:
    weights = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [7, 7, 7, 7], [0, 0, 0, 0]])
    expected = torch.tensor([0, 0.5, 1, 0])
    torch.testing.assert_close(normalized_entropy(weights), expected, rtol=1e-5, atol=1e-6)
    assert normalized_entropy(weights[:, :1]).tolist() == [0] * 4


@given(seed=st.integers(0, 100), number=st.integers(2, 12), width=st.integers(1, 12))
def test_rank__is_the_formula_by_numpys_decomposition(seed: int, number: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, width)) + 3
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    found = singular_values(torch.from_numpy(rows))
    torch.testing.assert_close(found, torch.from_numpy(values), rtol=1e-6, atol=1e-6)
    assert effective_rank(torch.from_numpy(rows)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_values_of_rounding__are_0(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((shape[0], 5), (5, shape[1]))
    )
    rows = (left @ right + 7).to(dtype)
    values = singular_values(rows)
    kept = without_rounding(values, rows)
    assert (values[5:] > 0).any()  # else there is nothing to take away
    assert kept.count_nonzero() == 5
    torch.testing.assert_close(kept[:5], values[:5], rtol=0, atol=0)


def test_values_of_rounding__are_all_0_for_equal_rows() -> None:
    rows = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)).expand(9, 30)
    assert not without_rounding(singular_values(rows), rows).any()


@pytest.mark.parametrize("measure", [effective_rank, vendi_score])
def test_measures__are_of_each_image_where_there_are_several(measure: Callable[[Tensor], Tensor]) -> None:
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(measure(tokens), torch.stack([measure(each) for each in tokens]))


@pytest.mark.parametrize("shape", [(1, 4), (10, 4), (3, 16)])
def test_rank__of_collapsed_features_is_1(shape: tuple[int, int]) -> None:
    for value in (0.0, 7.3, 1000.0):
        assert effective_rank(torch.full(shape, value)).item() == 1


def test_rank__of_a_line_is_1() -> None:
    line = torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, 3.0])
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rank__is_nan_only_where_a_row_is_not_finite(value: float) -> None:
    tokens = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = effective_rank(tokens[1])
    tokens[0, 0, 0] = value
    torch.testing.assert_close(effective_rank(tokens), torch.stack([expected * math.nan, expected]), equal_nan=True)


def test_rank__of_even_directions_is_their_number() -> None:
    rows = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(rows).item() == pytest.approx(5)


def entropy_slowly(rows: np.ndarray, sigma: float, t: int) -> float:
    """The paper's text: Gaussian kernel, anisotropic kernel, rows normalized: a matrix that is not symmetric."""
    number = len(rows)
    gaussian = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            square = ((rows[i] - rows[j]) ** 2).sum()
            gaussian[i, j] = math.exp(-square / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    sums = gaussian.sum(axis=1)
    kernel = gaussian / np.sqrt(np.outer(sums, sums))
    diffusion = kernel / kernel.sum(axis=1, keepdims=True)
    powers = np.abs(np.linalg.eigvals(diffusion)) ** t
    shares = powers / powers.sum()
    return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())


@given(seed=st.integers(0, 100), number=st.integers(2, 12), sigma=st.floats(0.3, 5), t=st.integers(1, 3))
def test_diffusion_entropy__is_the_papers_text(seed: int, number: int, sigma: float, t: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, 3))
    found = diffusion_spectral_entropy(torch.from_numpy(rows), sigma, t)
    assert found == pytest.approx(entropy_slowly(rows, sigma, t), abs=1e-6)


def test_eigenvalues__are_those_of_a_stochastic_matrix() -> None:
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    values = diffusion_eigenvalues(rows, 1.0)
    assert values[-1].item() == pytest.approx(1)
    assert (values.abs() <= 1 + 1e-12).all()


def test_diffusion_entropy__reaches_the_ends_of_its_range() -> None:
    assert diffusion_spectral_entropy(torch.ones(8, 3), 1.0) == pytest.approx(0, abs=1e-6)
    far_apart = 100 * torch.eye(8)
    assert diffusion_spectral_entropy(far_apart, 1.0) == pytest.approx(math.log(8))
    with pytest.raises(ValueError, match=r"sigma .* got 0"):
        diffusion_spectral_entropy(far_apart, 0.0)


def test_median_distance__fits_the_scale() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_distance(rows) == 2
    assert median_distance(10 * rows) == 20
    assert median_distance(torch.ones(3, 2)) == 1
    scaled = diffusion_spectral_entropy(10 * rows, median_distance(10 * rows))
    assert scaled == pytest.approx(diffusion_spectral_entropy(rows, median_distance(rows)))


@given(seed=st.integers(0, 100), number=st.integers(1, 12), width=st.integers(1, 12))
def test_score__is_the_entropy_of_the_whole_kernel(seed: int, number: int, width: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(number, width))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / number)
    values = values[values > 1e-12]
    assert vendi_score(torch.from_numpy(rows)).item() == pytest.approx(
        np.exp(-(values * np.log(values)).sum()), abs=1e-6
    )


def test_score__counts_what_differs() -> None:
    different = torch.eye(6)[:4]
    assert vendi_score(different).item() == pytest.approx(4)
    assert vendi_score(different.repeat(3, 1)).item() == pytest.approx(4)
    assert vendi_score(torch.ones(7, 3)).item() == pytest.approx(1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(seed=st.integers(0, 100), number=st.integers(2, 9), alpha=st.sampled_from([1.0, 2.0]), t=st.floats(0.5, 4))
def test_alignment_and_uniformity__are_the_formulas(seed: int, number: int, alpha: float, t: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(number, 4)), rng.normal(size=(number, 4))
    expected = np.mean([np.linalg.norm(a - b) ** alpha for a, b in zip(unit(x), unit(y), strict=True)])
    assert alignment(torch.from_numpy(x), torch.from_numpy(y), alpha) == pytest.approx(expected, abs=1e-9)
    squared = np.square(unit(x)[:, None] - unit(x)[None]).sum(axis=2)
    kernel = np.exp(-t * squared)[~np.eye(number, dtype=bool)]
    assert uniformity(torch.from_numpy(x), t) == pytest.approx(math.log(kernel.mean()), abs=1e-9)


def test_uniformity__does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    together = uniformity(rows)
    monkeypatch.setattr("stellar_hub.measures.spread.ROWS_AT_A_TIME", 7)
    assert uniformity(rows) == pytest.approx(together, abs=1e-12)


def test_alignment_and_uniformity__reach_the_ends_of_their_ranges() -> None:
    same, opposite = torch.ones(4, 3), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert alignment(same, 5 * same) == pytest.approx(0, abs=1e-12)
    assert alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0, abs=1e-9)
    assert uniformity(opposite) == pytest.approx(-8)
    with pytest.raises(ValueError, match=r"at least 2 .* got 1"):
        uniformity(torch.ones(1, 3))
