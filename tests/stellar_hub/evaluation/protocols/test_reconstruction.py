"""The reconstruction protocol."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.computing import RunSettings
from stellar_hub.evaluation.protocols import reconstruction
from stellar_hub.evaluation.protocols.reconstruction import (
    MetricNetworks,
    ReconstructionProtocol,
    evaluate_reconstruction,
    load_networks,
)
from stellar_hub.features.backbones.backbone import prepare_image
from stellar_hub.features.backbones.pixels import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import frechet_distance, psnr

NONE = MetricNetworks(None, None, {})


class SmallNetwork(torch.nn.Module):
    """In the place of Inception or LPIPS: a few numbers of an image, or how far two are apart."""

    def forward(self, images: Tensor, others: Tensor | None = None, normalize: bool = False) -> Tensor:
        if others is None:
            return images.float().mean(dim=(2, 3))
        assert normalize
        return (images - others).abs().mean(dim=(1, 2, 3))[:, None, None, None]


def test_report__is_of_each_images_psnr_and_ssim(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol()
    report = evaluate_reconstruction([tiny], test.images, "test", protocol, load_networks(protocol), run)
    images = torch.stack([prepare_image(tiny.processor, test.images[index]) for index in range(7)])
    with torch.no_grad():
        decoded = tiny.reconstruct(images)
    values = [psnr(one, other) for one, other in zip(decoded, images, strict=True)]
    first, last = report.measurements
    assert first.metrics["PSNR, dB"] == pytest.approx(sum(values) / 7, abs=1e-4)
    assert first.details["lowest_psnr"] == pytest.approx(min(values), abs=1e-4)
    assert list(first.metrics) == ["PSNR, dB", "SSIM"]
    assert last.model == "mean colour"
    assert set(report.backends) == {"torchmetrics"}
    assert list(report.images) == ["reconstruction-worst"]
    assert report.data["data"]["num_images"] == 7


def test_networks__measure_every_image_once(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol(("lpips", "rfid"))
    networks = MetricNetworks(SmallNetwork(), SmallNetwork(), {})
    row = evaluate_reconstruction([tiny], test.images, "test", protocol, networks, run).measurements[0]
    images = torch.stack([prepare_image(tiny.processor, test.images[index]) for index in range(7)])
    with torch.no_grad():
        decoded = tiny.reconstruct(images)
    assert row.metrics["LPIPS"] == pytest.approx((decoded - images).abs().mean().item(), rel=1e-4)
    features = [(each * 255).round().mean(dim=(2, 3)) for each in (decoded, images)]
    assert row.metrics["rFID"] == pytest.approx(frechet_distance(*features), rel=1e-3)


def test_images__are_at_most_so_many(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol(("psnr",), max_images=3)
    report = evaluate_reconstruction([tiny], test.images, "test", protocol, NONE, run)
    assert report.data["data"]["num_images"] == 3
    assert report.data["num_available"] == 7


def test_what_does_not_decode__is_refused_by_name(
    tiny: StellarBackbone, pixels: PixelBackbone, test: LabelledImages, run: RunSettings
) -> None:
    with pytest.raises(ValueError, match="pixels does not decode: reconstruction compares STELLAR models"):
        evaluate_reconstruction([tiny, pixels], test.images, "test", ReconstructionProtocol(), NONE, run)
    one = [test.images[0]]
    with pytest.raises(ValueError, match="rFID needs at least 2 images, test has 1"):
        evaluate_reconstruction([tiny], one, "test", ReconstructionProtocol(("rfid",)), NONE, run)


def test_missing_networks__are_all_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    versions = {"torchmetrics": "1", "torch-fidelity": "1"}  # the second need not be installed here
    monkeypatch.setattr(reconstruction, "check_torchmetrics", lambda image: versions)
    with pytest.raises(OSError, match=r"alexnet.*inception.*--networks"):
        load_networks(ReconstructionProtocol(("lpips", "rfid")), tmp_path)
    assert load_networks(ReconstructionProtocol(("psnr",)), tmp_path) == NONE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("mse",)}, "metrics must be some of psnr, ssim, lpips, rfid, got mse"),
        ({"metrics": ()}, "got none"),
        ({"lpips_net": "resnet"}, "lpips_net must be one of alex, vgg, squeeze, got 'resnet'"),
        ({"max_images": -1}, "max_images must be at least 0, got -1"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructionProtocol(**options)  # type: ignore[arg-type]
