"""Classification by nearest neighbours."""

from dataclasses import replace

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.protocols.knn import KnnProtocol, evaluate_knn
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
