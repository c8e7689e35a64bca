"""Similarity of sets of tokens, stability of tokens, shape of maps."""

import itertools
import math
import re
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.measures import map_shape, maxsim, set_similarity, token_cosine, token_stability


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maxsim_slowly(query: Tensor, other: Tensor) -> float:
    """Compares one pair of sets in float64, token by token."""
    return sum(max(float(a @ b / (a.norm() * b.norm())) for b in other.double()) for a in query.double())


@given(
    seed=st.integers(0, 100),
    counts=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    numbers=st.sampled_from([1, 40, 1 << 19]),
    query_tokens=st.sampled_from([1, 7, 1 << 10]),
)
def test_maxsim__is_the_sum_of_the_highest_cosines(
    seed: int, counts: tuple[int, int], sizes: tuple[int, int], numbers: int, query_tokens: int
) -> None:
    queries = 3 * draw(counts[0], sizes[0], 6, seed=seed)
    others = draw(counts[1], sizes[1], 6, seed=seed + 1)
    expected = [[maxsim_slowly(query, other) for other in others] for query in queries]
    with (
        mock.patch.dict("stellar_hub.measures.tokens.NUMBERS_AT_A_TIME", cpu=numbers),
        mock.patch("stellar_hub.measures.tokens.QUERY_TOKENS_AT_A_TIME", query_tokens),
    ):
        found = maxsim(queries, others)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_maxsim__does_not_depend_on_the_order_of_tokens() -> None:
    queries, others = draw(3, 5, 8), draw(4, 6, 8, seed=1)
    found = maxsim(queries[:, torch.randperm(5)], others[:, torch.randperm(6)])
    torch.testing.assert_close(found, maxsim(queries, others), rtol=1e-5, atol=1e-6)


def test_maxsim__lets_tokens_share_a_partner() -> None:
    query = torch.eye(4)[None]
    others = torch.cat([query, query[:, :1].expand(1, 4, 4)])
    assert maxsim(query, others).tolist() == [[4, 1]]
    assert maxsim(others, query).tolist() == [[4], [4]]  # all four tokens of the second set find their copy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maxsim__compares_other_floats_in_float32(dtype: torch.dtype) -> None:
    queries, others = draw(2, 3, 8).to(dtype), draw(5, 4, 8, seed=1).to(dtype)
    assert torch.equal(maxsim(queries, others), maxsim(queries.float(), others.float()))


def test_maxsim__needs_no_scales_of_integers() -> None:
    integers = (40 * draw(5, 4, 8)).round().clamp(-127, 127).to(torch.int8)
    scaled = integers.float() * torch.rand(5, 4, 1).add(0.1)
    torch.testing.assert_close(maxsim(integers, integers), maxsim(scaled, scaled), rtol=1e-5, atol=1e-5)


def test_maxsim__is_nan_where_a_value_is_not_finite() -> None:
    queries, others = draw(2, 3, 4), draw(3, 2, 4, seed=1)
    queries[1, 0, 0], others[1, 1, 2], others[2, 0, 1] = torch.nan, torch.nan, torch.inf
    assert maxsim(queries, others).isnan().tolist() == [[False, True, True], [True, True, True]]


def test_maxsim__of_a_token_of_zeros_is_0() -> None:
    assert maxsim(torch.ones(1, 2, 3), torch.zeros(2, 4, 3)).tolist() == [[0, 0]]
    assert maxsim(torch.zeros(1, 2, 3), torch.ones(2, 4, 3)).tolist() == [[0, 0]]


def test_maxsim__of_no_sets_is_empty() -> None:
    assert maxsim(draw(0, 3, 4), draw(5, 2, 4)).shape == (0, 5)
    assert maxsim(draw(2, 3, 4), draw(0, 2, 4)).shape == (2, 0)


def test_maxsim__has_gradients() -> None:
    queries, others = draw(2, 2, 3).double().requires_grad_(), draw(2, 3, 3, seed=1).double().requires_grad_()
    maxsim(queries, others).sum().backward()
    step = 1e-2 * draw(2, 3, 3, seed=2).double()
    with torch.no_grad():
        change = (maxsim(queries, others + step) - maxsim(queries, others - step)).sum() / 2
    assert others.grad is not None
    assert change.item() == pytest.approx((others.grad * step).sum().item(), rel=0.02)


