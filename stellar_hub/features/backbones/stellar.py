"""STELLAR models: sparse tokens, cls, patches, and the maps of the tokens."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone, BackboneFacts, preprocessing_of, seeded
from stellar_hub.features.identity import weights_hash
from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.modeling.encoder_stellar import IMAGENET_MEAN, IMAGENET_STD
from stellar_hub.modeling.factorization import low_rank_product

# Of a `StellarModelOutput`.
FEATURES: dict[str, Callable[[Any], Tensor]] = {
    "pooled": lambda output: output.pooler_output,
    "cls": lambda output: output.cls_token,
    "patches_mean": lambda output: output.patch_features.mean(dim=1),
    "S": lambda output: output.last_hidden_state,
    "patches": lambda output: output.patch_features,
    "Z": lambda output: low_rank_product(output.localization, output.last_hidden_state),
    "L": lambda output: output.localization,
}


class StellarBackbone(Backbone):
    """A STELLAR model; make it with `load`."""

    network: StellarModel
    poolings = ("pooled", "cls", "patches_mean", "S")
    dense = ("patches", "Z", "L")

    @classmethod
    def load(
        cls, name: str, display_name: str, seed: int | None = None, decoder: bool | None = None
    ) -> "StellarBackbone":
        """Load a model by its name, folder or Hub repository.

        Args:
            name: What `from_pretrained` takes.
            display_name: What to call it in reports.
            seed: Of random weights in the same architecture; None loads the weights.
            decoder: False leaves decoder and tokenizer unread.

        Raises:
            OSError: if there is no such model.
            ValueError: if its weights do not fit.
        """
        if seed is None:
            network = StellarModel.from_pretrained(name, decoder=decoder).eval()
        else:
            config = StellarConfig.from_pretrained(name)
            with seeded(seed):
                network = StellarModel(config).eval()
        is_file = Path(name).is_file()  # an original checkpoint brings no processor
        processor = (
            StellarImageProcessor.from_config(network.config)
            if is_file
            else StellarImageProcessor.from_pretrained(name)
        )
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

    @property
    def decodes(self) -> bool:
        """Whether it turns codes into images."""
        config = self.network.config
        return self.network.decoder is not None and not (
            config.reconstruction_head == "vq" and self.network.tokenizer is None
        )

    def grid_size(self) -> tuple[int, int]:
        """Patches `(h, w)` of the network's input."""
        crop = self.processor.crop_size
        return self.network.grid_size(crop["height"], crop["width"])

    def features(self, pixel_values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Features of prepared images, see `FEATURES`."""
        output = self.network(pixel_values)
        return {name: FEATURES[name](output) for name in names}

    def reconstruct(self, pixel_values: Tensor) -> Tensor:
        """What the model decodes from its own code, `(B, 3, H', W')` in [0, 1].

        Raises:
            ValueError: if it does not decode.
        """
        grid = self.network.grid_size(*pixel_values.shape[-2:])
        return self.network.decode(*self.network.encode(pixel_values), grid_size=grid)
