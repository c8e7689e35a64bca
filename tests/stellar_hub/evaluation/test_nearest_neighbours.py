"""Weighted nearest neighbours."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.evaluation.nearest_neighbours import knn_accuracy, knn_predict, nearest_neighbours


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
            ({"queries": draw(4, 2)}, r"got (4, 2) and (6, 3)"),
            ({"bank": draw(0, 3), "bank_labels": torch.zeros(0)}, "N at least 1"),
            ({"bank_labels": torch.zeros(5, dtype=torch.long)}, "bank_labels must be 6 integers"),
            ({"bank_labels": torch.zeros(6)}, "got torch.float32"),
            ({"bank_labels": torch.full((6,), -1)}, "integers from 0"),
            ({"num_neighbours": 7}, "between 1 and 6, the size of the bank, got 7"),
            ({"num_neighbours": 0}, "got 0"),
            ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
            ({"queries": torch.full((4, 3), torch.nan)}, "queries holds values that are not finite"),
            ({"bank": torch.full((6, 3), torch.inf)}, "bank holds values that are not finite"),
        ],
    )
    def test_predict__refuses_what_does_not_fit(self, change: dict, message: str) -> None:
        fitting = {
            "queries": draw(4, 3),
            "bank": draw(6, 3),
            "bank_labels": torch.zeros(6, dtype=torch.long),
            "num_neighbours": 2,
        }
        with pytest.raises(ValueError, match=re.escape(message)):
            knn_predict(**(fitting | change))


class TestKnnAccuracy:
    def test_accuracy__is_the_share_of_right_classes(self) -> None:
        bank, labels = torch.eye(4), torch.arange(4)
        assert knn_accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0]), bank, labels, 1) == pytest.approx(0.75)

    @pytest.mark.parametrize(("num_queries", "num_labels"), [(0, 0), (3, 2)])
    def test_accuracy__refuses_queries_without_labels(self, num_queries: int, num_labels: int) -> None:
        labels = torch.zeros(num_labels, dtype=torch.long)
        with pytest.raises(ValueError, match="there must be queries, with one label each"):
            knn_accuracy(draw(num_queries, 4), labels, torch.eye(4), torch.arange(4), 1)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_predict__is_scikit_learns_with_the_same_weights(k: int, temperature: float) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    queries, bank = draw(60, 8), draw(200, 8, seed=1)
    labels = torch.randint(0, 6, (200,), generator=torch.Generator().manual_seed(2))
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    expected = reference.fit(bank.double().numpy(), labels.numpy()).predict(queries.double().numpy())
    assert knn_predict(queries, bank, labels, k, temperature).tolist() == expected.tolist()


def test_neighbours__are_the_nearest_first_by_cosine() -> None:
    queries, bank = draw(3, 4), draw(9, 4, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries.double()[:, None], bank.double()[None], dim=-1)
    similarity, index = nearest_neighbours(queries, bank, 4)
    expected = cosine.topk(4, dim=-1)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(similarity.double(), expected.values, rtol=0, atol=1e-5)
