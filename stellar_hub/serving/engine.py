"""A model on one device: it encodes and decodes batches, in smaller pieces where memory does not suffice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from stellar_hub.features.names import in_table_order, select_features
from stellar_hub.modeling import StellarEncoding, StellarModel

ENCODE, DECODE = "encode", "decode"

Features = dict[str, Tensor]


@dataclass(frozen=True)
class BatchKey:
    """What the items of one batch have in common.

    Attributes:
        task: "encode" or "decode".
        shape: Shape of the pixels, or number of patches and tokens and the grid.
        dtype: Type of the tensors.
        patches: Number of patches of each item.
    """

    task: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    patches: int


@dataclass(frozen=True)
class ToEncode:
    """An image for the model.

    Attributes:
        pixels: Pixels, `(3, H, W)`, uint8 or floats in [0, 1].
        outputs: Names of the features that are wanted.
    """

    pixels: Tensor
    outputs: tuple[str, ...]


class Engine:
    """Runs a model for a server. It is for one thread.

    Args:
        model: The model, on its device. As it is, the results for an image do not depend on the others of its batch;
            `optimize_for_inference` trades that for speed.
        precision: "float32" is the model's own dtype, "float16" and "bfloat16" use autocast.
    """

    def __init__(self, model: StellarModel, precision: str = "float32"):
        self.model = model.eval().requires_grad_(False)
        self.precision = precision
        self._most_patches: int | None = None  # that memory sufficed for in one piece; None while it always did

    @torch.inference_mode()
    def run(self, key: BatchKey, items: Sequence[Any]) -> list[Any]:
        """Returns the features by name of each image, or the decoded image, `(3, H', W')`, of each encoding.

        All results are float32 on the CPU.

        Args:
            key: What the items have in common.
            items: Images to encode, or encodings to decode, each a batch of one.

        Raises:
            RuntimeError: if memory does not suffice for a single item.
        """
        if key.task == DECODE:
            images = self._in_pieces(key, len(items), lambda part: {"images": self._decode(items[part])})
            return list(images["images"])
        wanted = {name for item in items for name in item.outputs}
        names = in_table_order(wanted)
        features = self._in_pieces(key, len(items), lambda part: self._encode(items[part], names))
        return [{name: features[name][row] for name in item.outputs} for row, item in enumerate(items)]

    def _encode(self, items: Sequence[ToEncode], names: Sequence[str]) -> Features:
        pixels = torch.stack([item.pixels for item in items]).to(self.model.device)
        with self._autocast():
            if set(names) <= {"S", "L", "pooled"}:  # what `optimize_for_inference` may have captured
                semantics, localization = self.model.encode(pixels)
                features = {"S": semantics, "L": localization, "pooled": semantics.mean(dim=1)}
            else:
                features = select_features(self.model(pixels), names)
        return {name: features[name].float().cpu() for name in names}

    def _decode(self, items: Sequence[StellarEncoding]) -> Tensor:
        semantics = torch.cat([item.semantics for item in items])
        localization = torch.cat([item.localization for item in items])
        encoding = StellarEncoding(semantics, localization, items[0].grid_size).to(self.model.device)
        with self._autocast():
            return self.model.decode(encoding).float().cpu()

    def _in_pieces(self, key: BatchKey, count: int, call: Callable[[slice], Mapping[str, Tensor]]) -> Features:
        """Calls the model with all items, or in halves, quarters and so on if memory does not suffice."""
        while True:
            fits = count if self._most_patches is None else max(1, self._most_patches // key.patches)
            piece = min(fits, count)
            try:
                return _joined(call(slice(start, start + piece)) for start in range(0, count, piece))
            except RuntimeError as error:
                if piece == 1 or not should_reduce_batch_size(error):
                    raise
            # Only here is the error gone, and with it the tensors that its traceback holds.
            clear_device_cache(garbage_collection=True)
            self._most_patches = piece // 2 * key.patches

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=getattr(torch, self.precision))


def _joined(pieces: Iterable[Mapping[str, Tensor]]) -> Features:
    parts = list(pieces)
    return {name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]}
