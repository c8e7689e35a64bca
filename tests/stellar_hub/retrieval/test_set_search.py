from pathlib import Path
from typing import Any

import pytest
import torch

from stellar_hub.measures import maxsim, set_similarity
from stellar_hub.retrieval import search_images, search_sets, set_search
from stellar_hub.store import FeatureStore
from stellar_hub.store.tensor_format import DTYPES

from .conftest import BAD, write_store

NUM_TOKENS = 4


def test_sets__find_themselves_first(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows)
    nearest = search_sets(store, queries, k=3)
    expected = torch.tensor([1 if row == 19 else row for row in rows])  # 19 is a copy of 1
    assert torch.equal(nearest.rows[:, 0], expected)
    torch.testing.assert_close(nearest.scores[:, 0], torch.full((19,), float(queries.shape[1])))


@pytest.mark.parametrize("rows_at_a_time", [4, 4096])
@pytest.mark.parametrize("queries_at_a_time", [2, 1024])
def test_sets__are_compared_with_every_row_that_has_features(
    store: FeatureStore,
    rows: list[int],
    monkeypatch: pytest.MonkeyPatch,
    rows_at_a_time: int,
    queries_at_a_time: int,
) -> None:
    monkeypatch.setattr(set_search, "ROWS_AT_A_TIME", rows_at_a_time)
    monkeypatch.setattr(set_search, "QUERIES_AT_A_TIME", queries_at_a_time)
    queries = store.read("S", rows[:5])
    expected = maxsim(queries, store.read("S", rows)).sort(dim=1, descending=True)
    found = search_sets(store, queries, k=50)
    assert found.rows.shape == (5, 19)
    assert BAD not in found.rows
    torch.testing.assert_close(found.scores, expected.values, atol=1e-5, rtol=0)


def test_transport__matches_with_the_options_given(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows[:2])
    for options in ({}, {"epsilon": 0.05, "num_iters": 10, "cost": "euclidean"}):
        expected = set_similarity(queries, store.read("S", rows), **options).sort(dim=1, descending=True).values
        for num_candidates in (None, 19):
            found = search_sets(store, queries, 19, "transport", num_candidates, **options)
            torch.testing.assert_close(found.scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("option", [{"epsilon": 0.1}, {"num_iters": 5}, {"cost": "cosine"}])
def test_options_of_transport__are_refused_by_maxsim(store: FeatureStore, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(option))} .*similarity='transport'"):
        search_sets(store, store.read("S", [0]), **option)


