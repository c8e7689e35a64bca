"""A store in Qdrant, in memory and in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch

from stellar_hub.store import FeatureStore
from stellar_hub.store.databases import upsert as upsert_module

qdrant_client = pytest.importorskip("qdrant_client", reason="needs the extra qdrant")
models = qdrant_client.models
exceptions = pytest.importorskip("qdrant_client.http.exceptions")
QUIET: dict[str, Any] = {"show_progress": False}


class KilledError(BaseException):
    """What stands for the end of a process."""


class FailingClient(qdrant_client.QdrantClient):
    """A client in memory whose upserts fail after some: the next one writes half of its points first."""

    num_left: int | None = None
    num_sent = 0
    error: BaseException = KilledError()

    def upsert(self, collection_name: str, points: list[Any], **options: Any) -> Any:
        if self.num_left == 0:
            super().upsert(collection_name, points[: len(points) // 2], **options)
            raise self.error
        self.num_left = None if self.num_left is None else self.num_left - 1
        self.num_sent += len(points)
        return super().upsert(collection_name, points, **options)


@pytest.fixture
def client() -> FailingClient:
    return FailingClient(":memory:")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsert_module.time, "sleep", lambda seconds: None)


def all_points(client: Any) -> list[Any]:
    return client.scroll("photos", limit=1000, with_vectors=True)[0]


def test_search__finds_the_rows_of_exact_late_interaction(
    store: FeatureStore, client: FailingClient, queries: np.ndarray, best_rows: Callable[..., list[list[int]]]
) -> None:
    report = store.to_qdrant(client, "photos", **QUIET)
    assert (report.written, report.unchanged, report.left_out) == (58, 0, 2)
    found = [client.query_points("photos", query=query.tolist(), using="S", limit=10).points for query in queries]
    assert [[point.payload["row"] for point in points] for points in found] == best_rows(store, queries)


def test_points__have_the_vectors_and_the_columns_of_the_index(store: FeatureStore, client: FailingClient) -> None:
    store.to_qdrant(client, "photos", source="mine", **QUIET)
    points = {point.payload["row"]: point for point in all_points(client)}
    assert sorted(points) == store.ok.nonzero().flatten().tolist()
    payload = points[4].payload
    assert (payload["image"], payload["label"], payload["source"]) == ("/photos/class1/0004 ü'\".png", "class1", "mine")
    assert (payload["original_height"], payload["crop_right"]) == (40, 50.0)
    pooled = torch.nn.functional.normalize(store.read("pooled", [4])[0], dim=0)
    torch.testing.assert_close(torch.tensor(points[4].vector["pooled"]), pooled, atol=1e-5, rtol=0)
    assert np.shape(points[4].vector["S"]) == (4, 12)
    parameters = client.get_collection("photos").config.params.vectors["S"]
    assert parameters.multivector_config.comparator == models.MultiVectorComparator.MAX_SIM


def test_second_export__sends_only_what_has_changed(
    build_store: Callable[..., FeatureStore], client: FailingClient
) -> None:
    values = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    build_store("a", count=20, bad=(), pooled=values.clone()).to_qdrant(client, "photos", source="x", **QUIET)
    client.num_sent = 0
    values[7] *= -1
    report = build_store("b", count=20, bad=(), pooled=values).to_qdrant(client, "photos", source="x", **QUIET)
    assert (report.written, report.unchanged, client.num_sent) == (1, 19, 1)
    changed = next(point for point in all_points(client) if point.payload["row"] == 7)
    assert np.sign(changed.vector["pooled"]).tolist() == values[7].sign().tolist()
    assert len(all_points(client)) == 20


@pytest.mark.parametrize(
    "error", [KilledError(), exceptions.ResponseHandlingException(httpx.ConnectError("connection refused"))]
)
def test_killed_export__goes_on_without_doubles(
    store: FeatureStore, client: FailingClient, error: BaseException
) -> None:
    client.num_left, client.error = 3, error
    with pytest.raises((KilledError, ConnectionError)):
        store.to_qdrant(client, "photos", batch_size=8, **QUIET)
    there = len(all_points(client))
    assert 24 < there < 30
    client.num_left, client.num_sent = None, 0
    report = store.to_qdrant(client, "photos", batch_size=8, **QUIET)
    assert (report.written, report.unchanged, client.num_sent) == (58 - there, there, 58 - there)
    rows = [point.payload["row"] for point in all_points(client)]
    assert sorted(rows) == store.ok.nonzero().flatten().tolist()


def test_folder__keeps_the_identity_of_a_collection(
    store: FeatureStore, build_store: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    for expected in (58, 0):
        client = qdrant_client.QdrantClient(path=str(tmp_path / "qdrant"))
        assert store.to_qdrant(client, "photos", **QUIET).written == expected
        client.close()
    client = qdrant_client.QdrantClient(path=str(tmp_path / "qdrant"))
    with pytest.raises(ValueError, match="model: one"):
        build_store("other", model="two").to_qdrant(client, "photos", **QUIET)
    client.close()


@pytest.mark.parametrize(
    ("other", "options", "match"),
    [
        ({"model": "two"}, {}, r"model: one .* and two"),
        ({"fit": "pad"}, {}, "preprocessing: fit crop and pad"),
        ({"width": 8}, {}, r"S \(4, 12\).* and .*S \(4, 8\)"),
        ({}, {"outputs": ["S"]}, r"pooled \(12\)"),
        ({}, {"dtype": "float16"}, "float32 and .*float16"),
    ],
)
def test_collection_of_other_features__is_refused(
    store: FeatureStore,
    build_store: Callable[..., FeatureStore],
    client: FailingClient,
    other: dict[str, Any],
    options: dict[str, Any],
    match: str,
) -> None:
    store.to_qdrant(client, "photos", **QUIET)
    with pytest.raises(ValueError, match=f"collection photos.*{match}.*name another collection"):
        build_store("other", **other).to_qdrant(client, "photos", **options, **QUIET)
    assert len(all_points(client)) == 58


def test_collection_of_somebody_else__is_refused(store: FeatureStore, client: FailingClient) -> None:
    client.create_collection("photos", models.VectorParams(size=12, distance=models.Distance.COSINE))
    with pytest.raises(ValueError, match="no export of stellar_hub"):
        store.to_qdrant(client, "photos", **QUIET)


@pytest.mark.parametrize("change", [{"distance": models.Distance.DOT}, {"size": 13}, {"multivector_config": None}])
def test_collection_that_compares_in_another_way__is_refused(
    store: FeatureStore, client: FailingClient, change: dict[str, Any]
) -> None:
    store.to_qdrant(client, "photos", **QUIET)
    config = client.get_collection("photos").config
    vectors = {name: part.model_copy(deep=True) for name, part in config.params.vectors.items()}
    vectors["S"] = vectors["S"].model_copy(update=change)
    client.delete_collection("photos")
    client.create_collection("photos", vectors_config=vectors, metadata=config.metadata)
    with pytest.raises(ValueError, match="compares S in another way"):
        store.to_qdrant(client, "photos", **QUIET)


def test_server_without_metadata__is_refused_and_left_as_it_was(store: FeatureStore, client: FailingClient) -> None:
    create = client.create_collection
    client.create_collection = lambda *names, metadata, **options: create(*names, **options)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"1\.16"):
        store.to_qdrant(client, "photos", **QUIET)
    assert not client.collection_exists("photos")


@pytest.mark.parametrize(
    ("status", "expected"), [(503, ConnectionError), (429, ConnectionError), (401, PermissionError), (400, ValueError)]
)
def test_answers_of_a_server__become_errors_of_python(
    store: FeatureStore, client: FailingClient, status: int, expected: type[Exception]
) -> None:
    answer = exceptions.UnexpectedResponse(status, "Reason", b"a\nb", httpx.Headers())
    client.upsert = Mock(side_effect=answer)  # type: ignore[method-assign]
    with pytest.raises(expected, match="Qdrant server") as raised:
        store.to_qdrant(client, "photos", **QUIET)
    assert "\n" not in str(raised.value)
    assert client.upsert.call_count == (6 if expected is ConnectionError else 1)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("UNAVAILABLE", ConnectionError), ("UNAUTHENTICATED", PermissionError), ("NOT_FOUND", ValueError)],
)
def test_answers_over_grpc__become_errors_of_python(
    store: FeatureStore, client: FailingClient, code: str, expected: type[Exception]
) -> None:
    grpc = pytest.importorskip("grpc")

    class RpcError(grpc.RpcError):
        def code(self) -> Any:
            return grpc.StatusCode[code]

    client.upsert = Mock(side_effect=RpcError("said"))  # type: ignore[method-assign]
    with pytest.raises(expected, match="said"):
        store.to_qdrant(client, "photos", **QUIET)


def test_server_that_is_away__is_said_at_once(store: FeatureStore, client: FailingClient) -> None:
    away = exceptions.ResponseHandlingException(httpx.ConnectError("connection refused"))
    client.collection_exists = Mock(side_effect=away)  # type: ignore[method-assign]
    with pytest.raises(ConnectionError, match=r"connection refused.*address"):
        store.to_qdrant(client, "photos", **QUIET)
    assert client.collection_exists.call_count == 1


def test_float16__is_kept_by_the_collection(store: FeatureStore, client: FailingClient) -> None:
    for expected in (58, 0):
        assert store.to_qdrant(client, "photos", dtype="float16", **QUIET).written == expected
    parameters = client.get_collection("photos").config.params.vectors
    assert {part.datatype for part in parameters.values()} == {models.Datatype.FLOAT16}


def test_client__must_be_one(store: FeatureStore) -> None:
    with pytest.raises(TypeError, match="QdrantClient"):
        store.to_qdrant("http://localhost:6333", "photos")  # type: ignore[arg-type]
