import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from stellar_hub.retrieval import ApproximateIndex, build_index, rows_and_tokens, search_images
from stellar_hub.store import FeatureStore

from .conftest import BAD

pytest.importorskip("faiss", reason="faiss has no wheel for this platform")


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF2,Flat"])
def test_index__finds_what_exact_search_finds(store: FeatureStore, pooled: torch.Tensor, factory: str) -> None:
    exact = search_images(store, pooled, k=1)
    found = ApproximateIndex.build(store, factory=factory).search(pooled, k=1)
    torch.testing.assert_close(found.scores, exact.scores, atol=1e-5, rtol=0)
    assert BAD not in found.rows


def test_rows__that_are_not_there_are_minus_one(store: FeatureStore, pooled: torch.Tensor) -> None:
    found = ApproximateIndex.build(store, factory="Flat").search(pooled[:1], k=25)
    assert (found.rows[0] >= 0).sum() == 19
    assert found.scores[0, -1] == -torch.inf


def test_tokens__have_ids_of_their_own(store: FeatureStore) -> None:
    tokens = store.read("S", [5])[0]
    found = ApproximateIndex.build(store, "S", "Flat").search(tokens, k=1)
    rows, which = rows_and_tokens(found.rows[:, 0], 4)
    assert rows.tolist() == [5] * 4
    assert which.tolist() == [0, 1, 2, 3]


def test_index__comes_back_as_it_was(store: FeatureStore, pooled: torch.Tensor, tmp_path: Path) -> None:
    index = ApproximateIndex.build(store)
    index.save(tmp_path / "index.faiss")
    again = ApproximateIndex.load(tmp_path / "index.faiss")
    again.check_store(store)
    assert torch.equal(again.search(pooled, 3).rows, index.search(pooled, 3).rows)


def test_index__of_another_model_is_refused(store: FeatureStore) -> None:
    index, other = ApproximateIndex.build(store, factory="Flat"), FeatureStore(store.path)
    model = dict(other.manifest.model) | {"weights_sha256": "other"}
    other.manifest = dataclasses.replace(other.manifest, model=model)
    with pytest.raises(ValueError, match="differs in weights_sha256"):
        index.check_store(other)


@pytest.mark.parametrize("data", [b"something", b"stellar_hub\n{}\ncut", b"stellar_hub\n"])
def test_damaged_index__is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "index.faiss").write_bytes(data)
    with pytest.raises(ValueError, match=r"index\.faiss"):
        ApproximateIndex.load(tmp_path / "index.faiss")


@pytest.mark.parametrize("factory", ["Cube3", "IVF4096,Flat"])
def test_factory__is_checked(store: FeatureStore, factory: str) -> None:
    with pytest.raises(ValueError, match=f"{factory}.* 20 rows"):
        build_index(store, factory=factory)


def test_missing_faiss__says_what_to_install(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[retrieval\]'"):
        build_index(store)
