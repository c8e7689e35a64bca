"""Numbers of each reconstructed image, in the guise of features: batches, processes and the cache are theirs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.identity import weights_hash
from stellar_hub.measures import psnr, resize_like

if TYPE_CHECKING:
    from stellar_hub.evaluation.protocols.reconstruction import MetricNetworks, ReconstructionProtocol

HIGHEST_PSNR = 100.0  # dB, of an image that is the same bit for bit: infinity has no mean


class MeanColor(Backbone):
    """Each image in one colour, its mean: what a reconstruction has to be better than.

    Args:
        like: Prepares the images.
    """

    def __init__(self, like: Backbone):
        facts = replace(like.facts, name="mean colour", kind="mean colour", weights="none", sha256="", num_parameters=0)
        super().__init__(facts, nn.Identity(), like.processor)

    def grid_size(self) -> tuple[int, int]:
        """One place."""
        return 1, 1

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """It has none."""
        return {}


class ReconstructionMeter(Backbone):
    """Measures what another backbone reconstructs.

    Args:
        backbone: Reconstructs.
        protocol: What is measured.
        networks: What that needs.
    """

    def __init__(
        self, backbone: StellarBackbone | MeanColor, protocol: ReconstructionProtocol, networks: MetricNetworks
    ):
        # Measures of other networks are other measures, to the cache.
        digest = hashlib.sha256(f"{backbone.facts.sha256} {protocol.lpips_net} {networks.backends}".encode())
        parts = nn.ModuleList(each for each in (networks.lpips, networks.inception) if each is not None)
        digest.update(weights_hash(parts).encode())
        facts = replace(backbone.facts, kind=f"reconstruction by {backbone.facts.kind}", sha256=digest.hexdigest())
        super().__init__(facts, nn.ModuleList([backbone.network, parts]), backbone.processor)
        self.backbone = backbone
        self.protocol = protocol
        self.networks = networks

    def to(self, device: str) -> None:
        """Move all networks."""
        super().to(device)
        self.backbone.to(device)

    def grid_size(self) -> tuple[int, int]:
        """Of the backbone."""
        return self.backbone.grid_size()

    def names(self) -> tuple[str, ...]:
        """What it measures of each image; PSNR is always there."""
        single = tuple(name for name in self.protocol.metrics if name not in ("rfid", "psnr"))
        return "psnr", *single, *(("inception", "inception of original") if "rfid" in self.protocol.metrics else ())

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """One number per image `(B,)`, or Inception's features `(B, 2048)`."""
        decoded = reconstruct(self.backbone, pixel_values)
        measures = {
            "psnr": lambda: image_psnr(decoded, pixel_values),
            "ssim": lambda: image_ssim(decoded, pixel_values),
            "lpips": lambda: self.networks.lpips(decoded, pixel_values, normalize=True).flatten(),
            "inception": lambda: self.networks.inception(as_bytes(decoded)),
            "inception of original": lambda: self.networks.inception(as_bytes(pixel_values)),
        }
        return {name: measures[name]() for name in names}


def reconstruct(backbone: StellarBackbone | MeanColor, pixel_values: Tensor) -> Tensor:
    """Returns reconstructed images in the size of the originals, `(B, 3, H, W)` in [0, 1]; see `resize_like`."""
    if isinstance(backbone, MeanColor):
        return pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
    return resize_like(backbone.reconstruct(pixel_values).float(), pixel_values)


def image_psnr(images: Tensor, references: Tensor) -> Tensor:
    """Computes the PSNR of each image, `(B, 3, H, W)` in [0, 1] to `(B,)` dB, at most 100, in float64."""
    pairs = zip(images.double(), references.double(), strict=True)
    return torch.tensor([min(psnr(*pair), HIGHEST_PSNR) for pair in pairs], device=images.device)


def image_ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, `(B, 3, H, W)` in [0, 1] to `(B,)` in [-1, 1].

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", by torchmetrics.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(images, references, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(images))


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, as files would hold them."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
