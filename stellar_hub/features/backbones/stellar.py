"""STELLAR models as backbones."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts, preprocessing_of, seeded
from stellar_hub.features.identity import describe_model, describe_preprocessing, load_processor, weights_hash
from stellar_hub.features.names import feature_shapes, select_features
from stellar_hub.features.preparation import check_fixed_size
from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.encoder_stellar import IMAGENET_MEAN, IMAGENET_STD


class StellarBackbone(Backbone):
    """A STELLAR model; `load` and `as_backbone` make it."""

    network: StellarModel
    poolings = ("pooled", "cls", "patches_mean", "S")
    dense = ("patches", "Z", "L")
    takes_bytes = True

    @classmethod
    def load(
        cls,
        name: str,
        display_name: str,
        seed: int | None = None,
        decoder: bool | None = None,
        image_size: int | tuple[int, int] | None = None,
    ) -> "StellarBackbone":
        """Loads a model.

        Args:
            name: Name, folder or Hub repository, as `StellarModel.from_pretrained` takes it.
            display_name: Name of the backbone in reports.
            seed: Seed of random weights in the same architecture; None loads the weights.
            decoder: False does not read decoder and tokenizer.
            image_size: Side of a square, or height and width, of the images that the model sees. None keeps the size
                of its processor.

        Raises:
            OSError: if the model does not exist.
            ValueError: if its weights do not fit.
        """
        if seed is None:
            network = StellarModel.from_pretrained(name, decoder=decoder).eval()
        else:
            config = StellarConfig.from_pretrained(name)
            with seeded(seed):
                network = StellarModel(config).eval()
        size = {} if image_size is None else {"image_size": image_size}
        processor = load_processor(name, network, **size)
        facts = BackboneFacts(
            name=display_name,
            kind="stellar",
            weights=f"of {name}" if seed is None else f"random, seed {seed}",
            revision=getattr(network.config, "_commit_hash", None),
            sha256=weights_hash(network),
            num_parameters=sum(parameter.numel() for parameter in network.parameters()),
            preprocessing=preprocessing_of(processor, IMAGENET_MEAN, IMAGENET_STD),
            seed=seed,
        )
        return cls(facts, network, processor)

    def grid_size(self) -> tuple[int, int]:
        """Returns the height and the width of the network's patch grid."""
        return self.network.grid_size(*check_fixed_size(self.processor))

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns features of prepared images; the table of features has their shapes."""
        return select_features(self.network(pixel_values), names)

    def feature_shapes(self, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each feature for one image."""
        return feature_shapes(self.network.config, self.grid_size(), names)

    def describe_model(self) -> dict[str, Any]:
        """Returns the identity of the weights that features depend on, as the manifest of a store holds it."""
        return describe_model(self.network)

    def describe_preprocessing(self) -> dict[str, Any]:
        """Returns the settings of the processor and their SHA-256, as the manifest of a store holds them."""
        return describe_preprocessing(self.processor)


def as_backbone(model: StellarModel | Backbone, processor: StellarImageProcessor | None = None) -> Backbone:
    """Returns a model as a backbone, on the device where it is.

    Args:
        model: STELLAR model, or a backbone, which is returned as it is.
        processor: Processor of a STELLAR model; None takes the one that belongs to the model's size.

    Raises:
        TypeError: if it is something else, such as the name of a model.
        ValueError: if a backbone comes with a processor: it has its own.
    """
    if not isinstance(model, Backbone | nn.Module):
        raise TypeError(
            f"model must be a StellarModel or a backbone, got {type(model).__name__}: load it with "
            "StellarModel.from_pretrained(name) or open_backbone(name)"
        )
    if isinstance(model, Backbone):
        if processor is not None:
            raise ValueError(f"processor must be None for the backbone {model.name}, which has its own")
        return model
    processor = processor or StellarImageProcessor.from_config(model.config)
    preprocessing = preprocessing_of(processor, IMAGENET_MEAN, IMAGENET_STD)
    # No hash of all weights: a loop over features does not need it, and it takes a second for a large model.
    facts = BackboneFacts(str(model.config.name_or_path), "stellar", "in memory", None, "", 0, preprocessing)
    backbone = StellarBackbone(facts, model, processor)
    backbone.device = model.device
    return backbone