@pytest.mark.parametrize("shapes", [((2, 4), (2, 3, 4)), ((2, 3, 4), (2, 3, 5)), ((2, 0, 4), (2, 3, 4))])
def test_maxsim__refuses_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=rf"\(Q, r, d\) and \(N, t, d\), got {re.escape(str(shapes[0]))}"):
        maxsim(torch.ones(shapes[0]), torch.ones(shapes[1]))


def similarity_slowly(query: Tensor, other: Tensor, epsilon: float, num_iters: int, cost: str) -> float:
    """Compares one pair of sets in float64, with the Sinkhorn iterations as sums of exponentials."""
    cosine = [[float(a @ b / a.norm() / b.norm()) for b in other.double()] for a in query.double()]
    costs = [[1 - each if cost == "cosine" else math.sqrt(max(0, 2 - 2 * each)) for each in row] for row in cosine]
    rows, columns = range(len(cosine)), range(len(cosine[0]))
    u, v = [0.0] * len(rows), [0.0] * len(columns)
    for _ in range(num_iters):
        u = [-epsilon * math.log(sum(math.exp((v[j] - costs[i][j]) / epsilon) for j in columns)) for i in rows]
        v = [-epsilon * math.log(sum(math.exp((u[i] - costs[i][j]) / epsilon) for i in rows)) for j in columns]
    plan = [[math.exp((u[i] + v[j] - costs[i][j]) / epsilon) for j in columns] for i in rows]
    return sum(plan[i][j] * cosine[i][j] for i in rows for j in columns) / sum(map(sum, plan))


@pytest.mark.parametrize("cost", ["cosine", "euclidean"])
@given(seed=st.integers(0, 100), sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)), epsilon=st.floats(0.05, 1))
def test_similarity__is_the_mean_cosine_under_the_plan(
    seed: int, sizes: tuple[int, int], epsilon: float, cost: str
) -> None:
    queries, bank = draw(2, sizes[0], 5, seed=seed), draw(3, sizes[1], 5, seed=seed + 1)
    expected = [[similarity_slowly(query, other, epsilon, 5, cost) for other in bank] for query in queries]
    found = set_similarity(queries, bank, epsilon, 5, cost)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-5)


def test_similarity__does_not_depend_on_the_order_of_tokens() -> None:
    tokens = torch.eye(6)[None] + 0.1 * draw(1, 6, 6)
    shuffled = tokens[:, torch.tensor([3, 1, 5, 0, 2, 4])]
    assert set_similarity(tokens, shuffled, epsilon=0.02).item() > 0.999
    assert set_similarity(tokens, -tokens, epsilon=0.02).item() < 0.5


def test_similarity__matches_one_to_one() -> None:
    """Each token takes part once: a set that repeats one token of the query is not a good match."""
    query = torch.eye(4)[None]
    half = query * torch.tensor([1, 1, -1, -1])[:, None]
    bank = torch.cat([query, query[:, :1].expand(1, 4, 4), half])
    expected = torch.tensor([[1.0, 0.25, 0.5]])
    torch.testing.assert_close(set_similarity(query, bank, epsilon=0.05, num_iters=100), expected, rtol=0, atol=0.01)


def test_similarity__does_not_depend_on_how_many_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = draw(3, 4, 5), draw(7, 4, 5, seed=1)
    together = set_similarity(queries, bank)
    monkeypatch.setattr("stellar_hub.measures.tokens.PAIRS_AT_A_TIME", 2)
    torch.testing.assert_close(set_similarity(queries, bank), together, rtol=1e-5, atol=1e-6)
    assert set_similarity(queries[:0], bank).shape == (0, 7)
    assert set_similarity(queries, bank[:0]).shape == (3, 0)


@pytest.mark.parametrize("shapes", [((2, 4), (2, 3, 4)), ((2, 3, 4), (2, 0, 4))])
def test_similarity__refuses_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=rf"\(Q, r, d\) and \(N, t, d\), got {re.escape(str(shapes[0]))}"):
        set_similarity(torch.ones(shapes[0]), torch.ones(shapes[1]))


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"num_iters": 0}, {"cost": "manhattan"}])
def test_similarity__refuses_parameters_out_of_range(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name}.* got .*{value}"):
        set_similarity(torch.ones(1, 2, 3), torch.ones(1, 2, 3), **options)


