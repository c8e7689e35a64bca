"""From prepared batches to features: mixed precision, and smaller batches where memory does not suffice."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import compress

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.host_copies import Fetched, HostCopies
from stellar_hub.features.preparation import PreparedBatch
from stellar_hub.features.rows import FeatureBatch, ImageRecord

AUTO = "auto"
PRECISIONS = ("float32", "float16", "bfloat16")
_FINITE = "/finite"  # with the features on their way to the host; no feature has this name
_BATCHES_AHEAD = 2  # that a GPU has been given when the features of a batch are fetched


def check_precision(precision: str, *more: str) -> None:
    """Raises ValueError unless a precision exists, or is one of some more names."""
    if precision not in (*more, *PRECISIONS):
        raise ValueError(f"precision must be one of {', '.join((*more, *PRECISIONS))}, got {precision!r}")


def choose_precision(precision: str, backbone: Backbone) -> str:
    """Returns a precision, and for "auto" the one that suits a backbone.

    That is "bfloat16" for float32 weights on a GPU that computes in bfloat16, and else "float32", the backbone's own
    dtype.
    """
    check_precision(precision, AUTO)
    if precision != AUTO:
        return precision
    own = next((parameter.dtype for parameter in backbone.network.parameters()), None)
    return precision_on(backbone.device) if own == torch.float32 else "float32"


def precision_on(device: torch.device) -> str:
    """Returns the precision that "auto" is for float32 weights on a device."""
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_it else "float32"


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
        self.largest_piece: int | None = None
        self._copies = HostCopies(backbone.device)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the features of one image; they are known if all images get one size."""
        return self.backbone.feature_shapes(self.outputs)

    @property
    def on_gpu(self) -> bool:
        """Whether the backbone is on a GPU, which reads pixels out of pinned memory."""
        return self.backbone.device.type == "cuda"

    def encode_all(self, batches: Iterable[PreparedBatch]) -> Iterator[FeatureBatch]:
        """Yields the features of each batch, in order.

        A GPU gets two more batches before the features of a batch are fetched, so that it does not wait for the CPU.
        """
        under_way: deque[tuple[list[ImageRecord], Fetched | None]] = deque()
        for batch in batches:
            under_way.append((batch.records, self._start(batch.pixel_values)))
            if len(under_way) > (_BATCHES_AHEAD if self.on_gpu else 0):
                yield self._collect(*under_way.popleft())
        while under_way:
            yield self._collect(*under_way.popleft())

    def _start(self, pixel_values: Tensor | None) -> Fetched | None:
        if pixel_values is None:
            return None
        encoded = self.encode(pixel_values)
        return self._copies.fetch({**encoded, _FINITE: finite_rows(encoded.values())})

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

    @torch.no_grad()  # not inference mode, whose tensors a caller could not train a head on
    def _encode_pieces(self, pixel_values: Tensor) -> dict[str, Tensor]:
        pieces: list[dict[str, Tensor]] = []
        for piece in pixel_values.split(self.largest_piece or len(pixel_values)):
            images = self._copies.send(piece)
            with self._autocast():
                found = self.backbone.features(self._as_input(images), self.outputs)
            pieces.append({name: tensor.to(self.dtype) for name, tensor in found.items()})
        if len(pieces) == 1 and self.on_gpu:  # it is copied to the host anyway
            return {name: pieces[0][name] for name in self.outputs}
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

    def _collect(self, records: list[ImageRecord], fetched: Fetched | None) -> FeatureBatch:
        """Returns a batch with its features on the CPU; rows with an error or features that are not finite are NaN."""
        ok = torch.tensor([record.error is None for record in records], dtype=torch.bool)
        encoded = {} if fetched is None else fetched.wait()
        finite = encoded.pop(_FINITE, ok[:0])
        if encoded and ok.all() and finite.all():
            return FeatureBatch(records, encoded)
        kept = ok.clone()
        kept[ok] = finite
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in encoded.items()} or self.shapes
        features = {name: torch.full((len(ok), *shape), torch.nan, dtype=self.dtype) for name, shape in shapes.items()}
        for name, tensor in encoded.items():
            features[name][kept] = tensor[finite]
        return FeatureBatch(self._with_errors(records, ok & ~kept), features)

    def _with_errors(self, records: list[ImageRecord], not_finite: Tensor) -> list[ImageRecord]:
        records = list(records)
        dtype = str(self.dtype).removeprefix("torch.")
        reason = f"the model's features are not finite, computed in {self.precision} and kept in {dtype}"
        for index in compress(range(len(records)), not_finite.tolist()):
            records[index] = dataclasses.replace(records[index], error=reason)
        return records


def finite_rows(features: Iterable[Tensor]) -> Tensor:
    """Returns which rows of features `(B, ...)` are finite in all of them, `(B,)` bool, on their device.

    The largest magnitude of a row is NaN or infinite if any value is; asking every value costs ten times as much.
    """
    largest = [tensor.reshape(len(tensor), -1).abs().amax(dim=1) for tensor in features]
    return torch.stack([values.isfinite() for values in largest]).all(dim=0)
