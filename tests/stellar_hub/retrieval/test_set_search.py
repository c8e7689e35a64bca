import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.retrieval import search_sets, set_similarity
from stellar_hub.store.feature_store import FeatureStore

from .conftest import BAD


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(1, 8))
def test_similarity__does_not_depend_on_the_order_of_tokens(seed: int, count: int) -> None:
    query, other = tokens(seed, count, 16), tokens(seed + 1, 1, count, 16)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    expected = set_similarity(query, other)
    torch.testing.assert_close(set_similarity(query[order], other), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(set_similarity(query, other[:, order]), expected, atol=1e-4, rtol=1e-4)


def test_similarity__of_a_set_with_itself_is_one() -> None:
    query = tokens(0, 8, 32)
    torch.testing.assert_close(set_similarity(query, query[None]), torch.ones(1), atol=1e-3, rtol=0)


def test_similarity__matches_one_to_one() -> None:
    """A set that repeats one of the query's tokens is no good match: each token takes part once."""
    query = torch.eye(4)
    repeated = query[:1].expand(1, 4, 4)
    assert set_similarity(query, repeated) == pytest.approx(0.25, abs=0.01)
    half = torch.stack([query[0], query[1], -query[2], -query[3]])[None]
    assert set_similarity(query, half) == pytest.approx(0.5, abs=0.03)


def test_shapes__are_checked() -> None:
    with pytest.raises(ValueError, match=r"must have shapes \(q, d\) and \(N, t, d\)"):
        set_similarity(torch.ones(2, 3), torch.ones(1, 2, 4))


def test_search__finds_the_set_itself_first(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows)
    hits = search_sets(store, queries, k=3)
    expected = torch.tensor([1 if row == 19 else row for row in rows])  # 19 is a copy of 1
    assert torch.equal(hits.rows[:, 0], expected)
    assert BAD not in hits.rows
    direct = set_similarity(queries[0], store.read("S", hits.rows[0].tolist()))
    torch.testing.assert_close(hits.scores[0], direct, atol=1e-5, rtol=0)


def test_candidates__are_enough_where_they_are_all(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows[:4])
    every, some = search_sets(store, queries, k=3), search_sets(store, queries, k=3, num_candidates=19)
    assert torch.equal(every.rows, some.rows)
    torch.testing.assert_close(every.scores, some.scores, atol=1e-5, rtol=0)
    assert search_sets(store, queries, k=3, num_candidates=1).rows.shape == (4, 3)


def test_similarity__is_at_most_one(store: FeatureStore, rows: list[int]) -> None:
    scores = search_sets(store, F.normalize(store.read("S", rows), dim=-1), k=19).scores
    assert scores.max() <= 1 + 1e-4
    assert scores.min() >= -1 - 1e-4
