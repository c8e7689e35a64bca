"""Evaluations of data with images that cannot be read: the numbers are those of the other images."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from stellar_hub.data.labelled import open_labelled, read_segmentation_folder
from stellar_hub.data.sources import open_source
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.left_out import UnreadableImagesError
from stellar_hub.evaluation.mask_splits import prepare_segmentation
from stellar_hub.evaluation.perceptual_networks import MetricNetworks
from stellar_hub.evaluation.protocols import (
    DiagnosticsProtocol,
    KnnProtocol,
    LinearProtocol,
    ReconstructionProtocol,
    ScorecardProtocol,
    SegmentationProtocol,
    evaluate_all,
    evaluate_diagnostics,
    evaluate_knn,
    evaluate_linear,
    evaluate_reconstruction,
    evaluate_segmentation,
)
from stellar_hub.evaluation.readable import check_images
from stellar_hub.evaluation.report import Report
from stellar_hub.evaluation.splits import prepare_splits
from stellar_hub.features.backbones import Backbone, PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone

PROTOCOL = ScorecardProtocol(
    knn=KnnProtocol((3,)),
    linear=LinearProtocol((1e-2,), num_epochs=2, inverse_penalties=(1.0,)),
    segmentation=SegmentationProtocol(learning_rates=(1e-2,), num_epochs=1, num_clusters=2),
    reconstruction=ReconstructionProtocol(("psnr",)),
)


@pytest.fixture
def whole(image_folders: tuple[Path, Path], mask_folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """Folders `train`, `test`, `masked-train` and `masked-test` whose images can all be read."""
    for name, folder in zip(("train", "test"), image_folders, strict=True):
        shutil.copytree(folder, tmp_path / "whole" / name)
    for name, folder in zip(("masked-train", "masked-test"), mask_folders, strict=True):
        shutil.copytree(folder, tmp_path / "whole" / name)
    return tmp_path / "whole"


@pytest.fixture
def spoiled(whole: Path, tmp_path: Path) -> Path:
    """The same folders, and in each an image at the beginning or the end that cannot be read."""
    folder = shutil.copytree(whole, tmp_path / "spoiled")
    good = (folder / "train" / "blue" / "1-0.png").read_bytes()
    (folder / "train" / "blue" / "0.png").write_bytes(good[:-300])
    (folder / "train" / "red" / "z.png").touch()
    (folder / "test" / "red" / "z.png").write_bytes(good[:-200])
    (folder / "test" / "green" / "gone.png").symlink_to("nowhere")
    for name in ("masked-train", "masked-test"):
        (folder / name / "images" / "z.png").write_bytes(good[:-400] + name.encode())
        shutil.copy(folder / name / "masks" / "0.png", folder / name / "masks" / "z.png")
    return folder


def evaluate(task: str, folder: Path, backbones: Sequence[Backbone], run: RunSettings) -> Report:
    """Evaluates the data of a folder by one protocol."""
    if task == "segmentation":
        masked = (read_segmentation_folder(folder / f"masked-{part}") for part in ("train", "test"))
        return evaluate_segmentation(backbones, prepare_segmentation(*masked, run), PROTOCOL.segmentation, run)
    if task == "reconstruction":
        networks, images = MetricNetworks(None, None, {}), open_source(folder / "test")
        return evaluate_reconstruction(backbones[:1], images, "test", PROTOCOL.reconstruction, networks, run)
    if task == "diagnostics":
        return evaluate_diagnostics(backbones, open_source(folder / "test"), "test", DiagnosticsProtocol(), run)
    splits = prepare_splits(open_labelled(folder / "train"), open_labelled(folder / "test"), run)
    if task == "knn":
        return evaluate_knn(backbones, splits, PROTOCOL.knn, run)
    return evaluate_linear(backbones, splits, PROTOCOL.linear, run)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("task", ["knn", "linear", "segmentation", "reconstruction", "diagnostics"])
def test_numbers__are_those_of_data_without_the_unreadable(
    tiny: StellarBackbone,
    pixels: PixelBackbone,
    whole: Path,
    spoiled: Path,
    run: RunSettings,
    tmp_path: Path,
    task: str,
    keep: bool,
) -> None:
    settings = replace(run, cache=tmp_path / "cache") if keep else run
    found = evaluate(task, spoiled, [tiny, pixels], settings)
    expected = evaluate(task, whole, [tiny, pixels], run)
    assert found.measurements == expected.measurements
    names = {(each.part, Path(each.image).name) for each in found.left_out}
    of_labelled = {("train", "0.png"), ("train", "z.png"), ("test", "z.png")}
    of_masks, of_data = {("train", "z.png"), ("test", "z.png")}, {("data", "z.png")}
    assert names == {"segmentation": of_masks, "knn": of_labelled, "linear": of_labelled}.get(task, of_data)
    assert expected.left_out == []


def test_scorecard__looks_for_the_unreadable_once(
    tiny: StellarBackbone, whole: Path, spoiled: Path, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    def count(images: object, part: str, *others: object) -> dict[int, str]:
        checked.append(part)
        return check_images(images, part, *others)  # type: ignore[arg-type]

    monkeypatch.setattr("stellar_hub.evaluation.readable.check_images", count)
    reports = {}
    for folder in (spoiled, whole):
        splits = prepare_splits(open_labelled(folder / "train"), open_labelled(folder / "test"), run)
        reports[folder] = list(evaluate_all([tiny], splits, None, PROTOCOL, run))
    assert [each.measurements for each in reports[spoiled]] == [each.measurements for each in reports[whole]]
    assert [len(each.left_out) for each in reports[spoiled]] == [3, 3, 1, 1]
    assert checked == ["train", "test"]


class Narrow(PixelBackbone):
    """Refuses wide images, as a processor may."""

    @classmethod
    def refuse_wide(cls) -> "Narrow":
        backbone = cls.load("narrow")
        fit = backbone.processor.fit_image

        def fit_image(*arguments: Any) -> Any:
            pixels, geometry = fit(*arguments)
            if geometry.original_size[1] > 4 * geometry.original_size[0]:
                raise ValueError("too wide")
            return pixels, geometry

        backbone.processor.fit_image = fit_image  # type: ignore[method-assign]
        return backbone  # type: ignore[return-value]


def test_an_image_that_one_model_cannot_take__is_left_out_for_all(
    pixels: PixelBackbone, whole: Path, run: RunSettings
) -> None:
    Image.new("RGB", (100, 10)).save(whole / "test" / "red" / "wide.png")
    report = evaluate("knn", whole, [pixels, Narrow.refuse_wide()], run)
    assert [each.image for each in report.left_out] == [str(whole / "test" / "red" / "wide.png")]
    assert report.data["test"]["num_images"] == 7


def test_views__of_the_same_image_stay_together(
    tiny: StellarBackbone, spoiled: Path, run: RunSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []

    def alignment(first: Tensor, second: Tensor, alpha: float) -> float:
        lengths.append((len(first), len(second)))
        return 0.0

    monkeypatch.setattr("stellar_hub.evaluation.protocols.diagnostics.alignment", alignment)
    evaluate("diagnostics", spoiled, [tiny], run)
    assert lengths == [(7, 7)]


def test_data_of_which_nothing_can_be_read__are_refused(pixels: PixelBackbone, whole: Path, run: RunSettings) -> None:
    for number, path in enumerate(sorted((whole / "test").rglob("*.png"))):
        path.write_bytes(f"no image {number}".encode())
    for task in ("knn", "diagnostics"):
        with pytest.raises(ValueError, match=r"none of the 7 images of .*test"):
            evaluate(task, whole, [pixels], run)


def test_features__of_an_image_that_cannot_be_read_are_an_error_with_its_index(
    pixels: PixelBackbone, spoiled: Path, run: RunSettings
) -> None:
    images = open_source(spoiled / "train")
    with pytest.raises(UnreadableImagesError) as raised:
        all_features(pixels, images, ("pixels",), run)
    assert set(raised.value.reasons) == {0}
    assert raised.value.images is images
