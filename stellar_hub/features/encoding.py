"""Prepared batches to features: mixed precision, and smaller pieces where memory does not suffice."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from stellar_hub.features.image_record import ImageRecord
from stellar_hub.features.names import output_shapes, select_outputs
from stellar_hub.features.preparation import PreparedBatch
from stellar_hub.modeling import StellarModel


class FeatureRow(NamedTuple):
    """One row: what is known of the image, and its features by name, without a batch dimension."""

    record: ImageRecord
    features: dict[str, Tensor]


@dataclass(frozen=True)
class FeatureBatch:
    """Some rows.

    `batch["S"]` is `batch.features["S"]`.

    Attributes:
        records: One for each row, in the order of rows.
        features: Tensors `(B, ...)` by name. Rows with an error are NaN, so that a mean over them cannot go unseen.
    """

    records: Sequence[ImageRecord]
    features: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            raise KeyError(f"there is no {name!r} here, only {', '.join(self.features)}: ask for it in outputs")
        return self.features[name]

    @property
    def row_ids(self) -> Tensor:
        """Indices of the images in their source, `(B,)` int64."""
        return torch.tensor([record.row for record in self.records], dtype=torch.int64)

    @property
    def ok(self) -> Tensor:
        """Which rows have features, `(B,)` bool."""
        return torch.tensor([record.error is None for record in self.records], dtype=torch.bool)


PRECISIONS = ("float32", "float16", "bfloat16")


class BatchEncoder:
    """Runs the model.

    Args:
        model: On its device.
        outputs: Names of features, of `OUTPUTS`.
        image_size: `(height, width)` of the pixels.
        precision: What the model computes in: its own dtype ("float32"), or under autocast "float16" or "bfloat16".
        dtype: Of the features.

    Attributes:
        largest_piece: Most images that go through the model at once; None while memory has sufficed for all.
    """

    def __init__(
        self,
        model: StellarModel,
        outputs: Sequence[str],
        image_size: tuple[int, int],
        precision: str = "float32",
        dtype: torch.dtype = torch.float32,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.model = model
        self.outputs = tuple(outputs)
        self.precision = precision
        self.dtype = dtype
        self.shapes = output_shapes(model.config, model.grid_size(*image_size), outputs)
        self.largest_piece: int | None = None

    def encode_all(self, batches: Iterable[PreparedBatch]) -> Iterator[FeatureBatch]:
        """Features of each batch, in order.

        A batch's features are fetched when the next one is under way, so that a GPU does not wait for the CPU.
        """
        before: tuple[PreparedBatch, dict[str, Tensor]] | None = None
        for batch in batches:
            under_way = (batch, {} if batch.pixel_values is None else self.encode(batch.pixel_values))
            if before is not None:
                yield self.collect(*before)
            before = under_way
        if before is not None:
            yield self.collect(*before)

    def encode(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Features `(B, ...)` by name, on the model's device.

        Where memory does not suffice, the batch goes through in halves, then in quarters, and so do all that follow.

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
            with self._autocast():
                output = self.model(piece.to(self.model.device, non_blocking=True))
            selected = select_outputs(output, self.outputs)
            pieces.append({name: tensor.to(self.dtype) for name, tensor in selected.items()})
        return {name: torch.cat([piece[name] for piece in pieces]) for name in self.outputs}

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=getattr(torch, self.precision))

    def collect(self, batch: PreparedBatch, encoded: dict[str, Tensor]) -> FeatureBatch:
        """A batch with its features on the CPU, NaN in rows with an error; rows that are not finite become such."""
        on_cpu = {name: tensor.cpu() for name, tensor in encoded.items()}
        ok = torch.tensor([record.error is None for record in batch.records], dtype=torch.bool)
        features = {
            name: torch.full((len(ok), *shape), torch.nan, dtype=self.dtype) for name, shape in self.shapes.items()
        }
        for name, tensor in on_cpu.items():
            features[name][ok] = tensor
        finite = torch.stack([tensor.isfinite().flatten(1).all(dim=1) for tensor in features.values()]).all(dim=0)
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
