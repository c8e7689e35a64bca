"""Similarity of sets of tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.measures.set_similarity import set_similarity


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def similarity_slowly(query: Tensor, other: Tensor, epsilon: float, num_iters: int) -> float:
    """One pair of sets, in float64, with Sinkhorn's iterations written with sums of exponentials."""
    cosine = [[float(a @ b / a.norm() / b.norm()) for b in other.double()] for a in query.double()]
    rows, columns = range(len(cosine)), range(len(cosine[0]))
    u, v = [0.0] * len(rows), [0.0] * len(columns)
    for _ in range(num_iters):
        u = [-epsilon * math.log(sum(math.exp((v[j] - 1 + cosine[i][j]) / epsilon) for j in columns)) for i in rows]
        v = [-epsilon * math.log(sum(math.exp((u[i] - 1 + cosine[i][j]) / epsilon) for i in rows)) for j in columns]
    plan = [[math.exp((u[i] + v[j] - 1 + cosine[i][j]) / epsilon) for j in columns] for i in rows]
    return sum(plan[i][j] * cosine[i][j] for i in rows for j in columns) / sum(map(sum, plan))


@given(seed=st.integers(0, 100), sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)), epsilon=st.floats(0.05, 1))
def test_similarity__is_the_mean_cosine_under_the_plan(seed: int, sizes: tuple[int, int], epsilon: float) -> None:
    queries, bank = draw(2, sizes[0], 5, seed=seed), draw(3, sizes[1], 5, seed=seed + 1)
    expected = [[similarity_slowly(query, other, epsilon, 5) for other in bank] for query in queries]
    found = set_similarity(queries, bank, epsilon, 5)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_similarity__of_a_set_with_itself_in_another_order_is_nearly_1() -> None:
    tokens = torch.eye(6)[None] + 0.1 * draw(1, 6, 6)
    shuffled = tokens[:, torch.tensor([3, 1, 5, 0, 2, 4])]
    assert set_similarity(tokens, shuffled, epsilon=0.02).item() > 0.999
    assert set_similarity(tokens, -tokens, epsilon=0.02).item() < 0.5


def test_similarity__does_not_depend_on_how_many_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = draw(3, 4, 5), draw(7, 4, 5, seed=1)
    together = set_similarity(queries, bank)
    monkeypatch.setattr("stellar_hub.measures.set_similarity.PAIRS_AT_A_TIME", 2)
    torch.testing.assert_close(set_similarity(queries, bank), together, rtol=1e-5, atol=1e-6)
    assert set_similarity(queries[:0], bank).shape == (0, 7)


@pytest.mark.parametrize(
    ("queries", "bank", "options", "message"),
    [
        ((2, 3, 4), (2, 3, 5), {}, "must have shapes"),
        ((2, 4), (2, 3, 4), {}, "must have shapes"),
        ((2, 3, 4), (0, 3, 4), {}, "must have shapes"),
        ((2, 3, 4), (2, 3, 4), {"epsilon": 0.0}, "epsilon must be above 0 and num_iters at least 1, got 0.0 and 5"),
        ((2, 3, 4), (2, 3, 4), {"num_iters": 0}, "num_iters at least 1"),
    ],
)
def test_similarity__refuses_what_does_not_fit(
    queries: tuple[int, ...], bank: tuple[int, ...], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        set_similarity(torch.ones(queries), torch.ones(bank), **options)  # type: ignore[arg-type]