def test_similarity__must_be_known(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match=r"maxsim, transport, got 'cosine'"):
        search_sets(store, store.read("S", [0]), similarity="cosine")
    position: Any = 100  # where num_candidates was before
    with pytest.raises(ValueError, match=r"got 100; .*num_candidates=100"):
        search_sets(store, store.read("S", [0]), 3, position)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stored_types__are_searched_as_they_read(store: FeatureStore, tmp_path: Path, dtype: str) -> None:
    """Integers are compared without their scales, and give the same similarities."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(9, NUM_TOKENS, 48, generator=generator) * torch.rand(9, NUM_TOKENS, 1, generator=generator)
    features = {"S": tokens, "pooled": tokens.mean(dim=1)}
    stored = write_store(tmp_path / dtype, features, store.manifest, dtype=dtype)
    queries = stored.read("S", [2, 5]).float()
    expected = maxsim(queries, stored.read("S"))
    for options in ({}, {"num_candidates": 9}):
        found = search_sets(stored, queries, k=9, **options)
        torch.testing.assert_close(found.scores, expected.gather(1, found.rows), atol=1e-5, rtol=0)
        assert found.rows[:, 0].tolist() == [2, 5]


def test_equal_scores__are_in_the_order_of_rows(store: FeatureStore, tmp_path: Path) -> None:
    tokens = torch.eye(48)[:NUM_TOKENS].expand(6, -1, -1).contiguous()
    same = write_store(tmp_path / "same", {"S": tokens, "pooled": tokens.mean(dim=1)}, store.manifest)
    assert search_sets(same, tokens[:1], k=4).rows.tolist() == [[0, 1, 2, 3]]
    assert search_sets(same, tokens[:1], k=2, num_candidates=4).rows.tolist() == [[0, 1]]
    assert search_sets(same, tokens[:1], k=3, candidates=torch.tensor([[5, 2, 4]])).rows.tolist() == [[2, 4, 5]]


def test_candidates__are_enough_where_they_are_all(store: FeatureStore, rows: list[int]) -> None:
    queries = store.read("S", rows[:4])
    every, some = search_sets(store, queries, k=3), search_sets(store, queries, k=3, num_candidates=19)
    assert torch.equal(every.rows, some.rows)
    torch.testing.assert_close(every.scores, some.scores, atol=1e-5, rtol=0)


def test_candidates__are_the_nearest_by_pooled_vectors(
    store: FeatureStore, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_search, "ROWS_AT_A_TIME", 5)
    queries = store.read("S", rows[:6])
    found = search_sets(store, queries, k=2, num_candidates=4)
    nearest = search_images(store, queries.mean(dim=1), 4).rows
    assert all(set(own.tolist()) <= set(near.tolist()) for own, near in zip(found.rows, nearest, strict=True))
    expected = torch.stack(
        [maxsim(query[None], store.read("S", near))[0] for query, near in zip(queries, nearest, strict=True)]
    )
    torch.testing.assert_close(found.scores, expected.topk(2).values, atol=1e-5, rtol=0)
    assert search_sets(store, queries, k=3, num_candidates=1).rows.shape == (6, 3)
    with pytest.raises(ValueError, match=r"num_candidates .* got 0"):
        search_sets(store, queries, num_candidates=0)


def test_candidates__of_another_search_are_compared_alone(store: FeatureStore) -> None:
    queries = store.read("S", [2, 5])
    candidates = torch.tensor([[9, 2, 9, -1], [BAD, -1, -1, 3]])
    found = search_sets(store, queries, k=3, candidates=candidates)
    assert found.rows.tolist() == [[2, 9, -1], [3, -1, -1]]
    torch.testing.assert_close(found.scores[:, :1], maxsim(queries, store.read("S", [2, 3])).diag()[:, None])
    assert (found.scores[found.rows < 0] == -torch.inf).all()


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (torch.zeros(1, 3).long(), r"2 queries, got the shape \(1, 3\)"),
        (torch.zeros(2, 3), "float32"),
        (torch.full((2, 3), 20), "0 to 19.* got 20 to 20"),
        (torch.full((2, 3), -2), "got -2"),
    ],
)
def test_candidates__must_be_rows_of_the_store(store: FeatureStore, candidates: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_sets(store, store.read("S", [0, 1]), candidates=candidates)
    with pytest.raises(ValueError, match="not both"):
        search_sets(store, store.read("S", [0, 1]), num_candidates=3, candidates=candidates)


def test_no_candidates__find_nothing(store: FeatureStore) -> None:
    found = search_sets(store, store.read("S", [0, 1]), k=3, candidates=torch.full((2, 4), -1))
    assert found.rows.tolist() == [[-1, -1, -1]] * 2


def test_device__must_be_there(store: FeatureStore) -> None:
    queries = store.read("S", [0])
    assert torch.equal(search_sets(store, queries, device="cpu").rows, search_sets(store, queries).rows)
    with pytest.raises(ValueError, match="'cuda:99' is not available"):
        search_sets(store, queries, device="cuda:99")


@pytest.mark.gpu
@pytest.mark.parametrize("similarity", ["maxsim", "transport"])
@pytest.mark.parametrize("num_candidates", [None, 10])
def test_gpu__finds_what_the_cpu_finds(
    store: FeatureStore, rows: list[int], similarity: str, num_candidates: int | None
) -> None:
    queries = store.read("S", rows[:4])
    cpu, gpu = (search_sets(store, queries, 5, similarity, num_candidates, device=device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(gpu.scores, cpu.scores, atol=1e-4, rtol=0)
