import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.retrieval.hits import best_of, check_queries, no_hits


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 7))
def test_best__do_not_depend_on_the_parts(scores: list[int], k: int, part: int) -> None:
    values, rows = torch.tensor([scores], dtype=torch.float32), torch.arange(len(scores))
    whole = best_of(no_hits(1), rows, values, k)
    found = no_hits(1)
    for start in range(0, len(scores), part):
        found = best_of(found, rows[start : start + part], values[:, start : start + part], k)
    assert torch.equal(found.rows, whole.rows)
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    assert whole.rows[0].tolist() == order


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (torch.ones(2, 3), 1, r"queries must have shape \(Q, 4\), as in the store, got \(2, 3\)"),
        (torch.ones(4), 1, r"queries must have shape \(Q, 4\)"),
        (torch.full((1, 4), torch.nan), 1, "queries hold values that are not finite"),
        (torch.ones(1, 4), 0, "k must be at least 1, got 0"),
    ],
)
def test_queries__are_checked(queries: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_queries(queries, (4,), k)
