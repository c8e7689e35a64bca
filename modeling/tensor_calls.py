"""`encode` and `decode` on tensors alone, so that graphs can capture them: no checks, and no waiting for a result."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .captured_calls import CapturedCalls
from .encoder_stellar import normalize_pixels
from .factorization import low_rank_product

logger = logging.getLogger(__name__)


class TensorCalls:
    """The part of `StellarModel` that computes; `optimize_for_inference` may have captured its methods."""

    _captured: CapturedCalls | None = None
    _for_inference = False  # after `optimize_for_inference`, until a warning has said what that means for training
    _warned_of_order = False

    def train(self: Any, mode: bool = True) -> Any:
        """Sets the model to training or evaluation; it warns once if `optimize_for_inference` ended training."""
        if mode and self._for_inference and not any(parameter.requires_grad for parameter in self.parameters()):
            self._for_inference = False
            logger.warning(
                "optimize_for_inference switched the gradients of this model off: to train, load the model again with "
                "from_pretrained, and do not call optimize_for_inference"
            )
        return super().train(mode)  # type: ignore[misc]

    def _warn_if_not_ordered(self: Any, num_tokens: int) -> None:
        """Warns once if the first tokens of this model are not its most important ones."""
        config = self.config
        if config.nested_dropout > 0 or num_tokens == config.num_sparse_tokens or self._warned_of_order:
            return
        if not torch.compiler.is_compiling():
            self._warned_of_order = True
            logger.warning(
                "this model was not trained with nested_dropout, so its tokens have no order, and the first %d of %d "
                "hold little of an image: train one with --set model.config.nested_dropout=0.5",
                num_tokens,
                config.num_sparse_tokens,
            )

    def _run(self: Any, method: str, *inputs: Tensor, **constants: Any) -> tuple[Tensor, ...]:
        # Users who compile or export the model get the method itself.
        if self._captured is None or torch.compiler.is_compiling():
            outputs: tuple[Tensor, ...] = getattr(self, method)(*inputs, **constants)
            return outputs
        captured: CapturedCalls = self._captured
        return captured.run(self, method, inputs, constants)

    def _encode_tensors(self: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Returns `S`, `(B, r, d)`, and `L`, `(B, n, r)`, of images `(B, 3, H, W)`."""
        _, patches, semantics = self.encoder(normalize_pixels(pixel_values, self.encoder.pos_embed.dtype))
        return semantics, self.localization(patches, semantics)

    def _decode_tensors(
        self: Any, semantics: Tensor, localization: Tensor, grid_size: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        """Returns images, `(B, 3, H', W')`, as a tuple of one."""
        dtype = self.decoder.proj.weight.dtype
        # Not `decoder.predict`: hooks, such as those that fetch offloaded weights, run around `forward` alone.
        low_rank = low_rank_product(localization.to(dtype), semantics.to(dtype))
        prediction = self.decoder(low_rank, grid_size, predict=True)
        if self.tokenizer is None:
            return (prediction.clamp(0, 1),)
        codes = prediction.argmax(dim=-1).unflatten(1, grid_size)  # (B, h, w)
        return (self.tokenizer(codes),)

    def _apply(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[misc]
        if self._captured is not None:
            self._captured.is_up_to_date()  # drops graphs of weights that were moved or converted
        return self
