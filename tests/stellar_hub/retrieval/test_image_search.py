import pytest
import torch
import torch.nn.functional as F

from stellar_hub.retrieval import hits, search_images
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
