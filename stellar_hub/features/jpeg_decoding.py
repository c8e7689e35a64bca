"""Decoding JPEGs on the device: torchvision's nvJPEG on a GPU, its libjpeg-turbo on a CPU, and our resampling.

Pixels depend on the decoder. Pillow and libjpeg-turbo give the same image, and our resampling differs from the
processor's by a level of 255 here and there. nvJPEG upsamples colours in its own way.
"""

import contextlib
import dataclasses
import io
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from PIL import Image
from torch import Tensor

from stellar_hub.data.views.device_fitting import DeviceFitting
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.encoded_jpegs import JpegFacts
from stellar_hub.features.identity import PILLOW
from stellar_hub.features.preparation import PreparedBatch, check_fixed_size, error_of_row
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_metadata import turn_upright
from stellar_hub.modeling.safe_text import one_line

TORCHVISION = "torchvision"
_OF_TORCHVISION = {"cuda": "nvjpeg", "cpu": "libjpeg-turbo"}  # by the type of the device
DECODERS = (PILLOW, *_OF_TORCHVISION.values())
_MOST_PIXELS = {"cuda": 2**25, "cpu": 2**23}  # that are decoded, and fitted as floats, at once
_BATCHES_AHEAD = 2

Decode = Callable[[list[Tensor]], list[Tensor]]
_Part = tuple[int, JpegFacts, Tensor]


def decoder_on(decoder: str, device: torch.device) -> str:
    """Returns the decoder that "torchvision" is on a device; other names stay as they are.

    Raises:
        ValueError: if the decoder does not exist, or needs another device.
    """
    if decoder == TORCHVISION:
        decoder = _OF_TORCHVISION["cuda" if device.type == "cuda" else "cpu"]
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join((TORCHVISION, *DECODERS))}, got {decoder!r}")
    if decoder == _OF_TORCHVISION["cuda"] and device.type != "cuda":
        raise ValueError(f"the decoder {decoder} needs a CUDA GPU, got the device {device}: use --device cuda")
    return decoder


def decode_jpegs(encoded: list[Tensor], device: torch.device) -> list[Tensor]:
    """Decodes JPEGs `(N,)` uint8 on the CPU to RGB `(3, H, W)` uint8 on a device, through torchvision.

    Raises:
        RuntimeError: if one of them is damaged, or this torchvision does not decode.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:
        raise RuntimeError(f"this torchvision does not decode JPEGs ({one_line(error)})") from error
    # Grey images come with one channel: what RGB makes of them is not documented for nvJPEG.
    return [image.expand(3, -1, -1) for image in decode_jpeg(encoded, ImageReadMode.UNCHANGED, device)]


class JpegDecoder:
    """Decodes and fits the JPEGs of prepared batches on a device.

    Args:
        decoder: "nvjpeg" or "libjpeg-turbo".
        processor: Processor that fits the images.
        device: Device of the backbone.
        decode: Function that decodes; None takes torchvision's.

    Raises:
        ValueError: if the decoder does not work here.
    """

    def __init__(
        self, decoder: str, processor: StellarImageProcessor, device: torch.device, decode: Decode | None = None
    ):
        self.device = device if decoder == _OF_TORCHVISION["cuda"] else torch.device("cpu")
        self.processor = processor
        self._decode = decode or (lambda encoded: decode_jpegs(encoded, self.device))
        self._fit = DeviceFitting(processor.fill_value)
        self._most_pixels = _MOST_PIXELS[self.device.type]
        self._stream: Any = None
        try:
            self._decode([encoded_example()])
        except RuntimeError as error:
            raise ValueError(
                f"the decoder {decoder} does not work on {self.device} ({one_line(error)}): use --decoder pillow"
            ) from error

    def decode_all(self, batches: Iterable[PreparedBatch]) -> Iterator[PreparedBatch]:
        """Yields the batches with all their pixels; a GPU decodes two batches ahead, in a thread of its own."""
        return work_ahead(batches, self.complete, _BATCHES_AHEAD if self.device.type == "cuda" else 0)

    @torch.no_grad()
    def complete(self, batch: PreparedBatch) -> PreparedBatch:
        """Returns a batch with the pixels of its JPEGs, on the decoder's device.

        A JPEG that the decoder refuses goes to Pillow, whose pixels or error its row gets. If memory does not suffice,
        fewer JPEGs are decoded at once, from this batch on.

        Raises:
            RuntimeError: if memory does not suffice for a single image.
        """
        if batch.encoded is None:
            return batch
        while True:
            try:
                with self._own_stream():
                    return self._complete(batch)
            except RuntimeError as error:
                largest = max(facts.num_pixels for facts in batch.encoded.facts)
                if self._most_pixels < largest or not should_reduce_batch_size(error):
                    raise
            # Only here is the error gone, and with it the tensors that its traceback holds.
            clear_device_cache(garbage_collection=True)
            self._most_pixels //= 2

    def _complete(self, batch: PreparedBatch) -> PreparedBatch:
        assert batch.encoded is not None
        records, parts = list(batch.records), list(batch.encoded.parts())
        pixels = torch.empty(len(records), 3, *check_fixed_size(self.processor), dtype=torch.uint8, device=self.device)
        by_pillow = set(range(len(records))).difference(batch.encoded.places)
        own = [place for place in sorted(by_pillow) if records[place].error is None]
        others = dict(zip(own, () if batch.pixel_values is None else batch.pixel_values, strict=True))
        for piece in in_pieces(parts, self._most_pixels):
            decoded = self._decode_piece([data for _, _, data in piece])
            groups: dict[JpegFacts, list[tuple[int, Tensor]]] = defaultdict(list)
            for (place, facts, data), image in zip(piece, decoded, strict=True):
                if image is not None and tuple(image.shape) == (3, *facts.stored_size):
                    groups[facts._replace(name="")].append((place, image))
                    continue
                try:
                    others[place], _ = self.processor.fit_image(data.numpy().tobytes(), facts.name)
                except Exception as error:
                    failed = records[place]
                    records[place] = dataclasses.replace(
                        failed, original_size=None, crop_box=None, error=error_of_row(error, failed.image)
                    )
            for facts, found in groups.items():
                images = turn_upright(torch.stack([image for _, image in found]), facts.orientation)
                places = torch.tensor([place for place, _ in found], device=self.device)
                pixels[places] = self._fit(images, facts.geometry)
        return PreparedBatch(records, _joined(pixels, others, [record.error is None for record in records]))

    def _decode_piece(self, encoded: list[Tensor]) -> Sequence[Tensor | None]:
        """Decodes JPEGs together, or one by one if one of them is refused; None stands for one that is refused.

        Raises:
            RuntimeError: if memory does not suffice for one of them.
        """
        if self._stream is not None:
            # nvJPEG writes on a stream of its own, into memory that this stream may still read from.
            self._stream.synchronize()
        try:
            return self._decode(encoded)
        except RuntimeError as error:
            full = should_reduce_batch_size(error)
            if len(encoded) == 1:
                if full:
                    raise
                return [None]
        if full:
            clear_device_cache(garbage_collection=True)
        return [image for data in encoded for image in self._decode_piece([data])]

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Works on a stream beside the model's inside the block, and ends when that work is done."""
        if self.device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()


