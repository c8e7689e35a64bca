"""What a search may be asked with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.sources import open_sources
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.retrieval import (
    ApproximateIndex,
    build_index,
    find_duplicates,
    search_concepts,
    search_images,
    search_sets,
)
from stellar_hub.retrieval.queries import as_queries, backbone_of
from stellar_hub.store import ExtractionOptions, FeatureStore, extract_to_store


def path_of(store: FeatureStore, row: int) -> Path:
    return Path(store[row].record.image)


def test_array__is_a_query_like_a_tensor(store: FeatureStore) -> None:
    vectors, tokens = store.read("pooled", [2, 3]), store.read("S", [2, 3])
    assert torch.equal(search_images(store, vectors.numpy()).rows, search_images(store, vectors).rows)
    assert torch.equal(search_images(store, vectors.double().numpy()).rows, search_images(store, vectors).rows)
    assert torch.equal(search_sets(store, tokens.numpy()).rows, search_sets(store, tokens).rows)
    assert torch.equal(search_concepts(store, tokens[0].numpy()).rows, search_concepts(store, tokens[0]).rows)


def test_image__finds_itself(store: FeatureStore, pixel_model: StellarModel) -> None:
    path = path_of(store, 4)
    for query in (path, str(path), [path], np.array([str(path)])):
        assert search_images(store, query, k=1, model=pixel_model).rows.tolist() == [[4]]
    assert search_images(store, [path, path_of(store, 8)], k=1, model=pixel_model).rows.tolist() == [[4], [8]]
    assert search_sets(store, path, k=1, model=pixel_model).rows.tolist() == [[4]]


def test_image__needs_the_model_of_the_store(store: FeatureStore, pixel_model: StellarModel) -> None:
    path = path_of(store, 4)
    with pytest.raises(ValueError, match=r"pass model=.*load_model"):
        search_images(store, path)
    with torch.no_grad():
        pixel_model.encoder.cls_token += 1
    with pytest.raises(ValueError, match="another model"):
        search_images(store, path, model=pixel_model)


def test_image__that_cannot_be_read_is_named(store: FeatureStore, pixel_model: StellarModel) -> None:
    with pytest.raises(ValueError, match=r"07\.png"):
        search_images(store, path_of(store, 7), model=pixel_model)


def test_preprocessing__is_that_of_the_store(store: FeatureStore, pixel_model: StellarModel, tmp_path: Path) -> None:
    processor = StellarImageProcessor.from_config(pixel_model.config, fit="pad", fill_value=0.25)
    source = open_sources([path_of(store, 0).parent])
    options = ExtractionOptions(("pooled",), "float32")
    extract_to_store(pixel_model, source, tmp_path / "pad", options, processor=processor, show_progress=False)
    padded = FeatureStore(tmp_path / "pad")
    assert backbone_of(padded, pixel_model).processor.fit == "pad"
    found = as_queries(padded, path_of(store, 5), "pooled", pixel_model)
    torch.testing.assert_close(found, padded.read("pooled", [5]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [[], None, 3, [b"bytes"], b"bytes", np.array([None]), ["a.png", torch.ones(48)]])
def test_other_queries__are_refused(store: FeatureStore, queries: object) -> None:
    with pytest.raises(TypeError, match="queries must be"):
        search_images(store, queries)  # type: ignore[arg-type]


def test_one_vector__is_one_query(store: FeatureStore, pooled: torch.Tensor) -> None:
    expected = search_images(store, pooled[:1])
    for query in (pooled[0], pooled[0].numpy(), pooled[0].tolist(), pooled[0].requires_grad_()):
        found = search_images(store, query)
        torch.testing.assert_close(found, expected)
    tokens = store.read("S", [2])
    assert torch.equal(search_sets(store, tokens[0]).rows, search_sets(store, tokens).rows)
    assert torch.equal(search_concepts(store, tokens[0, 1]).rows, search_concepts(store, tokens[0, 1:2]).rows)


def test_list_of_vectors__is_stacked(store: FeatureStore, pooled: torch.Tensor) -> None:
    expected = search_images(store, pooled[:2]).rows
    for queries in (list(pooled[:2]), tuple(pooled[:2].numpy()), pooled[:2].tolist()):
        assert torch.equal(search_images(store, queries).rows, expected)
    with pytest.raises(ValueError, match="one shape"):
        search_images(store, [pooled[0], pooled[0, :3]])
    with pytest.raises(ValueError, match=r"\(Q, 48\) or \(48,\)"):
        search_images(store, [3.0])


def test_vectors__are_no_sets(store: FeatureStore, pooled: torch.Tensor) -> None:
    for queries in (pooled[0], pooled[:1], pooled[0].tolist(), [pooled[0]], pooled[:3].numpy()):
        with pytest.raises(ValueError, match=r"\(Q, 4, 48\) or \(4, 48\), got .* use search_images"):
            search_sets(store, queries)
    assert search_sets(store, pooled[:3][None], k=1).rows.shape == (1, 1)  # a set of three tokens
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        search_sets(store, torch.ones(3))


def test_row_of_a_store__is_a_query(store: FeatureStore) -> None:
    assert search_images(store, store[4], k=1).rows.tolist() == [[4]]
    assert search_images(store, store[4:6], k=1).rows.tolist() == [[4], [5]]
    assert search_sets(store, store[4], k=1).rows.tolist() == [[4]]


def test_row_of_another_models_store__is_refused(store: FeatureStore) -> None:
    for search in (search_images, search_sets):
        assert search(store, store[3], k=1).rows.tolist() == [[3]]
        for query in (store[3], store[3:5]):
            with pytest.raises(ValueError, match="weights abc, those of"):
                search(store, replace(query, weights="abc"))


def test_image_in_memory__is_a_query(store: FeatureStore, pixel_model: StellarModel) -> None:
    images = [Image.open(path_of(store, row)) for row in (4, 8)]
    assert search_images(store, images[0], k=1, model=pixel_model).rows.tolist() == [[4]]
    assert search_sets(store, images, k=1, model=pixel_model).rows.tolist() == [[4], [8]]
    arrays: Any = [np.asarray(image) for image in images]
    assert search_images(store, arrays[0], k=1, model=pixel_model).rows.tolist() == [[4]]
    assert search_images(store, arrays, k=1, model=pixel_model).rows.tolist() == [[4], [8]]
    tensor: Any = torch.from_numpy(arrays[0].copy()).permute(2, 0, 1)
    assert search_images(store, tensor, k=1, model=pixel_model).rows.tolist() == [[4]]


def test_model__is_loaded_only_if_asked(
    store: FeatureStore, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureStore, "load_model", lambda self: pixel_model)
    with pytest.raises(ValueError, match="load_model=True"):
        search_images(store, path_of(store, 4))
    for search in (search_images, search_sets):
        assert search(store, path_of(store, 4), k=1, load_model=True).rows.tolist() == [[4]]


@pytest.mark.parametrize("k", [2.5, "3", None])
def test_k__is_a_whole_number(store: FeatureStore, pooled: torch.Tensor, k: Any) -> None:
    with pytest.raises(TypeError, match="k must be a whole number"):
        search_images(store, pooled[:1], k)


def test_concepts__are_tokens(store: FeatureStore) -> None:
    with pytest.raises(TypeError, match="queries must be tokens"):
        search_concepts(store, "photo.jpg")  # type: ignore[arg-type]


def test_path_that_does_not_exist__is_a_file_that_is_not_found(store: FeatureStore, pixel_model: StellarModel) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothere\.png"):
        search_images(store, "nothere.png", model=pixel_model)
    with pytest.raises(ValueError, match="is an address"):
        search_images(store, "https://x.y/z.jpg", model=pixel_model)


def test_path_of_a_store__is_refused(store: FeatureStore) -> None:
    path: Any = store.path
    for search in (
        lambda: search_images(path, store["pooled"]),
        lambda: search_sets(path, store["S"]),
        lambda: search_concepts(path, store["S"][0]),
        lambda: find_duplicates(path),
        lambda: ApproximateIndex.build(path),
        lambda: build_index(path),
    ):
        with pytest.raises(TypeError, match=r"pass FeatureStore\("):
            search()
