"""Backbones of transformers: vision models that give tokens or a map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stellar_hub.features.backbones.backbone import (
    Backbone,
    BackboneFacts,
    fetching,
    preprocessing_of,
    seeded,
    square_processor,
)
from stellar_hub.features.identity import weights_hash
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.encoder_stellar import IMAGENET_MEAN, IMAGENET_STD

DEFAULT_SIDE = 224


class TransformersBackbone(Backbone):
    """A vision model of transformers'; make it with `load`."""

    @classmethod
    def load(cls, name: str, display_name: str, seed: int | None = None, local: bool = False) -> "TransformersBackbone":
        """Load a model from a folder or a Hub repository.

        Args:
            name: Folder or repository.
            display_name: What to call it in reports.
            seed: Of random weights in the same architecture; None loads the weights.
            local: Whether it is a folder.

        Raises:
            OSError: if it does not exist or cannot be fetched.
            ValueError: if it is no vision model.
        """
        from transformers import AutoConfig, AutoModel

        with fetching(name, local):
            config = AutoConfig.from_pretrained(name)
            if not hasattr(config, "num_channels"):
                raise ValueError(f"{name} is a {config.model_type}, which is no vision model")
            if seed is None:
                network: Any = AutoModel.from_pretrained(name).eval()
            else:
                with seeded(seed):
                    network = AutoModel.from_config(config).eval()
        processor, mean, std = processor_of(name, config)
        facts = BackboneFacts(
            name=display_name,
            kind="transformers",
            weights=f"of {name}" if seed is None else f"random, seed {seed}",
            revision=getattr(config, "_commit_hash", None),
            sha256=weights_hash(network),
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            preprocessing=preprocessing_of(processor, mean, std),
            seed=seed,
        )
        return cls(facts, network, processor)

    def __init__(self, facts: BackboneFacts, network: Any, processor: StellarImageProcessor):
        super().__init__(facts, network, processor)
        crop = processor.crop_size
        with torch.no_grad():
            cls_token, _, self._grid = self._tokens(torch.zeros(1, 3, crop["height"], crop["width"]))
        self.poolings = ("patches_mean",) if cls_token is None else ("cls", "patches_mean")
        self.dense = ("patches",)

    def grid_size(self) -> tuple[int, int]:
        """Places `(h, w)` of the network's last features."""
        return self._grid

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The cls token `(B, d)`, "patches" `(B, n, d)` and their mean `(B, d)`."""
        cls_token, patches, _ = self._tokens(pixel_values)
        made = {"cls": lambda: cls_token, "patches_mean": lambda: patches.mean(dim=1), "patches": lambda: patches}
        return {name: made[name]() for name in names}  # type: ignore[misc]  # without cls nobody asks for it

    def _tokens(self, pixel_values: Tensor) -> tuple[Tensor | None, Tensor, tuple[int, int]]:
        """The cls token `(B, d)` or None, patches `(B, n, d)`, and their grid."""
        mean, std = (pixel_values.new_tensor(self.facts.preprocessing[key])[:, None, None] for key in ("mean", "std"))
        features = self.network(pixel_values=(pixel_values - mean) / std).last_hidden_state
        if features.ndim == 4:
            return None, features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])
        height, width = pixel_values.shape[-2:]
        patch = getattr(self.network.config, "patch_size", None)
        if isinstance(patch, int) and (height // patch) * (width // patch) <= features.shape[1]:
            grid = (height // patch, width // patch)
        else:  # hierarchical models: all tokens are places
            side = round(features.shape[1] ** 0.5)
            grid = (side, features.shape[1] // side)
        places = grid[0] * grid[1]
        has_prefix = features.shape[1] > places
        return features[:, 0] if has_prefix else None, features[:, features.shape[1] - places :], grid


def processor_of(name: str, config: Any) -> tuple[StellarImageProcessor, Sequence[float], Sequence[float]]:
    """Size, mean and standard deviation that a model's own image processor asks for; usual ones if it has none."""
    from transformers import AutoImageProcessor

    try:
        own: Any = AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError):
        own = {}
    size, crop = own.get("size") or {}, own.get("crop_size") or {}
    side = int(crop.get("height") or size.get("height") or getattr(config, "image_size", None) or DEFAULT_SIDE)
    edge = int(size.get("shortest_edge") or size.get("height") or side)
    processor = square_processor(max(edge, side), side)
    return processor, own.get("image_mean") or IMAGENET_MEAN, own.get("image_std") or IMAGENET_STD
