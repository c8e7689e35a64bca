"""What a user writes, for mypy: `.ci/run` checks it against the installed package. It is never run."""

from typing import Any, assert_type

from PIL.Image import Image
from torch import Tensor

from stellar_hub import (
    StellarConfig,
    StellarEncoding,
    StellarForPreTraining,
    StellarImageProcessor,
    StellarModel,
    StellarModelOutput,
)


def load() -> None:
    """The type of a loaded model is that of its class."""
    assert_type(StellarModel.from_pretrained("stellar-tiny", decoder=False), StellarModel)
    assert_type(StellarForPreTraining.from_pretrained("folder"), StellarForPreTraining)
    assert_type(StellarModel.from_backbone("vit_tiny_patch16_224"), StellarModel)
    assert_type(StellarConfig.from_pretrained("stellar-b16"), StellarConfig)
    assert_type(StellarModel.from_pretrained("stellar-tiny").to("cpu").eval().requires_grad_(False), StellarModel)
    assert_type(StellarModel(StellarConfig()).half().float().bfloat16().cpu(), StellarModel)
    pair = StellarModel.from_pretrained("stellar-tiny", output_loading_info=True)
    assert_type(pair, tuple[StellarModel, dict[str, Any]])


def use(model: StellarModel, images: Tensor) -> None:
    """Encodings unpack to tensors."""
    encoding = model.encode(images)
    assert_type(encoding, StellarEncoding)
    semantics, localization = encoding
    assert_type(semantics, Tensor)
    assert_type(localization, Tensor)
    assert_type(model.decode(encoding), Tensor)
    assert_type(model.decode(semantics, localization), Tensor)
    assert_type(model.reconstruct(images), Tensor)
    assert_type(model(images), StellarModelOutput)
    assert_type(model.forward(images, output_reconstruction=True), StellarModelOutput)
    assert_type(model(images).localization, Tensor)
    assert_type(model(images).hidden_states, tuple[Tensor, ...] | None)
    assert_type(model.grid_size(64, 64), tuple[int, int])


def intermediates(model: StellarModel, images: Tensor) -> None:
    """The flags of `forward_intermediates` decide what it returns."""
    assert_type(model.forward_intermediates(images), tuple[Tensor, list[Tensor]])
    assert_type(model.forward_intermediates(images, 2, intermediates_only=True), list[Tensor])
    pairs = model.forward_intermediates(images, return_prefix_tokens=True, intermediates_only=True)
    assert_type(pairs, list[tuple[Tensor, Tensor]])
    both = model.forward_intermediates(images, return_prefix_tokens=True)
    assert_type(both, tuple[Tensor, list[tuple[Tensor, Tensor]]])


def process(processor: StellarImageProcessor, localization: Tensor) -> None:
    """Processors come with their type, too."""
    assert_type(StellarImageProcessor.from_pretrained("stellar-tiny", image_size=96), StellarImageProcessor)
    assert_type(StellarImageProcessor.from_config(StellarConfig()), StellarImageProcessor)
    assert_type(StellarImageProcessor.from_dict({}), StellarImageProcessor)
    assert_type(processor.geometry("photo.jpg").output_size, tuple[int, int])
    assert_type(processor.post_process_localization(localization, [(1, 2)], [(0, 0, 1, 1)]), list[Tensor])
    assert_type(processor.overlay("photo.jpg", localization, token=1), Image)


def configure(config: StellarConfig) -> None:
    """Configurations know their fields."""
    assert_type(config.hidden_size, int)
    assert_type(StellarConfig.from_dict({}), StellarConfig)
    assert_type(StellarConfig.from_json_file("config.json"), StellarConfig)
