"""The linear protocol."""

import sys
from dataclasses import replace

import pytest

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.protocols import linear
from stellar_hub.evaluation.protocols.linear import LinearProtocol, evaluate_linear
from stellar_hub.evaluation.splits import Splits, prepare_splits
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone

QUICK = LinearProtocol(learning_rates=(1e-3, 1e-1), num_epochs=5, held_out=0.25, inverse_penalties=(0.1, 1.0))


def test_report__says_what_was_chosen_and_on_what(
    tiny: StellarBackbone, pixels: PixelBackbone, splits: Splits, run: RunSettings
) -> None:
    report = evaluate_linear([pixels, tiny], splits, QUICK, run)
    first = report.measurements[0]
    assert list(first.metrics) == ["linear, %", "logistic, %"]
    assert first.metrics["logistic, %"] == 100  # colours tell the classes apart
    assert first.details["num_held_out"] == 3
    assert first.details["linear, %"]["learning_rate"] in QUICK.learning_rates
    assert set(first.details["logistic, %"]["held_out_accuracy"]) == {"0.1", "1.0"}
    assert set(report.backends) == {"scikit-learn"}
    assert [row.features for row in report.measurements[1:]] == ["pooled", "cls", "patches_mean", ""]


def test_long_work__is_shown(
    pixels: PixelBackbone,
    splits: Splits,
    run: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stellar_hub.progress.SECONDS_BETWEEN_LINES", 0.0)
    evaluate_linear([pixels], splits, QUICK, replace(run, show_progress=True))
    shown = capsys.readouterr().err
    for work in (
        "linear, choosing the learning rate: 1/5 epochs",
        "linear, fitting: 5/5 epochs",
        "logistic regression: 3/3 fits",
    ):
        assert work in shown


def test_choices__are_made_without_test(
    pixels: PixelBackbone, splits: Splits, test: LabelledImages, run: RunSettings
) -> None:
    wrong = LabelledImages(test.name, test.images, tuple((label + 1) % 3 for label in test.labels), test.classes)
    there, elsewhere = (
        evaluate_linear([pixels], each, QUICK, run).measurements[0]
        for each in (splits, prepare_splits(splits.train, wrong, run))
    )
    for fit in ("linear, %", "logistic, %"):
        assert there.details[fit]["held_out_accuracy"] == elsewhere.details[fit]["held_out_accuracy"]
    assert there.metrics != elsewhere.metrics


def test_same_seed__gives_the_same_numbers(pixels: PixelBackbone, splits: Splits, run: RunSettings) -> None:
    first, second = (evaluate_linear([pixels], splits, QUICK, run).as_dict() for _ in range(2))
    assert first == second


def test_large_train__goes_without_logistic_regression(
    pixels: PixelBackbone, splits: Splits, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = LinearProtocol((1e-2,), num_epochs=1, max_images_for_logistic=12)
    report = evaluate_linear([pixels], splits, protocol, run)
    assert list(report.measurements[0].metrics) == ["linear, %"]
    (note,) = report.notes
    assert "12 images" in note


def test_a_head_that_says_nothing__is_wrong_and_never_chosen(
    pixels: PixelBackbone, splits: Splits, run: RunSettings
) -> None:
    protocol = LinearProtocol((1e30, 1e-2), num_epochs=3, logistic=False)
    row = evaluate_linear([pixels], splits, protocol, run).measurements[0]
    assert row.details["linear, %"]["held_out_accuracy"]["1e+30"] == 0
    assert row.details["linear, %"]["learning_rate"] == 1e-2
    lost = evaluate_linear([pixels], splits, LinearProtocol((1e30,), num_epochs=3, logistic=False), run)
    assert lost.measurements[0].metrics["linear, %"] == 0


def test_train_without_two_of_a_class__is_refused_before_any_work(
    train: LabelledImages, test: LabelledImages, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = LabelledImages("few", [train.images[0], train.images[5], train.images[9]], (0, 1, 2), train.classes)
    monkeypatch.setattr(linear, "pooled_features", lambda *_: pytest.fail("features were computed"))
    with pytest.raises(ValueError, match="no class has two training images"):
        evaluate_linear([], prepare_splits(few, test, run), QUICK, run)


def test_missing_library__is_said_before_any_work(
    splits: Splits, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"stellar_hub\[eval\]"):
        evaluate_linear([], splits, QUICK, run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": ()}, "learning_rates"),
        ({"inverse_penalties": (-1.0,)}, "inverse_penalties.*-1.0"),
        ({"num_epochs": 0}, "num_epochs.* got 0 and 256"),
        ({"held_out": 1.0}, "held_out.* got 1.0"),
        ({"poolings": ("S",)}, "S is a set"),
        ({"poolings": ("mean",)}, "pooling.* got mean"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearProtocol(**options)  # type: ignore[arg-type]
