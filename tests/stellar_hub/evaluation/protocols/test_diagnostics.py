"""The diagnostics protocol."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.protocols.diagnostics import LEGEND, DiagnosticsProtocol, evaluate_diagnostics
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import alignment, effective_rank

OF_TOKENS = {"rank of S", "rank of S within", "Vendi within", "stability", "stability by chance"}
OF_MAPS = {"sharpness of L", "area of L", "owning tokens"}
OF_PROTOTYPES = {"prototype entropy", "prototypes used"}


def test_report__has_every_number_that_applies_and_its_legend(
    tiny: StellarBackbone, pixels: PixelBackbone, train: LabelledImages, run: RunSettings
) -> None:
    report = evaluate_diagnostics([tiny, pixels], train.images, "train", DiagnosticsProtocol(), run)
    of_tiny, of_pixels = report.measurements
    assert set(of_tiny.metrics) == set(of_pixels.metrics) == set(LEGEND) - OF_PROTOTYPES
    assert all(value is not None for value in of_tiny.metrics.values())
    assert {name for name, value in of_pixels.metrics.items() if value is None} == OF_TOKENS | OF_MAPS
    assert set(report.legend) == set(of_tiny.metrics)
    assert all(set(entry) == {"what", "source", "range", "good"} for entry in LEGEND.values())
    assert list(report.images) == ["diagnostics-spectrum"]
    assert sum(of_tiny.details["spectrum"]) == pytest.approx(1)
    assert of_pixels.details["numerical_rank"] == 12  # of 13 images, whose mean is subtracted
    assert of_pixels.details["spectrum"][12:] == [0.0]


def test_long_work__is_shown(
    pixels: PixelBackbone,
    train: LabelledImages,
    run: RunSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stellar_hub.progress.SECONDS_BETWEEN_LINES", 0.0)
    evaluate_diagnostics([pixels], train.images, "train", DiagnosticsProtocol(), replace(run, show_progress=True))
    assert "measuring, pixels: 3/3 parts" in capsys.readouterr().err


def test_numbers__are_of_the_images_and_of_two_views(
    tiny: StellarBackbone, train: LabelledImages, run: RunSettings
) -> None:
    protocol = DiagnosticsProtocol(seed=4)
    row = evaluate_diagnostics([tiny], train.images, "train", protocol, run).measurements[0]
    whole = all_features(tiny, train.images, ("pooled",), run)["pooled"]
    views = [all_features(tiny, train.images, ("pooled",), run, view=protocol.view(n))["pooled"] for n in (1, 2)]
    assert row.metrics["rank of pooled"] == pytest.approx(effective_rank(whole).item(), rel=1e-6)
    assert row.metrics["alignment"] == pytest.approx(alignment(*views), rel=1e-6)


def test_one_seed__reproduces_every_number(tiny: StellarBackbone, train: LabelledImages, run: RunSettings) -> None:
    first, second, other = (
        evaluate_diagnostics([tiny], train.images, "train", DiagnosticsProtocol(10, seed=seed), run)
        for seed in (1, 1, 2)
    )
    assert first.as_dict() == second.as_dict()
    assert first.measurements[0].metrics != other.measurements[0].metrics
    assert first.data["data"]["num_images"] == 10


def test_prototypes__are_those_of_a_checkpoint(
    tiny: StellarBackbone,
    pixels: PixelBackbone,
    train: LabelledImages,
    run: RunSettings,
    build_pretraining_model: Callable[..., Any],
    tmp_path: Path,
) -> None:
    save_file(build_pretraining_model().state_dict(), tmp_path / "model.safetensors")
    protocol = DiagnosticsProtocol(prototypes=str(tmp_path))
    row = evaluate_diagnostics([tiny], train.images, "train", protocol, run).measurements[0]
    used, entropy = row.metrics["prototypes used"], row.metrics["prototype entropy"]
    assert used is not None
    assert entropy is not None
    assert 1 / 16 <= used <= 1
    assert 0 <= entropy <= 1
    with pytest.raises(ValueError, match=r"48 values.*no tokens"):
        evaluate_diagnostics([pixels], train.images, "train", protocol, run)


def test_too_few_images__are_refused(pixels: PixelBackbone, train: LabelledImages, run: RunSettings) -> None:
    with pytest.raises(ValueError, match="at least 3 images, few has 2"):
        evaluate_diagnostics([pixels], train.images[:2], "few", DiagnosticsProtocol(), run)  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_images": 2}, "max_images must be at least 3, got 2"),
        ({"alpha": 0.0}, "alpha.* got 0.0, 2.0 and 1"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiagnosticsProtocol(**options)  # type: ignore[arg-type]