def decoder_of(backbone: Backbone, decoder: str) -> JpegDecoder | None:
    """Returns what decodes JPEGs for a backbone; None if the workers do, with Pillow.

    Raises:
        ValueError: if the decoder does not exist or does not work here.
    """
    decoder = decoder_on(decoder, backbone.device)
    return None if decoder == PILLOW else JpegDecoder(decoder, backbone.processor, backbone.device)


def in_pieces(parts: Sequence[_Part], most_pixels: int) -> Iterator[list[_Part]]:
    """Yields JPEGs in pieces of at most so many pixels, at least one JPEG in each."""
    piece: list[_Part] = []
    total = 0
    for part in parts:
        if piece and total + part[1].num_pixels > most_pixels:
            yield piece
            piece, total = [], 0
        piece.append(part)
        total += part[1].num_pixels
    if piece:
        yield piece


def _joined(pixels: Tensor, others: dict[int, Tensor], ok: list[bool]) -> Tensor | None:
    """Returns the pixels of the rows that are ok, on one device; those by Pillow replace what is in their places."""
    if any(image.is_floating_point() for image in others.values()):  # a batch has one type
        pixels = _as_floats(pixels)
        others = {place: image if image.is_floating_point() else _as_floats(image) for place, image in others.items()}
    if others:
        pixels[torch.tensor(list(others), device=pixels.device)] = torch.stack(list(others.values())).to(pixels.device)
    if all(ok):
        return pixels
    return pixels[torch.tensor(ok, device=pixels.device)] if any(ok) else None


def _as_floats(pixels: Tensor) -> Tensor:
    # A tensor as divisor gives the same bits on every device: CUDA multiplies by the reciprocal of a number.
    return pixels.float() / torch.tensor(255.0, device=pixels.device)


def work_ahead(
    items: Iterable[PreparedBatch], work: Callable[[PreparedBatch], PreparedBatch], ahead: int
) -> Iterator[PreparedBatch]:
    """Yields the results of some work, in order; a thread does it for up to `ahead` items that are not asked for yet.

    Args:
        items: Items; this thread takes them.
        work: Function of one item.
        ahead: Number of items; 0 works in this thread.
    """
    if not ahead:
        yield from map(work, items)
        return
    thread = ThreadPoolExecutor(1)
    under_way: deque[Future[PreparedBatch]] = deque()
    try:
        for item in items:
            under_way.append(thread.submit(work, item))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)


def encoded_example() -> Tensor:
    """Returns a JPEG of 32 x 32 pixels, `(N,)` uint8."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 128, dtype=np.uint8)).save(buffer, format="JPEG")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
