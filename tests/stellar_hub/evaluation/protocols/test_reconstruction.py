"""The reconstruction protocol."""

import pytest
import torch
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.perceptual_networks import MetricNetworks, load_metric_networks
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol, evaluate_reconstruction
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.backbone import pixel_values_of
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import frechet_distance, psnr

NONE = MetricNetworks(None, None, {})


class SmallNetwork(torch.nn.Module):
    """Stands for Inception or LPIPS: returns a few numbers per image, or the distance of two images."""

    def forward(self, images: Tensor, others: Tensor | None = None, normalize: bool = False) -> Tensor:
        if others is None:
            return images.float().mean(dim=(2, 3))
        assert normalize
        return (images - others).abs().mean(dim=(1, 2, 3))[:, None, None, None]


def test_report__is_of_each_images_psnr_and_ssim(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol()
    report = evaluate_reconstruction([tiny], test.images, "test", protocol, load_metric_networks(protocol.metrics), run)
    images = torch.stack([pixel_values_of(tiny.processor, test.images[index]) for index in range(7)])
    with torch.no_grad():
        decoded = tiny.network.reconstruct(images)
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
    images = torch.stack([pixel_values_of(tiny.processor, test.images[index]) for index in range(7)])
    with torch.no_grad():
        decoded = tiny.network.reconstruct(images)
    assert row.metrics["LPIPS"] == pytest.approx((decoded - images).abs().mean().item(), rel=1e-4)
    features = [(each * 255).round().mean(dim=(2, 3)) for each in (decoded, images)]
    assert row.metrics["rFID"] == pytest.approx(frechet_distance(*features), rel=1e-3)


def test_num_tokens__give_a_row_each(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol(("psnr",), num_tokens=(1, 2))
    report = evaluate_reconstruction([tiny], test.images, "test", protocol, NONE, run)
    images = torch.stack([pixel_values_of(tiny.processor, test.images[index]) for index in range(7)])
    with torch.no_grad():
        decoded = tiny.network.reconstruct(images, num_tokens=1)
    values = [psnr(one, other) for one, other in zip(decoded, images, strict=True)]
    assert [row.features for row in report.measurements] == ["first token", "first 2 tokens", ""]
    assert report.measurements[0].metrics["PSNR, dB"] == pytest.approx(sum(values) / 7, abs=1e-4)
    with pytest.raises(ValueError, match="num_tokens must be from 1 to"):
        evaluate_reconstruction(
            [tiny], test.images, "test", ReconstructionProtocol(("psnr",), num_tokens=(99,)), NONE, run
        )


def test_images__are_at_most_so_many(tiny: StellarBackbone, test: LabelledImages, run: RunSettings) -> None:
    protocol = ReconstructionProtocol(("psnr",), max_images=3)
    report = evaluate_reconstruction([tiny], test.images, "test", protocol, NONE, run)
    assert report.data["data"]["num_images"] == 3
    assert report.data["num_available"] == 7


def test_what_does_not_decode__is_refused_by_name(
    tiny: StellarBackbone, pixels: PixelBackbone, test: LabelledImages, run: RunSettings
) -> None:
    with pytest.raises(ValueError, match="pixels"):
        evaluate_reconstruction([tiny, pixels], test.images, "test", ReconstructionProtocol(), NONE, run)
    one = [test.images[0]]
    with pytest.raises(ValueError, match="at least 2 images, test has 1"):
        evaluate_reconstruction([tiny], one, "test", ReconstructionProtocol(("rfid",)), NONE, run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("mse",)}, "metrics.* got mse"),
        ({"metrics": ()}, "got none"),
        ({"lpips_net": "resnet"}, "lpips_net.* got 'resnet'"),
        ({"max_images": -1}, "max_images.* got -1"),
        ({"num_tokens": (4, 0)}, "num_tokens.* got 0"),
    ],
)
def test_values__out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructionProtocol(**options)  # type: ignore[arg-type]
