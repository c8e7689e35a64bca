import pytest
import torch
import torch.nn.functional as F

from stellar_hub.retrieval import place_in_crop, search_concepts, token_at
from stellar_hub.store import FeatureStore

from .conftest import BAD


def test_search__finds_the_image_and_the_token(store: FeatureStore, rows: list[int]) -> None:
    tokens = store.read("S", [5])[0]
    hits = search_concepts(store, tokens, k=4)
    assert hits.rows[:, 0].tolist() == [5] * 4
    assert hits.tokens[:, 0].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(hits.scores[:, 0], torch.ones(4), atol=1e-5, rtol=0)
    assert BAD not in hits.rows


def test_search__is_the_best_token_of_each_image(store: FeatureStore, rows: list[int]) -> None:
    query = store.read("S", [0])[0, 2:3]
    hits = search_concepts(store, query, k=19)
    assert sorted(hits.rows[0].tolist()) == rows
    for row, token, score in zip(hits.rows[0].tolist(), hits.tokens[0].tolist(), hits.scores[0].tolist(), strict=True):
        similarity = F.cosine_similarity(query, store.read("S", [row])[0])
        assert score == pytest.approx(similarity.max().item(), abs=1e-5)
        assert similarity[token] == pytest.approx(score, abs=1e-5)
    assert (hits.scores[0].diff() <= 0).all()


def test_place__belongs_to_its_token() -> None:
    localization = torch.zeros(6, 3)
    localization[torch.arange(6), torch.tensor([0, 1, 2, 2, 1, 0])] = 1  # rows of a grid of 2 x 3
    places = {(0.0, 0.0): 0, (0.2, 0.5): 1, (0.4, 0.9): 2, (0.6, 0.1): 2, (1.0, 1.0): 0}
    assert {place: token_at(localization, place, (2, 3)) for place in places} == places
    with pytest.raises(ValueError, match=r"place .* got \(0\.5, 1\.5\)"):
        token_at(localization, (0.5, 1.5), (2, 3))


def test_pixel__is_found_in_the_crop() -> None:
    assert place_in_crop((30.0, 60.0), (10.0, 20.0, 50.0, 100.0)) == (0.5, 0.5)
    with pytest.raises(ValueError, match=r"\(5, 60\).* rows 10 to 50"):
        place_in_crop((5, 60), (10.0, 20.0, 50.0, 100.0))
