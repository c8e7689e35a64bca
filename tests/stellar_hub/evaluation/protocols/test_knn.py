"""Classification by nearest neighbours."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.protocols.knn import (
    KnnProtocol,
    evaluate_knn,
    knn_accuracy,
    knn_predict,
    similarities,
    vote,
)
from stellar_hub.evaluation.splits import Splits, prepare_splits
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.modeling import StellarModel


def test_report__has_a_row_for_each_model_and_pooling_and_one_to_be_better_than(
    tiny: StellarBackbone, pixels: PixelBackbone, splits: Splits, run: RunSettings
) -> None:
    report = evaluate_knn([tiny, pixels], splits, KnnProtocol((1, 5)), run)
    rows = [(row.model, row.features) for row in report.measurements]
    assert rows == [
        ("tiny", "pooled"),
        ("tiny", "cls"),
        ("tiny", "patches_mean"),
        ("pixels", "pixels"),
        ("most frequent class", ""),
    ]
    assert list(report.measurements[0].metrics) == ["k=1, %", "k=5, %"]
    assert report.measurements[-1].metrics["k=1, %"] == pytest.approx(100 * 3 / 7)  # blue
    assert [facts["name"] for facts in report.models] == ["tiny", "pixels"]
    assert report.protocol["num_neighbours"] == (1, 5)
    assert list(report.images) == ["knn-confusion"]


def test_long_work__is_shown(
    pixels: PixelBackbone,
    splits: Splits,
    run: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stellar_hub.progress.SECONDS_BETWEEN_LINES", 0.0)
    evaluate_knn([pixels], splits, KnnProtocol((1,)), replace(run, show_progress=True))
    assert "voting: 1/1 batches" in capsys.readouterr().err


@pytest.mark.parametrize("center", [False, True])
def test_accuracy__is_that_of_scikit_learn(
    pixels: PixelBackbone, splits: Splits, run: RunSettings, center: bool
) -> None:
    bank, queries = (
        all_features(pixels, each.images, ("pixels",), run)["pixels"].double() for each in (splits.train, splits.test)
    )
    if center:
        bank, queries = bank - bank.mean(dim=0), queries - bank.mean(dim=0)
    report = evaluate_knn([pixels], splits, KnnProtocol((1, 3), center=center), run)
    for k in (1, 3):
        reference = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: torch.exp((1 - torch.from_numpy(d)) / 0.07).numpy()
        ).fit(bank.numpy(), splits.train.labels)
        expected = 100 * reference.score(queries.numpy(), splits.test.labels)
        assert report.measurements[0].metrics[f"k={k}, %"] == pytest.approx(expected)
    by_class = report.measurements[0].details["class_accuracy"]["k=1"]
    assert set(by_class) == {"blue", "green", "red"}


def test_sets_of_tokens__are_compared_by_matching(tiny: StellarBackbone, splits: Splits, run: RunSettings) -> None:
    report = evaluate_knn([tiny], splits, KnnProtocol((3,), poolings=("S", "cls")), run)
    assert [row.features for row in report.measurements] == ["S", "cls", ""]
    assert report.measurements[0].metrics["k=3, %"] is not None


def test_a_model_without_the_pooling__is_measured_by_its_usual_one(
    tiny: StellarBackbone, pixels: PixelBackbone, splits: Splits, run: RunSettings
) -> None:
    report = evaluate_knn([tiny, pixels], splits, KnnProtocol((3,), poolings=("cls",)), run)
    assert [row.features for row in report.measurements] == ["cls", "pixels", ""]


def test_usual_k__are_those_that_train_reaches(pixels: PixelBackbone, splits: Splits, run: RunSettings) -> None:
    report = evaluate_knn([pixels], splits, KnnProtocol(), run)
    assert report.protocol["num_neighbours"] == (10,)
    (note,) = report.notes
    assert "20, 100, 200" in note
    assert "13 images" in note


def test_k_that_does_not_fit__is_refused_before_any_work(splits: Splits, run: RunSettings) -> None:
    with pytest.raises(ValueError, match=r"k = 14 .* 13 images"):
        evaluate_knn([], splits, KnnProtocol((3, 14)), run)
    with pytest.raises(ValueError, match=r"train has 7 images.*--k 7"):
        KnnProtocol().resolved(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbours": (0,)}, "k must be .* got 0"),
        ({"temperature": 0.0}, "temperature.* got 0"),
        ({"poolings": ("mean",)}, "pooling.* got mean"),
        ({"similarity": "euclidean"}, "similarity.* got 'euclidean'"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnnProtocol(**options)  # type: ignore[arg-type]


def test_features_that_are_not_finite__name_their_images(
    tiny: StellarBackbone, pixel_model: StellarModel, splits: Splits, run: RunSettings
) -> None:
    tiny.network.encoder.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"'pooled'.* 13 of 13 images \(.*\.png, "):
        evaluate_knn([tiny], splits, KnnProtocol((3,)), run)


def test_classes_of_one_image__can_be_voted_for(
    pixels: PixelBackbone, train: LabelledImages, test: LabelledImages, run: RunSettings
) -> None:
    few = LabelledImages("few", [train.images[0], train.images[5], train.images[9]], (0, 1, 2), train.classes)
    report = evaluate_knn([pixels], prepare_splits(few, test, run), KnnProtocol((1,)), run)
    assert report.measurements[0].metrics["k=1, %"] == 100
    (note,) = report.notes
    assert "blue, green, red" in note


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
