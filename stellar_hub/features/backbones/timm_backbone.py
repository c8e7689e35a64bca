"""Any backbone of timm's."""

import os
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


class TimmBackbone(Backbone):
    """A timm model without its classifier; make it with `load`.

    Images are resized as for all models here, bicubic, to timm's size for this one.
    """

    @classmethod
    def load(
        cls, name: str, display_name: str, seed: int | None = None, path: str | os.PathLike[str] | None = None
    ) -> "TimmBackbone":
        """Load a model of timm's.

        Args:
            name: timm's name, such as "vit_tiny_patch16_224".
            display_name: What to call it in reports.
            seed: Of random weights; None loads weights.
            path: A file of weights; None fetches timm's own.

        Raises:
            FileNotFoundError: if the path does not exist.
            OSError: if weights cannot be fetched.
        """
        import timm

        options: dict[str, Any] = {"pretrained": seed is None}
        if path is not None:
            if not os.path.isfile(path):
                raise FileNotFoundError(f"no such file with weights for {name}: {path}")
            options["pretrained_cfg_overlay"] = {"file": os.fspath(path)}
        with seeded(seed or 0), fetching(name, local=path is not None or seed is not None):
            network: Any = timm.create_model(name, num_classes=0, **options).eval()
        config = timm.data.resolve_model_data_config(network)
        side = int(config["input_size"][-1])
        processor = square_processor(max(side, int(side / config["crop_pct"])), side)
        facts = BackboneFacts(
            name=display_name,
            kind="timm",
            weights=f"random, seed {seed}" if seed is not None else f"of {path or 'timm ' + timm.__version__}",
            revision=None,
            sha256=weights_hash(network),
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            preprocessing=preprocessing_of(processor, config["mean"], config["std"]),
            seed=seed,
        )
        return cls(facts, network, processor)

    def __init__(self, facts: BackboneFacts, network: Any, processor: StellarImageProcessor):
        super().__init__(facts, network, processor)
        self.num_prefix_tokens = int(getattr(network, "num_prefix_tokens", 0) or 0)
        has_cls = getattr(network, "cls_token", None) is not None
        self.poolings = ("cls", "patches_mean") if has_cls else ("patches_mean",)
        self.dense = ("patches",)
        self._grid: tuple[int, int] | None = None

    def grid_size(self) -> tuple[int, int]:
        """Places `(h, w)` of the network's last features."""
        if self._grid is None:
            crop = self.processor.crop_size
            with torch.no_grad():
                self._tokens(torch.zeros(1, 3, crop["height"], crop["width"], device=self.device))
        assert self._grid is not None
        return self._grid

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The cls token `(B, d)`, "patches" `(B, n, d)` and their mean `(B, d)`."""
        cls_token, patches = self._tokens(pixel_values)
        made = {"cls": lambda: cls_token, "patches_mean": lambda: patches.mean(dim=1), "patches": lambda: patches}
        return {name: made[name]() for name in names}

    def _tokens(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """The first token `(B, d)`, which is cls where there is one, and patches `(B, n, d)`."""
        mean, std = (pixel_values.new_tensor(self.facts.preprocessing[key])[:, None, None] for key in ("mean", "std"))
        features = self.network.forward_features((pixel_values - mean) / std)  # type: ignore[operator]
        if features.ndim == 4:  # a map: (B, d, h, w), or (B, h, w, d) as hierarchical transformers have it
            channels_last = features.shape[-1] == self.network.num_features != features.shape[1]
            features = features if channels_last else features.permute(0, 2, 3, 1)
            self._grid = (features.shape[1], features.shape[2])
            features = features.flatten(1, 2)
        patches = features[:, self.num_prefix_tokens :]
        if self._grid is None:
            side = round(patches.shape[1] ** 0.5)
            self._grid = (side, patches.shape[1] // side)
        return features[:, 0], patches
