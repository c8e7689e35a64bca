"""Backbones of timm and of transformers."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts, preprocessing_of, seeded, square_processor
from stellar_hub.features.identity import weights_hash
from stellar_hub.features.names import make_feature
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.encoder_stellar import IMAGENET_MEAN, IMAGENET_STD

_DEFAULT_SIDE = 224  # in pixels
_MAX_REASON = 160  # characters


class _TokenBackbone(Backbone):
    """A network whose last features are one cls token, if it has one, and one token per patch."""

    network: Any
    dense = ("patches",)

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns the cls token `(B, d)`, "patches" `(B, n, d)` and their mean `(B, d)`."""
        cls_token, patches = self._tokens(self._normalize(pixel_values))
        parts = {"patches": patches} if cls_token is None else {"patches": patches, "cls": cls_token}
        return {name: make_feature(name, parts) for name in names}

    def _normalize(self, pixel_values: Tensor) -> Tensor:
        mean, std = (pixel_values.new_tensor(self.facts.preprocessing[key])[:, None, None] for key in ("mean", "std"))
        return (pixel_values - mean) / std

    @abstractmethod
    def _tokens(self, pixel_values: Tensor) -> tuple[Tensor | None, Tensor]:
        """Returns the cls token `(B, d)` or None, and the patches `(B, n, d)`, of normalized images."""

    def _blank(self) -> Tensor:
        crop = self.processor.crop_size
        return torch.zeros(1, 3, crop["height"], crop["width"], device=self.device)


class TimmBackbone(_TokenBackbone):
    """A timm model without its classifier; `load` makes it.

    Images are resized as for all backbones here, bicubic, to the size that timm has for the model.
    """

    @classmethod
    def load(
        cls, name: str, display_name: str, seed: int | None = None, path: str | os.PathLike[str] | None = None
    ) -> "TimmBackbone":
        """Loads a timm model.

        Args:
            name: Name in timm, such as "vit_tiny_patch16_224".
            display_name: Name of the backbone in reports.
            seed: Seed of random weights; None loads weights.
            path: File of weights; None fetches the weights of timm.

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
        with seeded(seed or 0), _fetching(name, local=path is not None or seed is not None):
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
        self.has_cls = getattr(network, "cls_token", None) is not None
        self.poolings = ("cls", "patches_mean") if self.has_cls else ("patches_mean",)
        self._grid: tuple[int, int] | None = None

    def grid_size(self) -> tuple[int, int]:
        """Returns the height and the width of the network's last features."""
        if self._grid is None:
            with torch.no_grad():
                self._tokens(self._normalize(self._blank()))
        assert self._grid is not None
        return self._grid

    def _tokens(self, pixel_values: Tensor) -> tuple[Tensor | None, Tensor]:
        features = self.network.forward_features(pixel_values)
        if features.ndim == 4:  # a map: (B, d, h, w), or (B, h, w, d) for hierarchical transformers
            channels_last = features.shape[-1] == self.network.num_features != features.shape[1]
            features = features if channels_last else features.permute(0, 2, 3, 1)
            self._grid = (features.shape[1], features.shape[2])
            features = features.flatten(1, 2)
        patches = features[:, self.num_prefix_tokens :]
        if self._grid is None:
            side = round(patches.shape[1] ** 0.5)
            self._grid = (side, patches.shape[1] // side)
        return features[:, 0] if self.has_cls else None, patches


class TransformersBackbone(_TokenBackbone):
    """A vision model of transformers that gives tokens or a map; `load` makes it."""

    @classmethod
    def load(cls, name: str, display_name: str, seed: int | None = None, local: bool = False) -> "TransformersBackbone":
        """Loads a model from a folder or a Hub repository.

        Args:
            name: Folder or repository.
            display_name: Name of the backbone in reports.
            seed: Seed of random weights in the same architecture; None loads the weights.
            local: Whether the name is a folder.

        Raises:
            OSError: if it does not exist or cannot be fetched.
            ValueError: if it is not a vision model.
        """
        from transformers import AutoConfig, AutoModel

        with _fetching(name, local):
            config = AutoConfig.from_pretrained(name)
            if not hasattr(config, "num_channels"):
                raise ValueError(f"{name} is a {config.model_type}, which is not a vision model")
            if seed is None:
                network: Any = AutoModel.from_pretrained(name).eval()
            else:
                with seeded(seed):
                    network = AutoModel.from_config(config).eval()
        processor, mean, std = _load_processor(name, config)
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
        self._grid = (1, 1)
        with torch.no_grad():
            cls_token, _ = self._tokens(self._normalize(self._blank()))
        self.poolings = ("patches_mean",) if cls_token is None else ("cls", "patches_mean")

    def grid_size(self) -> tuple[int, int]:
        """Returns the height and the width of the network's last features."""
        return self._grid

    def _tokens(self, pixel_values: Tensor) -> tuple[Tensor | None, Tensor]:
        features = self.network(pixel_values=pixel_values).last_hidden_state
        if features.ndim == 4:
            self._grid = (features.shape[2], features.shape[3])
            return None, features.flatten(2).transpose(1, 2)
        height, width = pixel_values.shape[-2:]
        patch = getattr(self.network.config, "patch_size", None)
        if isinstance(patch, int) and (height // patch) * (width // patch) <= features.shape[1]:
            self._grid = (height // patch, width // patch)
        else:  # in hierarchical models, all tokens are places
            side = round(features.shape[1] ** 0.5)
            self._grid = (side, features.shape[1] // side)
        num_places = self._grid[0] * self._grid[1]
        has_prefix = features.shape[1] > num_places
        return features[:, 0] if has_prefix else None, features[:, features.shape[1] - num_places :]


def _load_processor(name: str, config: Any) -> tuple[StellarImageProcessor, Sequence[float], Sequence[float]]:
    """Returns a processor with the size of the model's own image processor, and its mean and standard deviation.

    A model without an image processor gets the usual values.
    """
    from transformers import AutoImageProcessor

    try:
        own: Any = AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError):
        own = {}
    size, crop = own.get("size") or {}, own.get("crop_size") or {}
    side = int(crop.get("height") or size.get("height") or getattr(config, "image_size", None) or _DEFAULT_SIDE)
    edge = int(size.get("shortest_edge") or size.get("height") or side)
    processor = square_processor(max(edge, side), side)
    return processor, own.get("image_mean") or IMAGENET_MEAN, own.get("image_std") or IMAGENET_STD


@contextmanager
def _fetching(name: str, local: bool) -> Iterator[None]:
    """Turns every error of fetching weights into one line.

    Args:
        name: Name of the model.
        local: Whether there is nothing to fetch; then errors stay as they are.

    Raises:
        OSError: if the block fails; it names what works without a network.
    """
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if local:
            raise
        reason = " ".join(str(error).split())
        short = reason if len(reason) <= _MAX_REASON else f"{reason[: _MAX_REASON - 3]}..."
        raise OSError(
            f"the weights of {name} could not be fetched ({short or type(error).__name__}); without a network, use "
            f"{name}:random for random weights or {name}:PATH for weights in a file"
        ) from error
