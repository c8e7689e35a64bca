"""What decodes the JPEGs of an extraction, workers or device, where "auto" leaves it open: a GPU measures it."""

import statistics
import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource
from stellar_hub.data.workers import default_num_workers
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.encoded_jpegs import EncodedJpeg, EncodedJpegs
from stellar_hub.features.encoding import AUTO, BatchEncoder, choose_precision
from stellar_hub.features.identity import PILLOW
from stellar_hub.features.jpeg_decoding import TORCHVISION, JpegDecoder, decoder_of, decoder_on
from stellar_hub.features.preparation import PreparedBatch, prepare_row
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import ImageRecord

NUM_TIMED_IMAGES = 12
MIN_WORKER_SPEED = 1.1  # images that workers prepare for each one that the model takes; below, it would wait


@dataclass(frozen=True)
class Speeds:
    """Images per second of each part of an extraction: the workers with Pillow, the model, and the device's decoder."""

    workers: float
    model: float
    decoder: float

    @property
    def device_is_faster(self) -> bool:
        """Whether the model would wait for the workers, and less for the device's decoder."""
        return self.workers < MIN_WORKER_SPEED * self.model and self.workers < self.decoder


def choose_decoder(
    decoder: str,
    backbone: Backbone,
    source: Any,
    *,
    batch_size: int,
    precision: str,
    num_workers: int | None,
    num_processes: int = 1,
) -> tuple[str, list[str]]:
    """Decides what decodes JPEGs.

    "auto" is Pillow on a CPU. A GPU measures the workers, the model and its own decoder. What cannot be measured, or
    would have to be measured alike in several processes, is decoded on the GPU: streams, and launches of several
    processes.

    Args:
        decoder: "auto", "torchvision" or one of `DECODERS`.
        backbone: Backbone on its device.
        source: The images.
        batch_size: Number of images per batch.
        precision: Precision of the computation; "auto" is possible.
        num_workers: Number of worker processes that read images; None is the default number.
        num_processes: Number of processes of the launch.

    Returns:
        One of `DECODERS`, and notes that say why where it was measured.

    Raises:
        ValueError: if the decoder does not exist, or does not work on this device.
    """
    if decoder != AUTO:
        decoder_of(backbone, decoder)  # before anything is written
        return decoder_on(decoder, backbone.device), []
    if backbone.device.type != "cuda":
        return PILLOW, []
    name = decoder_on(TORCHVISION, backbone.device)
    try:
        on_device = JpegDecoder(name, backbone.processor, backbone.device)
    except ValueError as error:
        return PILLOW, [f"the workers decode: {error}"]
    if num_processes > 1 or not hasattr(source, "__getitem__"):
        return name, []
    encoder = BatchEncoder(backbone, backbone.feature_names[:1], choose_precision(precision, backbone))
    speeds = measure_speeds(encoder, on_device, source, batch_size, num_workers)
    if speeds is None:
        return PILLOW, []
    where = f"{name} decodes" if speeds.device_is_faster else "the workers decode"
    numbers = f"the workers would prepare {speeds.workers:.0f} images per second, {name} {speeds.decoder:.0f}"
    return name if speeds.device_is_faster else PILLOW, [f"{where}: {numbers}; the model takes {speeds.model:.0f}"]


def measure_speeds(
    encoder: BatchEncoder, decoder: JpegDecoder, source: ImageSource, batch_size: int, num_workers: int | None
) -> Speeds | None:
    """Measures the parts of an extraction on some images of a source; None if none of them is a plain JPEG."""
    processor = encoder.backbone.processor
    step = max(1, len(source) // (2 * NUM_TIMED_IMAGES))
    jpegs: list[EncodedJpeg] = []
    seconds: list[float] = []
    for row in range(0, len(source), step):
        _, kept = prepare_row(source, row, processor, keep_jpegs=True)  # it is then in the disk's cache
        start = time.perf_counter()
        record, pixels = prepare_row(source, row, processor)
        if pixels is not None:
            seconds.append(time.perf_counter() - start)
        if isinstance(kept, EncodedJpeg) and record.error is None:
            jpegs.append(kept)
        if len(seconds) == NUM_TIMED_IMAGES:
            break
    if not jpegs:
        return None
    local = Processes.from_environment().num_local_processes
    workers = default_num_workers(local) if num_workers is None else max(1, num_workers)
    batch = dict(enumerate(islice(cycle(jpegs), batch_size)))
    records = [ImageRecord(place, jpeg.facts.name) for place, jpeg in batch.items()]
    packed = PreparedBatch(records, None, EncodedJpegs.pack(batch))
    pixel_values = decoder.complete(packed).pixel_values
    assert pixel_values is not None
    return Speeds(
        workers=workers / statistics.median(seconds),
        model=batch_size / _seconds_of_second(lambda: encoder.encode(pixel_values)),
        decoder=batch_size / _seconds_of_second(lambda: decoder.complete(packed)),
    )


def _seconds_of_second(work: Any) -> float:
    """Returns the seconds of the second of two calls, with what a GPU still does when they return."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return max(seconds, 1e-9)
