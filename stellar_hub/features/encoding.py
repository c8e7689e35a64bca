"""From prepared batches to features: mixed precision, and smaller batches where memory does not suffice."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import compress

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.preparation import PreparedBatch
from stellar_hub.features.rows import FeatureBatch, ImageRecord

PRECISIONS = ("float32", "float16", "bfloat16")


def check_precision(precision: str) -> None:
    """Raises ValueError unless a precision exists."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


class BatchEncoder:
    """Computes the features of prepared batches with a backbone.

    Args:
        backbone: Backbone, on its device.
        outputs: Names of the features to compute.
        precision: Precision of the computation: "float32" is the backbone's own dtype, "float16" and "bfloat16" use
            autocast.
        dtype: Floating dtype of the features.

    Attributes:
        largest_piece: Largest number of images that go through the backbone at once; None while memory suffices for
            whole batches.
    """

    def __init__(
        self,
        backbone: Backbone,
        outputs: Sequence[str],
        precision: str = "float32",
        dtype: torch.dtype = torch.float32,
    ):
        check_precision(precision)
        self.backbone = backbone
        self.outputs = tuple(outputs)
        self.precision = precision
        self.dtype = dtype
        self.shapes = backbone.feature_shapes(outputs)
        self.largest_piece: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the backbone is on a GPU, which reads pixels out of pinned memory."""
        return self.backbone.device.type == "cuda"

    def encode_all(self, batches: Iterable[PreparedBatch]) -> Iterator[FeatureBatch]:
        """Yields the features of each batch, in order.

        The features of a batch are fetched while the next batch is computed, so that a GPU does not wait for the CPU.
        """
        before: tuple[PreparedBatch, dict[str, Tensor]] | None = None
        for batch in batches:
            under_way = (batch, {} if batch.pixel_values is None else self.encode(batch.pixel_values))
            if before is not None:
                yield self._collect(*before)
            before = under_way
        if before is not None:
            yield self._collect(*before)

    def encode(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Returns features `(B, ...)` by name, on the backbone's device.

        If memory does not suffice, this batch and all later batches go through in halves, then in quarters, and so on.

        Raises:
            RuntimeError: if memory does not suffice for a single image.
        """
        while True:
            try:
                return self._encode_pieces(pixel_values)
            except RuntimeError as error:
                piece = min(self.largest_piece or len(pixel_values), len(pixel_values))
                if piece == 1 or not should_reduce_batch_size(error):
                    raise
            # Only here is the error gone, and with it the tensors that its traceback holds.
            clear_device_cache(garbage_collection=True)
            self.largest_piece = piece // 2

    @torch.inference_mode()
    def _encode_pieces(self, pixel_values: Tensor) -> dict[str, Tensor]:
        pieces: list[dict[str, Tensor]] = []
        for piece in pixel_values.split(self.largest_piece or len(pixel_values)):
            images = piece.to(self.backbone.device, non_blocking=True)
            with self._autocast():
                found = self.backbone.features(self._as_input(images), self.outputs)
            pieces.append({name: tensor.to(self.dtype) for name, tensor in found.items()})
        return {name: torch.cat([piece[name] for piece in pieces]) for name in self.outputs}

    def _as_input(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or self.backbone.takes_bytes:
            return images
        # A tensor as divisor gives the same bits on every device: CUDA multiplies by the reciprocal of a number.
        return images.float() / torch.tensor(255.0, device=images.device)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.backbone.device.type, dtype=getattr(torch, self.precision))

    def _collect(self, batch: PreparedBatch, encoded: dict[str, Tensor]) -> FeatureBatch:
        """Returns a batch with its features on the CPU; rows with an error or features that are not finite are NaN."""
        on_cpu = {name: tensor.cpu() for name, tensor in encoded.items()}
        ok = torch.tensor([record.error is None for record in batch.records], dtype=torch.bool)
        features = {
            name: torch.full((len(ok), *shape), torch.nan, dtype=self.dtype) for name, shape in self.shapes.items()
        }
        for name, tensor in on_cpu.items():
            features[name][ok] = tensor
        finite = torch.stack([tensor.isfinite().reshape(len(ok), -1).all(dim=1) for tensor in features.values()])
        finite = finite.all(dim=0)
        for tensor in features.values():
            tensor[~finite] = torch.nan
        return FeatureBatch(self._with_errors(batch.records, ok & ~finite), features)

    def _with_errors(self, records: list[ImageRecord], not_finite: Tensor) -> list[ImageRecord]:
        records = list(records)
        dtype = str(self.dtype).removeprefix("torch.")
        reason = f"the model's features are not finite, computed in {self.precision} and kept in {dtype}"
        for index in compress(range(len(records)), not_finite.tolist()):
            records[index] = dataclasses.replace(records[index], error=reason)
        return records
