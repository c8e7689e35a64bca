from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.cli import dedup
from stellar_hub.retrieval import duplicates, find_duplicates, group_duplicates, hits
from stellar_hub.retrieval.duplicates import NEAREST, THRESHOLD, token_similarity
from stellar_hub.store import FeatureStore

from .conftest import BAD, write_store

Make = Callable[..., FeatureStore]


def at_angle(degrees: float) -> Tensor:
    """A set of one token, `(1, 2)`, in a direction."""
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()])[None]


@pytest.fixture
def make(store: FeatureStore, tmp_path: Path) -> Make:
    """Makes a store of sets of tokens, with pooled vectors or without."""

    def call(sets: Tensor, pooled: bool = True) -> FeatureStore:
        features = {"S": sets} | ({"pooled": sets.mean(dim=1)} if pooled else {})
        return write_store(tmp_path / "made", features, store.manifest)

    return call


@pytest.mark.parametrize("rows_at_a_time", [4, 4096])
def test_pairs__are_found_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, rows_at_a_time: int) -> None:
    monkeypatch.setattr(hits, "ROWS_AT_A_TIME", rows_at_a_time)
    assert [(one, other) for one, other, _ in find_duplicates(store, 0.999999)] == [(1, 19)]
    with pytest.raises(ValueError, match=r"threshold .* got 2"):
        find_duplicates(store, 2)


@pytest.mark.parametrize("block", [1, 5, 2048])
def test_copy__is_grouped_with_the_earlier_row(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    ((kept, others, similarities),) = group_duplicates(store, 1)
    assert (kept, others) == (1, (19,))
    assert similarities == pytest.approx((1,), abs=1e-5)


@pytest.mark.parametrize("block", [1, 3, 2048])
def test_groups__have_each_duplicate_similar_to_the_kept_one(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    groups = group_duplicates(store, 0.5)
    rows = [row for group in groups for row in (group.kept, *group.duplicates)]
    assert len(set(rows)) == len(rows)
    assert BAD not in rows
    tokens = F.normalize(store.read("S").float(), dim=-1)
    for group in groups:
        kept = tokens[[group.kept] * len(group.duplicates)]
        found = token_similarity(kept, tokens[list(group.duplicates)])
        torch.testing.assert_close(found, torch.tensor(group.similarities), atol=1e-5, rtol=0)
        assert min(group.similarities) >= 0.5


@pytest.mark.parametrize("block", [1, 2048])
@pytest.mark.parametrize("pooled", [True, False])
def test_chain__is_not_one_group(make: Make, monkeypatch: pytest.MonkeyPatch, block: int, pooled: bool) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    steps = torch.stack([at_angle(10.0 * step) for step in range(9)])
    groups = group_duplicates(make(steps, pooled), 0.98)  # cos(10°) is 0.985, and cos(20°) 0.94
    assert {(group.kept, group.duplicates) for group in groups} == {(0, (1,)), (2, (3,)), (4, (5,)), (6, (7,))}


def test_largest_image__is_kept_and_doubtful_groups_come_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(torch.stack([at_angle(degrees) for degrees in (0, 0, 90, 95, 45)]))
    monkeypatch.setattr(duplicates, "_largest_first", lambda store: torch.tensor([4, 3, 2, 1, 0]))
    assert [(group.kept, group.duplicates) for group in group_duplicates(made, 0.99)] == [(3, (2,)), (1, (0,))]


def test_images_of_one_size__are_in_the_order_of_rows(store: FeatureStore) -> None:
    rows = duplicates._largest_first(store).tolist()
    assert rows == [row for row in range(20) if row != BAD]


@pytest.mark.parametrize("block", [16, 2048])
def test_many_equal_images__are_one_group(make: Make, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    count = 3 * NEAREST
    (group,) = group_duplicates(make(torch.ones(count, 2, 3)))
    assert (group.kept, sorted(group.duplicates)) == (0, list(range(1, count)))


def test_near_images__are_told_from_copies_by_their_tokens(make: Make) -> None:
    sets = torch.eye(4)[torch.tensor([[0, 1], [2, 3], [1, 0]])]
    sets[1] = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0]])  # the same mean as the others
    ((kept, others, _),) = group_duplicates(make(sets))
    assert (kept, others) == (0, (2,))


def test_similarity__counts_the_tokens_of_both_sets() -> None:
    one, other = torch.eye(3)[None, :2], torch.eye(3)[None, [0, 0]]
    assert token_similarity(one, other).tolist() == [0.75]
    assert token_similarity(one, one.flip(1)).tolist() == [1]


@pytest.mark.parametrize("threshold", [0, -1, 1.1, float("nan")])
def test_threshold__is_in_its_range(store: FeatureStore, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        group_duplicates(store, threshold)


def test_store__must_hold_tokens(store: FeatureStore, tmp_path: Path) -> None:
    made = write_store(tmp_path / "made", {"pooled": torch.ones(2, 4)}, store.manifest)
    with pytest.raises(KeyError, match="'S'"):
        group_duplicates(made)
    with pytest.raises(TypeError, match="FeatureStore"):
        group_duplicates(str(made.path))  # type: ignore[arg-type]


def test_command__has_the_same_default() -> None:
    assert dedup.THRESHOLD == THRESHOLD
