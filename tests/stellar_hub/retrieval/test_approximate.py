import dataclasses
import os
import sys
from pathlib import Path

import pytest
import torch

from stellar_hub.retrieval import ApproximateIndex, approximate, build_index, hits, rows_and_tokens, search_images
from stellar_hub.store import FeatureStore

from .conftest import BAD, write_store

pytest.importorskip("faiss", reason="faiss has no wheel for this platform")


@pytest.mark.parametrize("factory", ["Flat", "HNSW16", "IVF2,Flat"])
def test_index__finds_what_exact_search_finds(store: FeatureStore, pooled: torch.Tensor, factory: str) -> None:
    exact = search_images(store, pooled, k=1)
    found = ApproximateIndex.build(store, factory=factory).search(pooled, k=1)
    torch.testing.assert_close(found.scores, exact.scores, atol=1e-5, rtol=0)
    assert BAD not in found.rows


def test_one_vector__is_one_query(store: FeatureStore, pooled: torch.Tensor) -> None:
    index = ApproximateIndex.build(store, factory="Flat")
    assert torch.equal(index.search(pooled[0]).rows, index.search(pooled[:1]).rows)
    assert torch.equal(index.search(list(pooled[:2])).rows, index.search(pooled[:2]).rows)
    with pytest.raises(TypeError, match="search_images takes them"):
        index.search("photo.jpg")  # type: ignore[arg-type]
    assert "19 vectors of pooled" in repr(index)


@pytest.mark.parametrize("factory", ["NSG32", "IVF4_NSG16,Flat", "nsg16"])
def test_graph_that_may_never_end__is_refused(store: FeatureStore, factory: str) -> None:
    with pytest.raises(ValueError, match="HNSW32"):
        build_index(store, factory=factory)


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


def test_index__of_other_content_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    """The same model, preprocessing, number of rows, and other vectors."""
    ApproximateIndex.build(store, factory="Flat").save(tmp_path / "index.faiss")
    other = write_store(tmp_path / "other", {"pooled": torch.randn(20, 48)}, store.manifest)
    assert ApproximateIndex.load(tmp_path / "index.faiss", store).facts["content"] == store.digest
    with pytest.raises(ValueError, match="differs in content"):
        ApproximateIndex.load(tmp_path / "index.faiss", other)


@pytest.mark.parametrize(
    "data", [b"something", b"stellar_hub\n{}\ncut", b"stellar_hub index 2\n", b"stellar_hub index 2\n0\n{}\n"]
)
def test_damaged_index__is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "index.faiss").write_bytes(data)
    with pytest.raises(ValueError, match=r"index\.faiss"):
        ApproximateIndex.load(tmp_path / "index.faiss")


def test_pipe__is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.index")
    with pytest.raises(ValueError, match="a pipe"):
        ApproximateIndex.load(tmp_path / "a.index")


def test_changed_byte_of_an_index__is_noticed(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    ApproximateIndex.build(store, factory="Flat").save(path)
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"index\.faiss"):
            ApproximateIndex.load(path)


@pytest.mark.parametrize("shape", [(2000,), (300, 16)])
def test_training_sample__is_spread_over_all_rows(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(approximate, "MAX_TRAINING_VECTORS", 512)
    monkeypatch.setattr(hits, "ROWS_AT_A_TIME", 128)
    angle = torch.arange(shape[0]) / shape[0]  # tells the row
    token = torch.arange(shape[-1]) / 1000 if len(shape) == 2 else torch.zeros(())
    vectors = torch.stack(torch.broadcast_tensors(angle[:, None] if len(shape) == 2 else angle, 1 + token), dim=-1)
    name = "S" if len(shape) == 2 else "pooled"
    sample = approximate._training_vectors(write_store(tmp_path / "many", {name: vectors}, store.manifest), name)
    assert 490 <= len(sample) <= 512
    assert sample.unique(dim=0).shape == sample.shape
    ratios = (sample[:, 0] / sample[:, 1]).sort().values
    assert ratios[0] < 0.02
    assert ratios[-1] > 0.95
    assert (ratios.diff() < 0.02).all()


@pytest.mark.parametrize(("num_equal", "factory"), [(3, "HNSW16"), (400, "HNSW16"), (400, "PCA4,HNSW16")])
def test_graph__that_equal_vectors_cut_apart_is_replaced(
    store: FeatureStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, num_equal: int, factory: str
) -> None:
    vectors = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    vectors[-num_equal:] = vectors[0]
    many = write_store(tmp_path / "equal", {"pooled": vectors}, store.manifest)
    index = ApproximateIndex.build(many, factory=factory)
    assert ("400 vectors are equal" in caplog.text) == (num_equal == 400) or "401 vectors" in caplog.text
    distinct = vectors[1 : 600 - num_equal]
    found = index.search(distinct.numpy(), 1)
    assert found.rows[:, 0].tolist() == list(range(1, 600 - num_equal))


def test_store_without_features__has_an_empty_index(store: FeatureStore, tmp_path: Path) -> None:
    none = write_store(tmp_path / "none", {"pooled": torch.full((5, 8), torch.nan)}, store.manifest, error="gone")
    assert ApproximateIndex.build(none).search(torch.ones(1, 8), 2).rows.tolist() == [[-1, -1]]


@pytest.mark.parametrize("factory", ["Cube3", "IVF4096,Flat", "IDMap,Flat"])
def test_factory__is_checked(store: FeatureStore, factory: str) -> None:
    with pytest.raises(ValueError, match=f"{factory}.* 20 rows") as error:
        build_index(store, factory=factory)
    assert ".cpp" not in str(error.value)


def test_missing_faiss__says_what_to_install(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[retrieval\]'"):
        build_index(store)


def test_constructor__names_what_makes_an_index(store: FeatureStore) -> None:
    with pytest.raises(TypeError, match=r"ApproximateIndex\.build\(store\)"):
        ApproximateIndex(store)
