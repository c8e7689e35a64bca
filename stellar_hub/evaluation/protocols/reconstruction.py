"""Reconstruction of images from their tokens: the protocol, and following it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stellar_hub.data.sources.combined import sample_images
from stellar_hub.data.sources.image_source import ImageSource
from stellar_hub.evaluation.computing import RunSettings, extract_features
from stellar_hub.evaluation.perceptual_networks import (
    INCEPTION_URL,
    LPIPS_URLS,
    check_torchmetrics,
    fetch_weights,
    load_inception,
    load_lpips,
)
from stellar_hub.evaluation.reconstruction_meter import MeanColor, ReconstructionMeter, reconstruct
from stellar_hub.evaluation.report.report import Measurement, Report, make_report
from stellar_hub.evaluation.splits import digests
from stellar_hub.features.backbones.backbone import Backbone, prepare_image
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import frechet_distance
from stellar_hub.visualization import draw_worst

COLUMNS = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "rfid": "rFID"}
BETTER = {"psnr": "high", "ssim": "high, at most 1", "lpips": "low, at least 0", "rfid": "low, at least 0"}
NUM_WORST = 6


@dataclass(frozen=True)
class ReconstructionProtocol:
    """How alike an image is to what is decoded from its tokens, at the network's input size, after its crop.

    Attributes:
        metrics: Of "psnr", "ssim" (torchmetrics, Gaussian window 11, sigma 1.5), "lpips" and "rfid" (Inception-v3 of
            torch-fidelity, antialiased to 299 pixels).
        lpips_net: "alex", "vgg" or "squeeze".
        max_images: How many images are drawn at most; 0 takes all.
        seed: Of the images drawn.

    Raises:
        ValueError: if a value is out of range.
    """

    metrics: tuple[str, ...] = ("psnr", "ssim")
    lpips_net: str = "alex"
    max_images: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in COLUMNS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics must be some of {', '.join(COLUMNS)}, got {', '.join(unknown) or 'none'}")
        if self.lpips_net not in LPIPS_URLS:
            raise ValueError(f"lpips_net must be one of {', '.join(LPIPS_URLS)}, got {self.lpips_net!r}")
        if self.max_images < 0:
            raise ValueError(f"max_images must be at least 0, got {self.max_images}")


@dataclass(frozen=True)
class MetricNetworks:
    """Networks that metrics need, loaded before any work; see `load_networks`."""

    lpips: Any
    inception: Any
    backends: dict[str, str]


def load_networks(protocol: ReconstructionProtocol, folder: Path | None = None) -> MetricNetworks:
    """Load what the protocol's metrics need.

    Args:
        protocol: Names the metrics.
        folder: With weights, as torch.hub lays it out; None takes torch's own, where they are fetched to.

    Raises:
        ImportError: if torchmetrics is not installed.
        OSError: if weights are missing and cannot be fetched.
    """
    needed = set(protocol.metrics) - {"psnr"}
    backends = check_torchmetrics(image="rfid" in needed) if needed else {}
    urls = {"lpips": LPIPS_URLS[protocol.lpips_net], "rfid": INCEPTION_URL}
    fetch_weights([urls[each] for each in urls if each in needed], folder)  # says at once all that is missing
    lpips = load_lpips(protocol.lpips_net, folder) if "lpips" in needed else None
    inception = load_inception(folder) if "rfid" in needed else None
    return MetricNetworks(lpips, inception, backends)


def evaluate_reconstruction(
    backbones: Sequence[Backbone],
    images: ImageSource,
    name: str,
    protocol: ReconstructionProtocol,
    networks: MetricNetworks,
    run: RunSettings,
) -> Report:
    """Measure how well models reconstruct images.

    Args:
        backbones: Models that decode, the one of interest first.
        images: The images.
        name: What to call them in the report.
        protocol: How.
        networks: From `load_networks`.
        run: How it is computed.

    Returns:
        One row for each model, and one for images of one colour, their mean.

    Raises:
        ValueError: if a model does not decode, an image cannot be read, or rFID has fewer than two images.
    """
    decoding = [decoder_of(backbone) for backbone in backbones]
    if "rfid" in protocol.metrics and len(images) < 2:
        raise ValueError(f"rFID needs at least 2 images, {name} has {len(images)}")
    drawn = sample_images(images, protocol.max_images or len(images), protocol.seed)
    data_hash = hashlib.sha256("\0".join(digests(drawn, run, f"hashing {name}")).encode()).hexdigest()
    rows: list[Measurement] = []
    shown: dict[str, Any] = {}
    measured_ones: list[StellarBackbone | MeanColor] = [*decoding, MeanColor(decoding[0])]
    for backbone in measured_ones:
        meter = ReconstructionMeter(backbone, protocol, networks)
        meter.to(run.processes.device)
        measured = extract_features(meter, drawn, meter.names(), run, data_hash, "reconstructing")
        rows.append(row(backbone.name, measured, protocol))
        if not shown and run.processes.is_main:
            order = measured["psnr"].argsort()[:NUM_WORST].tolist()
            shown["reconstruction-worst"] = worst(decoding[0], drawn, order, measured["psnr"])
    data = {"data": {"name": name, "num_images": len(drawn), "sha256": data_hash}, "num_available": len(images)}
    legend = {COLUMNS[each]: {"good": BETTER[each]} for each in protocol.metrics}
    return make_report(
        "reconstruction",
        protocol,
        data,
        backbones,
        rows,
        backends=networks.backends,
        legend=legend,
        images=shown,
    )


def decoder_of(backbone: Backbone) -> StellarBackbone:
    """The backbone, if it decodes.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(backbone, StellarBackbone) or not backbone.decodes:
        raise ValueError(f"{backbone.name} does not decode: reconstruction compares STELLAR models with a decoder")
    return backbone


def row(name: str, measured: dict[str, Tensor], protocol: ReconstructionProtocol) -> Measurement:
    """Means over images; rFID is of all images at once."""
    metrics: dict[str, float | None] = {}
    for each in protocol.metrics:
        if each == "rfid":
            metrics[COLUMNS[each]] = frechet_distance(measured["inception"], measured["inception of original"])
        else:
            metrics[COLUMNS[each]] = measured[each].double().mean().item()
    psnr = measured["psnr"].double()
    return Measurement(name, "", metrics, {"lowest_psnr": psnr.min().item(), "highest_psnr": psnr.max().item()})


def worst(backbone: StellarBackbone, images: ImageSource, order: Sequence[int], psnr: Tensor) -> Any:
    """The images that are reconstructed worst, drawn."""
    originals = torch.stack([prepare_image(backbone.processor, images[index]) for index in order])
    with torch.inference_mode():
        decoded = reconstruct(backbone, originals.to(backbone.device)).cpu()
    captions = [f"{Path(str(images[index])).name}, {psnr[index]:.1f} dB" for index in order]
    return draw_worst(originals, decoded, captions, f"{backbone.name}: worst of {len(images)}")
