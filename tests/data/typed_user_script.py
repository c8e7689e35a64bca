"""What a user writes, for mypy: `.ci/run` checks it against the installed package. It is never run."""

from typing import Any, assert_type

from torch import Tensor

from stellar_hub import StellarConfig, StellarEncoding, StellarForPreTraining, StellarModel, StellarModelOutput


def load() -> None:
    """The type of a loaded model is that of its class."""
    assert_type(StellarModel.from_pretrained("stellar-tiny", decoder=False), StellarModel)
    assert_type(StellarForPreTraining.from_pretrained("folder"), StellarForPreTraining)
    assert_type(StellarModel.from_backbone("vit_tiny_patch16_224"), StellarModel)
    assert_type(StellarConfig.from_pretrained("stellar-b16"), StellarConfig)
    assert_type(StellarModel.from_pretrained("stellar-tiny").to("cpu").eval().requires_grad_(False), StellarModel)
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
