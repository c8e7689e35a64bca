import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.retrieval import find_duplicates, image_search, search_images
from stellar_hub.retrieval.image_search import best_of, check_queries, no_hits
from stellar_hub.store.feature_store import FeatureStore

from .conftest import BAD


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


@pytest.mark.parametrize("rows_at_a_time", [3, 4096])
def test_search__is_cosine_similarity(
    store: FeatureStore, rows: list[int], pooled: torch.Tensor, monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int
) -> None:
    monkeypatch.setattr(image_search, "ROWS_AT_A_TIME", rows_at_a_time)
    hits = search_images(store, 3 * pooled, k=4)
    similarity = F.normalize(pooled, dim=1) @ F.normalize(pooled, dim=1).T
    scores, order = similarity.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(hits.scores, scores[:, :4], atol=1e-5, rtol=0)
    found = torch.tensor(rows)[order[:, 0]]
    assert ((hits.rows[:, 0] == found) | (hits.scores[:, 0] > 0.9999)).all()


def test_search__never_finds_rows_with_an_error(store: FeatureStore, pooled: torch.Tensor) -> None:
    hits = search_images(store, pooled[:1], k=50)
    assert hits.rows.shape == (1, 19)
    assert BAD not in hits.rows


def test_search__finds_the_colour(store: FeatureStore, rows: list[int], pooled: torch.Tensor) -> None:
    hits = search_images(store, pooled, k=5)
    same = hits.rows[:, 1:] % 3 == torch.tensor(rows)[:, None] % 3
    assert same[torch.tensor(rows) != 19].float().mean() > 0.9  # 19 is a copy of another colour's


def test_duplicates__are_found_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows_at_a_time in (4, 4096):
        monkeypatch.setattr(image_search, "ROWS_AT_A_TIME", rows_at_a_time)
        assert [(one, other) for one, other, _ in find_duplicates(store, 0.999999)] == [(1, 19)]
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\], got 2"):
        find_duplicates(store, 2)


def test_missing_output__is_named(store: FeatureStore) -> None:
    with pytest.raises(KeyError, match="holds no 'cls'"):
        search_images(store, torch.ones(1, 48), output="cls")
