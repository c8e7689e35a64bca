"""The segmentation protocol."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stellar_hub.data.labelled import read_segmentation_folder
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.feature_set import fit_masks
from stellar_hub.evaluation.mask_splits import SegmentationSplits, prepare_segmentation
from stellar_hub.evaluation.protocols.segmentation import (
    BEST,
    MATCHED,
    MIOU,
    PIXELS,
    SegmentationProtocol,
    choose_shown,
    evaluate_segmentation,
)
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import argmax_regions, best_iou, to_pixels

QUICK = SegmentationProtocol(learning_rates=(1e-2, 3e-2), num_epochs=8, batch_size=4, num_clusters=3)


@pytest.fixture
def masked(mask_folders: tuple[Path, Path], run: RunSettings) -> SegmentationSplits:
    """Images with masks."""
    train, test = (read_segmentation_folder(folder) for folder in mask_folders)
    return prepare_segmentation(train, test, run)


def test_report__has_probes_and_segments_of_each_model(
    tiny: StellarBackbone, pixels: PixelBackbone, masked: SegmentationSplits, run: RunSettings
) -> None:
    protocol = SegmentationProtocol(("patches", "L"), (1e-2, 3e-2), num_epochs=4, batch_size=4, num_clusters=3)
    report = evaluate_segmentation([pixels, tiny], masked, protocol, run)
    assert [(row.model, row.features) for row in report.measurements] == [
        ("pixels", "patches"),
        ("pixels", "3 clusters of patches"),
        ("tiny", "patches"),
        ("tiny", "L"),
        ("tiny", "tokens as segments"),
    ]
    for row in report.measurements:
        expected = [BEST, MATCHED] if " " in row.features else [MIOU, PIXELS]
        assert list(row.metrics) == expected
        assert all(value is not None and 0 <= value <= 100 for value in row.metrics.values())
    assert set(report.backends) == {"scikit-learn", "scipy"}
    assert list(report.images) == ["segmentation-overlays"]
    assert report.data["classes"] == ["background", "red", "blue"]


def test_long_work__is_shown(
    tiny: StellarBackbone,
    masked: SegmentationSplits,
    run: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stellar_hub.progress.SECONDS_BETWEEN_LINES", 0.0)
    evaluate_segmentation([tiny], masked, QUICK, replace(run, show_progress=True))
    shown = capsys.readouterr().err
    for work in (
        "fitting masks of test: 5/5 masks",
        "probe of patches, fitting: 8/8 epochs",
        "predicting masks: 4/5 images",
        "comparing regions, tiny: 5/5 images",
    ):
        assert work in shown


def test_probe__learns_colours(pixels: PixelBackbone, masked: SegmentationSplits, run: RunSettings) -> None:
    protocol = SegmentationProtocol(learning_rates=(3e-2,), num_epochs=30, batch_size=4, num_clusters=3)
    row = evaluate_segmentation([pixels], masked, protocol, run).measurements[0]
    assert row.metrics[PIXELS] is not None
    assert row.metrics[PIXELS] > 85
    assert set(row.details["class_iou"]) == {"background", "red", "blue"}


def test_segments__are_the_tokens_places(tiny: StellarBackbone, masked: SegmentationSplits, run: RunSettings) -> None:
    row = evaluate_segmentation([tiny], masked, QUICK, run).measurements[-1]
    maps = all_features(tiny, masked.test.images, ("L",), run)["L"]
    masks = fit_masks(tiny, masked.test, range(5))
    found = [
        best_iou(to_pixels(argmax_regions(each, (4, 4)), 32, 32), (mask == mask.max())[None])
        for each, mask in zip(maps, masks, strict=True)
    ]
    assert row.metrics[BEST] == pytest.approx(100 * torch.cat(found).mean().item())
    assert row.details["num_objects"] == 5


def test_background__counts_as_an_object_on_request(
    tiny: StellarBackbone, masked: SegmentationSplits, run: RunSettings
) -> None:
    protocol = SegmentationProtocol(learning_rates=(1e-2,), num_epochs=1, background=None)
    assert evaluate_segmentation([tiny], masked, protocol, run).measurements[-1].details["num_objects"] == 10


def test_same_seed__gives_the_same_numbers(pixels: PixelBackbone, masked: SegmentationSplits, run: RunSettings) -> None:
    first, second = (evaluate_segmentation([pixels], masked, QUICK, run).as_dict() for _ in range(2))
    assert first == second


def test_shown_images__cover_the_classes_before_they_repeat_one() -> None:
    labels = torch.tensor([1] * 6 + [2, 255, 3] + [1] * 3, dtype=torch.uint8)
    masks = labels[:, None, None].expand(-1, 2, 2).contiguous()
    masks[:, 0, 0] = 0
    shown = choose_shown(masks, 6)
    assert shown == sorted(set(shown))
    assert len(shown) == 6
    assert {6, 8} <= set(shown)
    assert choose_shown(masks[:3], 6) == [0, 1, 2]


def test_background__must_be_a_class(pixels: PixelBackbone, masked: SegmentationSplits, run: RunSettings) -> None:
    with pytest.raises(ValueError, match=r"background must be .*0 to 2.* got 3"):
        evaluate_segmentation([pixels], masked, SegmentationProtocol(background=3), run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 1.0}, "held_out"),
        ({"seed": -1}, "seed must be between 0 and 4294967295, got -1"),
        ({"learning_rates": (float("inf"),)}, "learning_rates.* got inf"),
        ({"background": -1}, "background.* got -1"),
        ({"features": ("cls",)}, "features.* got cls"),
        ({"features": ()}, "got none"),
        ({"learning_rates": (0.0,)}, "learning_rates.*0.0"),
        ({"num_epochs": 0}, "num_epochs.* got 0, 16 and 16"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationProtocol(**options)  # type: ignore[arg-type]
