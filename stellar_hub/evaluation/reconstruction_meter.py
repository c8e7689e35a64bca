"""Treats the metrics of a reconstruction as features, so that the pipeline can compute, share and cache them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from stellar_hub.data.views import to_uint8
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.identity import weights_hash
from stellar_hub.measures import image_psnr, image_ssim, resize_like

if TYPE_CHECKING:
    from stellar_hub.evaluation.perceptual_networks import MetricNetworks
    from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol


class MeanColor(Backbone):
    """Each image in one colour, its mean; every useful reconstruction is better.

    Args:
        like: Backbone whose processor prepares the images.
    """

    def __init__(self, like: Backbone):
        facts = replace(like.facts, name="mean colour", kind="mean colour", weights="none", sha256="", num_parameters=0)
        super().__init__(facts, nn.Identity(), like.processor)

    def grid_size(self) -> tuple[int, int]:
        """Returns a grid of one place."""
        return 1, 1

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns no features."""
        return {}


class ReconstructionMeter(Backbone):
    """A backbone whose features are measures of what another backbone reconstructs.

    Args:
        backbone: Backbone that reconstructs.
        protocol: Protocol that names the measures.
        networks: Networks that the measures need.
        num_tokens: Number of first tokens to reconstruct from; None means all.
    """

    def __init__(
        self,
        backbone: StellarBackbone | MeanColor,
        protocol: ReconstructionProtocol,
        networks: MetricNetworks,
        num_tokens: int | None = None,
    ):
        # The cache must not mix measures of different networks.
        digest = hashlib.sha256(f"{backbone.facts.sha256} {protocol.lpips_net} {networks.backends}".encode())
        parts = nn.ModuleList(each for each in (networks.lpips, networks.inception) if each is not None)
        digest.update(weights_hash(parts).encode())
        if num_tokens is not None:
            digest.update(f" of {num_tokens} tokens".encode())
        facts = replace(backbone.facts, kind=f"reconstruction by {backbone.facts.kind}", sha256=digest.hexdigest())
        super().__init__(facts, nn.ModuleList([backbone.network, parts]), backbone.processor)
        self.backbone = backbone
        self.protocol = protocol
        self.networks = networks
        self.num_tokens = num_tokens

    def to(self, device: str) -> None:
        """Moves all networks to a device."""
        super().to(device)
        self.backbone.to(device)

    def grid_size(self) -> tuple[int, int]:
        """Returns the grid of the backbone that reconstructs."""
        return self.backbone.grid_size()

    def names(self) -> tuple[str, ...]:
        """Returns the names of the measures; PSNR is always among them."""
        single = tuple(name for name in self.protocol.metrics if name not in ("rfid", "psnr"))
        return "psnr", *single, *(("inception", "inception of original") if "rfid" in self.protocol.metrics else ())

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns one number per image `(B,)`, or the features of Inception `(B, 2048)`."""
        decoded = reconstruct(self.backbone, pixel_values, self.num_tokens)
        measures = {
            "psnr": lambda: image_psnr(decoded, pixel_values),
            "ssim": lambda: image_ssim(decoded, pixel_values),
            "lpips": lambda: self.networks.lpips(decoded, pixel_values, normalize=True).flatten(),
            "inception": lambda: self.networks.inception(to_uint8(decoded)),
            "inception of original": lambda: self.networks.inception(to_uint8(pixel_values)),
        }
        return {name: measures[name]() for name in names}

    def feature_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each measure for one image."""
        vectors = [name for name in names if name.startswith("inception")]
        return super().feature_shapes(vectors) | {name: () for name in names if name not in vectors}


def reconstruct(backbone: StellarBackbone | MeanColor, pixel_values: Tensor, num_tokens: int | None = None) -> Tensor:
    """Returns images reconstructed from their first `num_tokens` tokens, or from all.

    They have the size of the originals, `(B, 3, H, W)` in [0, 1]; see `resize_like`.
    """
    if isinstance(backbone, MeanColor):
        return pixel_values.mean(dim=(2, 3), keepdim=True).expand_as(pixel_values)
    return resize_like(backbone.network.reconstruct(pixel_values, num_tokens).float(), pixel_values)
