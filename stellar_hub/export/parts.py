"""Encoder and decoder as modules of tensors in, tensors out, for one image size."""

import torch
from torch import Tensor, nn

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.encoder_stellar import normalize_pixels
from stellar_hub.modeling.factorization import low_rank_product


class EncoderGraph(nn.Module):
    """`pixel_values (B, 3, H, W)` in [0, 1] to `S (B, r, d)`, `L (B, n, r)` and `cls (B, d)`.

    Position embeddings are resampled once, here, and stored: graphs of other runtimes need no bicubic operator.

    Args:
        model: A model in evaluation mode.
        height: Of the images, a multiple of the patch.
        width: Likewise.
    """

    positions: Tensor

    def __init__(self, model: StellarModel, height: int, width: int):
        super().__init__()
        self.encoder = model.encoder
        self.localization = model.localization
        with torch.no_grad():
            positions = model.encoder.positions(model.grid_size(height, width)).clone()
        self.register_buffer("positions", positions)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        normalized = normalize_pixels(pixel_values, self.positions.dtype)
        tokens = self.encoder.run_blocks(self.encoder.embed(normalized, self.positions))
        cls_token, patches, semantics = self.encoder.split(tokens)
        return semantics, self.localization(patches, semantics), cls_token[:, 0]


class DecoderGraph(nn.Module):
    """`S (B, r, d)` and `L (B, n, r)` to images `(B, 3, H', W')` in [0, 1].

    Args:
        model: A model in evaluation mode, with decoder and, for a "vq" head, tokenizer.
        height: Of the images that were encoded.
        width: Likewise.

    Raises:
        ValueError: if the model cannot decode.
    """

    def __init__(self, model: StellarModel, height: int, width: int):
        super().__init__()
        if model.decoder is None or (model.tokenizer is None and model.config.reconstruction_head == "vq"):
            raise ValueError("this model cannot decode: there is no decoder graph to export")
        self.decoder = model.decoder
        self.tokenizer = model.tokenizer
        self.grid_size = model.grid_size(height, width)

    def forward(self, semantics: Tensor, localization: Tensor) -> Tensor:
        """See the class."""
        hidden_states = self.decoder(low_rank_product(localization, semantics), self.grid_size)
        prediction = self.decoder.predict(hidden_states, self.grid_size)
        if self.tokenizer is None:
            return prediction.clamp(0, 1)
        return self.tokenizer(prediction.argmax(dim=-1).unflatten(1, self.grid_size))
