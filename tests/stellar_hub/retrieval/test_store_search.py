"""`store.search`: each kind of query goes to the search that fits it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.retrieval import Hits, search_images, search_sets
from stellar_hub.store import FeatureStore

from .conftest import write_store


def path_of(store: FeatureStore, row: int) -> Path:
    return Path(store[row].record.image)


def test_images_rows_and_vectors__are_compared_by_pooled(store: FeatureStore, pixel_model: StellarModel) -> None:
    path, expected = path_of(store, 4), search_images(store, store[4], k=3)
    array = np.asarray(Image.open(path))
    embedded = pixel_model.embed(path)
    for query in (path, str(path), Image.open(path), array, store[4], store["pooled"][4], embedded, embedded.tolist()):
        found = store.search(query, k=3, model=pixel_model)
        assert found.rows[0, 0] == 4
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    assert store.search([path, path_of(store, 8)], k=1, model=pixel_model).rows.tolist() == [[4], [8]]


def test_tokens__are_compared_as_sets(store: FeatureStore, pixel_model: StellarModel) -> None:
    tokens = store.read("S", [4, 8])
    expected = search_sets(store, tokens, k=3)
    for query in (tokens, tokens.numpy(), list(tokens)):
        assert torch.equal(store.search(query, k=3).rows, expected.rows)
    processor = StellarImageProcessor.from_config(pixel_model.config)
    encoding = pixel_model.encode(processor(path_of(store, 4), return_tensors="pt")["pixel_values"])
    assert store.search(encoding, k=1).rows.tolist() == [[4]]
    assert store.search(tokens[:, :2], k=3).rows.shape == (2, 3)  # sets of fewer tokens
    for query in (path_of(store, 4), store[4], tokens[0], pixel_model.embed(path_of(store, 4), "tokens")):
        assert store.search(query, k=1, by="S", model=pixel_model).rows.tolist() == [[4]]


def test_lists_of_numbers_and_bytes_of_images__are_taken_by_their_shape(
    store: FeatureStore, pixel_model: StellarModel
) -> None:
    tokens = store.read("S", [4, 8])
    assert torch.equal(store.search(tokens.tolist(), k=3).rows, search_sets(store, tokens, k=3).rows)
    image = torch.zeros(3, 40, tokens.shape[2], dtype=torch.uint8)  # its width is that of a token
    expected = search_images(store, image, k=3, model=pixel_model)
    assert torch.equal(store.search(image, k=3, model=pixel_model).scores, expected.scores)


def test_shape_of_vectors_and_of_a_set__must_be_said(store: FeatureStore, pooled: torch.Tensor) -> None:
    vectors = pooled[:4]  # as many as an image has tokens
    with pytest.raises(ValueError, match=r"4 vectors or one set of 4 tokens: pass by='pooled' or by=\"S\""):
        store.search(vectors)
    with pytest.raises(ValueError, match="4 vectors or one set of 4 tokens"):
        store.search(vectors.tolist())
    assert store.search(vectors, k=1, by="pooled").rows.shape == (4, 1)
    assert store.search(vectors, k=1, by="S").rows.shape == (1, 1)


@pytest.mark.parametrize(
    ("by", "kind", "message"),
    [
        ("mean", ValueError, "it is called 'pooled'"),
        ("tokens", ValueError, "it is called 'S'"),
        ("L", ValueError, r"\(pooled, S\), got 'L'"),
        ("cls", KeyError, "does not hold 'cls'"),
        ("pooledd", KeyError, "did you mean 'pooled'"),
    ],
)
def test_feature__is_checked(store: FeatureStore, by: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        store.search(store[4], by=by)


def test_store_of_other_features__is_searched_by_what_it_holds(store: FeatureStore, tmp_path: Path) -> None:
    tokens = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    only_sets = write_store(tmp_path / "sets", {"S": tokens}, store.manifest)
    assert only_sets.search(tokens[2], k=1).rows.tolist() == [[2]]
    assert only_sets.search(only_sets[1], k=1).rows.tolist() == [[1]]
    only_cls = write_store(tmp_path / "cls", {"cls": tokens[:, 0]}, store.manifest)
    assert only_cls.search(tokens[1, 0], k=1).rows.tolist() == [[1]]
    only_patches = write_store(tmp_path / "patches", {"patches": tokens}, store.manifest)
    with pytest.raises(KeyError, match="no feature that compares images"):
        only_patches.search(tokens[0])


def test_model__is_asked_for(store: FeatureStore, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="load_model=True"):
        store.search(path_of(store, 4))
    monkeypatch.setattr(FeatureStore, "load_model", lambda self: pixel_model)
    assert store.search(path_of(store, 4), k=1, load_model=True).rows.tolist() == [[4]]


def test_named__gives_names_and_scores_of_one_query(store: FeatureStore) -> None:
    hits = store.search(store[3:5], k=2)
    for query in (0, 1):
        assert hits.named(store, query) == [
            (store[int(row)].record.image, float(score))
            for row, score in zip(hits.rows[query], hits.scores[query], strict=True)
        ]
    missing = Hits(torch.tensor([[3, -1]]), torch.tensor([[0.5, -torch.inf]]))
    assert missing.named(store) == [(store[3].record.image, 0.5)]
    with pytest.raises(IndexError):
        hits.named(store, 2)


def test_installation_without_the_entry_point__says_how_to_repair_it(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stellar_hub.modeling import pretrained_names

    found: Any = ()
    monkeypatch.setattr(pretrained_names, "entry_points", lambda **options: found)
    with pytest.raises(ImportError, match=r"FeatureStore\.search .*pip install -e"):
        store.search(store[3])
