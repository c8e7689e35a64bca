import pytest
import torch
import torch.nn.functional as F

from stellar_hub.measures import set_similarity
from stellar_hub.retrieval import hits, search_images, search_sets
from stellar_hub.store import FeatureStore

from .conftest import BAD


@pytest.mark.parametrize("rows_at_a_time", [3, 4096])
def test_search__is_cosine_similarity(
    store: FeatureStore, rows: list[int], pooled: torch.Tensor, monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int
) -> None:
    monkeypatch.setattr(hits, "ROWS_AT_A_TIME", rows_at_a_time)
    nearest = search_images(store, 3 * pooled, k=4)
    similarity = F.normalize(pooled, dim=1) @ F.normalize(pooled, dim=1).T
    scores, order = similarity.sort(dim=1, descending=True, stable=True)
    torch.testing.assert_close(nearest.scores, scores[:, :4], atol=1e-5, rtol=0)
    found = torch.tensor(rows)[order[:, 0]]
    assert ((nearest.rows[:, 0] == found) | (nearest.scores[:, 0] > 0.9999)).all()


def test_search__never_finds_rows_with_an_error(store: FeatureStore, pooled: torch.Tensor) -> None:
    nearest = search_images(store, pooled[:1], k=50)
    assert nearest.rows.shape == (1, 19)
    assert BAD not in nearest.rows


def test_search__finds_the_colour(store: FeatureStore, rows: list[int], pooled: torch.Tensor) -> None:
    nearest = search_images(store, pooled, k=5)
    same = nearest.rows[:, 1:] % 3 == torch.tensor(rows)[:, None] % 3
    assert same[torch.tensor(rows) != 19].float().mean() > 0.9  # 19 is a copy of another colour's


def test_missing_output__is_named(store: FeatureStore) -> None:
    with pytest.raises(KeyError, match="cls"):
        search_images(store, torch.ones(1, 48), output="cls")


def test_sets__find_themselves_first(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows)
    nearest = search_sets(store, queries, k=3)
    expected = torch.tensor([1 if row == 19 else row for row in rows])  # 19 is a copy of 1
    assert torch.equal(nearest.rows[:, 0], expected)
    assert BAD not in nearest.rows
    direct = set_similarity(queries[:1], store.read("S", nearest.rows[0].tolist()))
    torch.testing.assert_close(nearest.scores[:1], direct, atol=1e-5, rtol=0)


def test_sets__are_matched_with_the_options_given(store: FeatureStore, rows: list[int]) -> None:
    queries, options = store.read("S", rows[:2]), {"epsilon": 0.05, "num_iters": 10, "cost": "euclidean"}
    expected = set_similarity(queries, store.read("S", rows), **options).sort(dim=1, descending=True).values
    torch.testing.assert_close(search_sets(store, queries, k=19, **options).scores, expected, atol=1e-5, rtol=0)
    some = search_sets(store, queries, k=19, num_candidates=19, **options)
    torch.testing.assert_close(some.scores, expected, atol=1e-5, rtol=0)


def test_candidates__are_enough_where_they_are_all(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows[:4])
    every, some = search_sets(store, queries, k=3), search_sets(store, queries, k=3, num_candidates=19)
    assert torch.equal(every.rows, some.rows)
    assert search_sets(store, queries, k=3, num_candidates=1).rows.shape == (4, 3)
