"""Reconstruction of images from their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources import ImageSource
from stellar_hub.evaluation.cached_features import RunSettings, all_features
from stellar_hub.evaluation.digests import name_of
from stellar_hub.evaluation.perceptual_networks import LPIPS_URLS, MetricNetworks
from stellar_hub.evaluation.protocols.checks import check_seed
from stellar_hub.evaluation.readable import evaluate_readable
from stellar_hub.evaluation.reconstruction_meter import MeanColor, ReconstructionMeter, reconstruct
from stellar_hub.evaluation.report import Measurement, Report, make_report
from stellar_hub.evaluation.sample import Sample, draw_sample
from stellar_hub.features.backbones.backbone import Backbone, pixel_values_of
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import frechet_distance
from stellar_hub.modeling.input_checks import check_num_tokens
from stellar_hub.visualization import draw_worst

COLUMNS = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "rfid": "rFID"}
BETTER = {"psnr": "high", "ssim": "high, at most 1", "lpips": "low, at least 0", "rfid": "low, at least 0"}
NUM_WORST = 6


@dataclass(frozen=True)
class ReconstructionProtocol:
    """The choices of reconstruction: images are compared at the size of the network's input, after its crop.

    Attributes:
        metrics: Metrics to compute: "psnr", "ssim" (torchmetrics, Gaussian window of 11 pixels, sigma 1.5), "lpips" and
            "rfid" (Inception-v3 from torch-fidelity, antialiased to 299 pixels).
        lpips_net: Network of LPIPS: "alex", "vgg" or "squeeze".
        max_images: Largest number of images to use, drawn at random; 0 means all.
        seed: Seed of the draw.
        num_tokens: Numbers of first tokens to decode from, one row each; empty decodes from all tokens.

    Raises:
        ValueError: if a value is out of range.
    """

    metrics: tuple[str, ...] = ("psnr", "ssim")
    lpips_net: str = "alex"
    max_images: int = 0
    seed: int = 0
    num_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in COLUMNS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics must be one or more of {', '.join(COLUMNS)}, got {', '.join(unknown) or 'none'}")
        if self.lpips_net not in LPIPS_URLS:
            raise ValueError(f"lpips_net must be one of {', '.join(LPIPS_URLS)}, got {self.lpips_net!r}")
        if self.max_images < 0:
            raise ValueError(f"max_images must be at least 0, got {self.max_images}")
        check_seed(self.seed)
        if any(number < 1 for number in self.num_tokens):
            raise ValueError(f"num_tokens must be at least 1, got {min(self.num_tokens)}")


def evaluate_reconstruction(
    backbones: Sequence[Backbone],
    images: ImageSource,
    name: str,
    protocol: ReconstructionProtocol,
    networks: MetricNetworks,
    run: RunSettings,
) -> Report:
    """Evaluates how well models reconstruct images.

    Args:
        backbones: STELLAR models with a decoder, the most important one first: its worst images are drawn.
        images: Images to reconstruct.
        name: Name of the images in the report.
        protocol: Choices that decide what is measured.
        networks: Networks of the metrics, from `load_metric_networks`.
        run: Choices that decide how it is computed.

    Returns:
        A report with one row per model, and one row for images that have their mean colour everywhere.

    Raises:
        ValueError: if a model has no decoder, no image can be read, or rFID gets fewer than two images.
    """
    decoding = [check_decodes(backbone) for backbone in backbones]
    for backbone in decoding:
        for number in protocol.num_tokens:
            check_num_tokens(number, backbone.network.config.num_sparse_tokens)
    sample = draw_sample(images, name, protocol.max_images or len(images), protocol.seed, run)
    report, _ = evaluate_readable(
        sample, backbones, run, lambda data: measure_reconstruction(decoding, data, protocol, networks, run)
    )
    return report


def measure_reconstruction(
    decoding: Sequence[StellarBackbone],
    sample: Sample,
    protocol: ReconstructionProtocol,
    networks: MetricNetworks,
    run: RunSettings,
) -> Report:
    """Evaluates models as `evaluate_reconstruction` does, but raises UnreadableImagesError for an unreadable image."""
    if "rfid" in protocol.metrics and len(sample) < 2:
        raise ValueError(f"rFID needs at least 2 images, {sample.name} has {len(sample)} that can be used")
    rows: list[Measurement] = []
    figures: dict[str, Image.Image] = {}
    reconstructors: list[tuple[StellarBackbone | MeanColor, int | None]] = [
        (backbone, number) for backbone in decoding for number in protocol.num_tokens or (None,)
    ]
    for backbone, num_tokens in (*reconstructors, (MeanColor(decoding[0]), None)):
        meter = ReconstructionMeter(backbone, protocol, networks, num_tokens)
        meter.to(run.processes.device)
        measured = all_features(meter, sample.images, meter.names(), run, sample.sha256, "reconstructing")
        with run.progress_of(1, f"averaging, {backbone.name}", "model") as progress, progress.keep_showing():
            rows.append(_row(backbone.name, num_tokens, measured, protocol))
        if not figures and run.processes.is_main:
            worst = measured["psnr"].argsort()[:NUM_WORST].tolist()
            figures["reconstruction-worst"] = _draw_images(decoding[0], sample.images, worst, measured["psnr"])
    return make_report(
        "reconstruction",
        protocol,
        sample.facts(),
        decoding,
        rows,
        backends=networks.backends,
        notes=list(sample.notes),
        legend={COLUMNS[each]: {"good": BETTER[each]} for each in protocol.metrics},
        images=figures,
    )


def check_decodes(backbone: Backbone) -> StellarBackbone:
    """Returns the model if it decodes.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(backbone, StellarBackbone) or not backbone.network.can_decode:
        raise ValueError(f"{backbone.name} cannot decode: reconstruction takes STELLAR models with a decoder")
    return backbone


def _row(
    name: str, num_tokens: int | None, measured: dict[str, Tensor], protocol: ReconstructionProtocol
) -> Measurement:
    """Averages each metric over the images; rFID compares all images at once."""
    metrics: dict[str, float | None] = {}
    for each in protocol.metrics:
        if each == "rfid":
            metrics[COLUMNS[each]] = frechet_distance(measured["inception"], measured["inception of original"])
        else:
            metrics[COLUMNS[each]] = measured[each].double().mean().item()
    psnr = measured["psnr"].double()
    part = "" if num_tokens is None else "first token" if num_tokens == 1 else f"first {num_tokens} tokens"
    return Measurement(name, part, metrics, {"lowest_psnr": psnr.min().item(), "highest_psnr": psnr.max().item()})


def _draw_images(backbone: StellarBackbone, images: ImageSource, indices: Sequence[int], psnr: Tensor) -> Image.Image:
    """Draws images above their reconstructions."""
    originals = torch.stack([pixel_values_of(backbone.processor, images[index]) for index in indices])
    with torch.inference_mode():
        decoded = reconstruct(backbone, originals.to(backbone.device)).cpu()
    captions = [f"{PurePosixPath(name_of(images, index)).name}, {psnr[index]:.1f} dB" for index in indices]
    return draw_worst(originals, decoded, captions, f"{backbone.name}: worst of {len(images)}")