def test_token_cosine__is_the_mean_over_pairs() -> None:
    tokens = draw(3, 4, 6)
    cosines = torch.cosine_similarity(tokens[:, :, None], tokens[:, None], dim=-1)
    expected = cosines[:, ~torch.eye(4, dtype=torch.bool)].mean()
    torch.testing.assert_close(token_cosine(tokens), expected, rtol=1e-5, atol=1e-6)


def test_token_cosine__of_orthogonal_opposite_identical_and_single_tokens() -> None:
    tokens = [3 * torch.eye(4), torch.tensor([[1.0, 2], [-2, -4]]), torch.ones(2, 3), torch.ones(1, 3)]
    assert [token_cosine(each[None]).item() for each in tokens] == pytest.approx([0, -1, 1, 0], abs=1e-6)


@given(seed=st.integers(0, 100), places=st.integers(1, 9), tokens=st.integers(2, 5))
def test_shape__is_the_formula_one_map_at_a_time(seed: int, places: int, tokens: int) -> None:
    maps = (3 * torch.randn(2, places, tokens, generator=torch.Generator().manual_seed(seed))).softmax(dim=-1)
    rows = [-sum(float(x) * math.log(x) for x in row) for each in maps.double() for row in each]
    areas, owning = [], []
    for each in maps.double():
        owners = {int(row.argmax()) for row in each}
        owning.append(len(owners) / tokens)
        for token in range(tokens):
            shares = (each[:, token] / each[:, token].sum()).tolist()
            areas.append(math.exp(-sum(x * math.log(x) for x in shares)) / places)
    found = map_shape(maps)
    assert found.sharpness == pytest.approx(1 - sum(rows) / len(rows) / math.log(tokens), abs=1e-6)
    assert found.area == pytest.approx(sum(areas) / len(areas), abs=1e-6)
    assert found.owning == pytest.approx(sum(owning) / len(owning))


def test_shape__reaches_the_ends_of_its_ranges() -> None:
    shared_out = torch.eye(4)[None]  # each place its own token
    assert map_shape(shared_out) == pytest.approx((1.0, 1 / 4, 1.0))
    blank = torch.full((1, 6, 3), 1 / 3)
    assert map_shape(blank) == pytest.approx((0.0, 1.0, 1 / 3), abs=1e-6)
    assert map_shape(torch.ones(1, 6, 1)) == pytest.approx((1.0, 1.0, 1.0))


def test_stability__does_not_depend_on_the_order_of_tokens() -> None:
    first = 4 * torch.eye(5, 8)[None] + 0.1 * draw(3, 5, 8)
    order = torch.tensor([3, 0, 2, 4, 1])
    same, shuffled = token_stability(first, first), token_stability(first, first[:, order])
    assert same.matched == pytest.approx(1, abs=1e-6)
    assert shuffled.matched == pytest.approx(1, abs=1e-6)
    assert same.same_index == 1
    assert shuffled.same_index == pytest.approx(1 / 5)  # token 2 stays in its place
    assert shuffled.unmatched == pytest.approx(same.unmatched, abs=1e-6)


def test_stability__is_the_mean_of_cosines_one_by_one() -> None:
    first = 5 * torch.eye(3, 4)[None] + draw(2, 3, 4)
    second = first + 0.05 * draw(2, 3, 4, seed=1)  # so near that the identity is the matching
    cosines = {
        (b, i, j): float(torch.cosine_similarity(first[b, i].double(), second[b, j].double(), dim=0))
        for b, i, j in itertools.product(range(2), range(3), range(3))
    }
    found = token_stability(first, second)
    assert found.matched == pytest.approx(sum(c for (_, i, j), c in cosines.items() if i == j) / 6, abs=1e-6)
    assert found.unmatched == pytest.approx(sum(c for (_, i, j), c in cosines.items() if i != j) / 12, abs=1e-6)


def test_stability__of_one_token_has_no_other_pairs() -> None:
    found = token_stability(draw(2, 1, 4), draw(2, 1, 4))
    assert found == pytest.approx((1.0, 0.0, 1.0))
