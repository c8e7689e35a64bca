"""Classification by nearest neighbours, on tensors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.measures import knn_accuracy, knn_predict, leave_one_out_accuracy, similarities, vote


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predict_slowly(queries: Tensor, bank: Tensor, labels: Tensor, k: int, temperature: float) -> list[int]:
    """The protocol's text, one query and one vote at a time, in float64."""
    classes = []
    for query in queries.double():
        similarity = [float(query @ other / query.norm() / other.norm()) for other in bank.double()]
        votes = dict.fromkeys(range(int(labels.max()) + 1), 0.0)
        for index in sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]:
            votes[int(labels[index])] += math.exp(similarity[index] / temperature)
        classes.append(max(votes, key=lambda name: votes[name]))
    return classes


class TestKnnPredict:
    @given(seed=st.integers(0, 1000), k=st.integers(1, 12), temperature=st.sampled_from([0.01, 0.07, 1.0]))
    def test_predict__is_the_protocol(self, seed: int, k: int, temperature: float) -> None:
        queries, bank = draw(5, 4, seed=seed), draw(12, 4, seed=seed + 1)
        labels = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(seed))
        predictions = knn_predict(queries, bank, labels, k, temperature)
        assert predictions.tolist() == predict_slowly(queries, bank, labels, k, temperature)

    def test_predict__weighs_the_near_more_than_the_many(self) -> None:
        bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
        labels = torch.tensor([0, 1, 1])
        query = torch.tensor([[2.0, 0.0]])
        assert knn_predict(query, bank, labels, num_neighbours=3, temperature=0.07).item() == 0
        assert knn_predict(query, bank, labels, num_neighbours=3, temperature=10.0).item() == 1

    def test_predict__does_not_depend_on_lengths_or_on_the_other_queries(self) -> None:
        queries, bank, labels = draw(2100, 3), draw(30, 3, seed=1), torch.arange(30) % 4
        together = knn_predict(queries, bank, labels, 5)
        lengths = torch.linspace(0.1, 10, 2100)[:, None]
        assert torch.equal(knn_predict(lengths * queries, bank * 3, labels, 5), together)
        assert torch.equal(knn_predict(queries[1500:1600], bank, labels, 5), together[1500:1600])

    def test_predict__of_no_queries_is_empty(self) -> None:
        predictions = knn_predict(draw(0, 3), draw(5, 3), torch.zeros(5, dtype=torch.long), 2)
        assert predictions.shape == (0,)
        assert predictions.dtype == torch.long

    def test_predict__takes_half_precision_and_zero_features(self) -> None:
        bank = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).half()
        assert knn_predict(bank[1:], bank, torch.tensor([0, 1]), 1).tolist() == [1]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"queries": draw(4, 2)}, r"\(4, 2\) and \(6, 3\)"),
            ({"bank_labels": torch.zeros(6)}, "bank_labels.* got torch.float32"),
            ({"num_neighbours": 7}, "between 1 and 6.* got 7"),
            ({"temperature": 0.0}, "temperature.* got 0.0"),
            ({"bank": torch.full((6, 3), torch.inf)}, "bank has values that are not finite"),
        ],
    )
    def test_predict__refuses_what_does_not_fit(self, change: dict, message: str) -> None:
        fitting = {
            "queries": draw(4, 3),
            "bank": draw(6, 3),
            "bank_labels": torch.zeros(6, dtype=torch.long),
            "num_neighbours": 2,
        }
        with pytest.raises(ValueError, match=message):
            knn_predict(**(fitting | change))


class TestKnnAccuracy:
    def test_accuracy__is_the_share_of_right_classes(self) -> None:
        bank, labels = torch.eye(4), torch.arange(4)
        assert knn_accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]), bank, labels, 1) == pytest.approx(0.75)

    def test_accuracy__refuses_queries_without_labels(self) -> None:
        with pytest.raises(ValueError, match=r"\(3, 4\) and \(2,\)"):
            knn_accuracy(draw(3, 4), torch.zeros(2, dtype=torch.long), torch.eye(4), torch.arange(4), 1)


def test_similarities__are_cosines() -> None:
    queries, bank = draw(3, 4), draw(9, 4, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries.double()[:, None], bank.double()[None], dim=-1)
    (found,) = similarities(queries, bank)
    torch.testing.assert_close(found.double(), cosine, rtol=0, atol=1e-5)


class TestTies:
    """Features of the bank that are exactly as near as the last one that votes."""

    def test_vote__shares_the_last_places_among_equals(self) -> None:
        similarity = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1]])
        labels = torch.tensor([0, 1, 1, 1, 2])
        # With temperature 1 the second place weighs 0.67 of the first, and so do four places among three equals.
        assert vote(similarity, labels, (1, 2, 3, 4), 3, temperature=1.0)[:, 0].tolist() == [0, 0, 1, 1]
        assert vote(similarity, torch.tensor([0, 1, 2, 2, 0]), (2,), 3, temperature=1e4).item() == 0

    @pytest.mark.parametrize("num_neighbours", [1, 5, 20])
    def test_predictions__do_not_depend_on_the_order_of_the_bank(self, num_neighbours: int) -> None:
        few = draw(5, 32, seed=2)
        bank = few[torch.arange(203) % 5]  # each feature about 40 times, with several classes
        labels = (torch.arange(203) * 7 + torch.arange(203) // 11) % 6
        queries = draw(40, 32, seed=3)
        expected = knn_predict(queries, bank, labels, num_neighbours)
        for seed in range(5):
            order = torch.randperm(203, generator=torch.Generator().manual_seed(seed))
            assert torch.equal(knn_predict(queries, bank[order], labels[order], num_neighbours), expected)

    def test_features_that_are_all_equal__give_the_most_frequent_class(self) -> None:
        labels = torch.tensor([2, 0, 1, 1, 2, 1, 0])
        assert knn_predict(torch.ones(3, 4), torch.ones(7, 4), labels, 2).tolist() == [1, 1, 1]


class TestLeaveOneOut:
    @pytest.mark.parametrize("num_neighbours", [1, 4, 8])
    def test_accuracy__is_that_of_each_row_against_the_others(self, num_neighbours: int) -> None:
        features, labels = draw(9, 3, seed=4), torch.arange(9) % 3
        right = 0
        for row in range(9):
            others = torch.arange(9) != row
            found = knn_predict(features[row : row + 1], features[others], labels[others], num_neighbours)
            right += int(found.item() == labels[row])
        assert leave_one_out_accuracy(features, labels, num_neighbours) == pytest.approx(right / 9)

    def test_rows_beyond_a_chunk__do_not_see_themselves(self) -> None:
        features, labels = torch.ones(1030, 2), torch.zeros(1030, dtype=torch.long)
        labels[-1] = 1  # alone in its class, so that only itself could vote for it
        assert leave_one_out_accuracy(features, labels, 1) == pytest.approx(1029 / 1030)

    def test_accuracy__needs_another_row(self) -> None:
        with pytest.raises(ValueError, match="between 1 and 2"):
            leave_one_out_accuracy(draw(3, 2), torch.zeros(3, dtype=torch.long), 3)
