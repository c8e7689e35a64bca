"""Raw pixels in the place of a network's features: what is known without any learning."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts, preprocessing_of, square_processor
from stellar_hub.features.identity import weights_hash

SIDE = 64  # of the image, in pixels
PATCH_SIZE = 8
POOLED_SIDE = 16


class PixelBackbone(Backbone):
    """Images of 64 x 64 pixels: averaged to 16 x 16 as one vector, and the pixels of each patch of 8 x 8."""

    poolings = ("pixels",)
    dense = ("patches",)

    @classmethod
    def load(cls, display_name: str = "pixels") -> "PixelBackbone":
        """Nothing is loaded; sizes are those of stellar-tiny."""
        processor = square_processor(round(256 * SIDE / 224), SIDE, PATCH_SIZE)
        network = nn.Identity()
        facts = BackboneFacts(
            display_name, "pixels", "none", None, weights_hash(network), 0, preprocessing_of(processor)
        )
        return cls(facts, network, processor)

    def grid_size(self) -> tuple[int, int]:
        """Patches `(h, w)` of the image."""
        return SIDE // PATCH_SIZE, SIDE // PATCH_SIZE

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Pooled "pixels" `(B, 768)` and dense "patches" `(B, 64, 192)`, in [0, 1]."""
        made = {
            "pixels": lambda: F.adaptive_avg_pool2d(pixel_values, POOLED_SIDE).flatten(1),
            "patches": lambda: F.pixel_unshuffle(pixel_values, PATCH_SIZE).flatten(2).transpose(1, 2),
        }
        return {name: made[name]() for name in names}
