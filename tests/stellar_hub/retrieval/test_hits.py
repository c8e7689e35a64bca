import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.retrieval import recall_at, without_self
from stellar_hub.retrieval.hits import best_hits, best_places, no_hits, unit_queries


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 7))
def test_best_hits__do_not_depend_on_the_chunks(scores: list[int], k: int, size: int) -> None:
    values, rows = torch.tensor([scores], dtype=torch.float32), torch.arange(len(scores))
    found = no_hits(1)
    for start in range(0, len(scores), size):
        found = best_hits(found, rows[start : start + size], values[:, start : start + size], k)
    assert found.rows[0].tolist() == sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


@given(
    scores=st.lists(
        st.sampled_from([-torch.inf, -2.5, -1e-40, -0.0, 0.0, 1e-40, 0.3, 0.30000001, 16.0, torch.inf]), max_size=200
    ),
    k=st.integers(1, 20),
)
def test_best_places__are_those_of_a_stable_sort(scores: list[float], k: int) -> None:
    values = torch.tensor([scores, scores[::-1]], dtype=torch.float32)
    expected = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(best_places(values, k), expected)


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (torch.ones(2, 3), 1, r"\(Q, 4\).* got \(2, 3\)"),
        (torch.ones(4), 1, r"got \(4,\)"),
        (torch.full((1, 4), torch.nan), 1, "not finite"),
        (torch.ones(1, 4), 0, "k .* got 0"),
    ],
)
def test_queries__are_checked(queries: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unit_queries(queries, (4,), k)


def test_recall__counts_queries_with_a_hit() -> None:
    found = torch.tensor([[1, 2, 3], [2, 2, 1], [3, 3, 3], [-1, 1, 2]])
    assert recall_at(found, torch.tensor([1, 1, 1, 2]), (1, 2, 3)) == {1: 0.25, 2: 0.25, 3: 0.75}


@pytest.mark.parametrize(
    ("num_labels", "ks", "message"), [(2, (0,), r"1 to 3.* \[0\]"), (2, (4,), r"\[4\]"), (3, (1,), r"\(2, 3\)")]
)
def test_recall__checks_its_arguments(num_labels: int, ks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recall_at(torch.zeros(2, 3), torch.zeros(num_labels), ks)


def test_without_self__removes_the_query_or_the_last_hit() -> None:
    rows = torch.tensor([[4, 5, 6], [7, 4, 5], [1, 2, 3]])
    assert without_self(rows, torch.tensor([4, 4, 9])).tolist() == [[5, 6], [7, 5], [1, 2]]
    assert without_self(rows[:0], torch.tensor([])).shape == (0, 0)
