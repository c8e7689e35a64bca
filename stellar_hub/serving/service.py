"""What a server does for a request, without HTTP: it reads images in threads, and batches the calls of the model."""

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from stellar_hub.features.identity import choose_device, describe_model, load_model
from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.serving.batching import Batcher
from stellar_hub.serving.engine import DECODE, ENCODE, BatchKey, Engine, Features, ToEncode
from stellar_hub.serving.images import ImageFile
from stellar_hub.serving.metrics import Metrics
from stellar_hub.serving.refusals import Refusal, faults_of_the_request
from stellar_hub.serving.settings import ServingSettings, check_patches
from stellar_hub.version import __version__


@dataclass(frozen=True)
class Encoded:
    """An image that was encoded.

    Attributes:
        name: Its name.
        grid_size: Rows and columns of its patches.
        features: Its features by name, float32 on the CPU, without a batch dimension.
    """

    name: str
    grid_size: tuple[int, int]
    features: Features


class Service:
    """Encodes and decodes for many at once. One process serves all devices: each has a thread and a model of its own.

    Args:
        models: The model on each device. They are prepared for inference, in place.
        processor: Image processor of the model.
        settings: How it batches, and how long it waits.
        name: Name of the model in answers; None takes that of its configuration.

    Raises:
        ValueError: if there is no model.
    """

    def __init__(
        self,
        models: Sequence[StellarModel],
        processor: StellarImageProcessor,
        settings: ServingSettings | None = None,
        name: str | None = None,
    ):
        if not models:
            raise ValueError("models must have at least one model")
        self.settings = settings or ServingSettings()
        self.processor = processor
        self.model = models[0]
        facts = describe_model(self.model)
        self.name = name or served_name(facts["name"])
        self.facts = {"model": self.name, "revision": facts["revision"], "weights_sha256": facts["weights_sha256"]}
        self.metrics = Metrics()
        self.stopping = False
        self.num_accepted = 0
        if self.settings.optimize:
            for model in models:
                model.optimize_for_inference(batch_sizes=batch_sizes_up_to(self.settings.max_batch_size))
        self._engines = [Engine(model, self.settings.precision) for model in models]
        self._batcher: Batcher | None = None
        self._readers: ThreadPoolExecutor | None = None
        height, width = int(processor.crop_size["height"]), int(processor.crop_size["width"])
        self._own_patches = max(1, (height // self.model.patch_size) * (width // self.model.patch_size))

    @classmethod
    def load(
        cls,
        name: str = "stellar-tiny",
        devices: Sequence[str] = ("auto",),
        settings: ServingSettings | None = None,
        fit: str = "crop",
        image_size: int | tuple[int, int] | None = None,
    ) -> Self:
        """Loads a model for each device.

        Args:
            name: Published name, folder, Hub repository or file of the model.
            devices: Names of devices; "auto" stands for all GPUs, or the CPU if there is none.
            settings: How it batches, and how long it waits.
            fit: How images are fitted to the model's size: "crop", "aspect" or "pad".
            image_size: Side of a square, or height and width, of the images that the model sees. None keeps the size
                of the processor.

        Raises:
            OSError: if the model does not exist.
            ValueError: if a device is not available, or the weights do not fit.
        """
        targets = [choose_device(each) for device in devices for each in all_gpus(device)]
        model, processor = load_model(name, targets[0], fit, image_size=image_size)
        models = [model, *(copy.deepcopy(model).to(target) for target in targets[1:])]
        return cls(models, processor, settings, served_name(name))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the threads, and tries the model once on each device; at the end the threads are ended."""
        settings, loop = self.settings, asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(settings.num_workers, "images")
        self._batcher = Batcher(
            [engine.run for engine in self._engines],
            lambda key: settings.room(key.patches, self._own_patches),
            settings.max_wait_ms / 1000,
            lambda key, size: self.metrics.batch(key.task, size),
            lambda: self.num_accepted,
        )
        batcher = self._batcher
        self.metrics.watch(lambda: batcher.num_waiting, lambda: self.num_accepted)
        try:
            key, item = self._to_encode(torch.zeros(3, *self._input_size(), dtype=torch.uint8), ("S", "L", "cls"))
            await asyncio.gather(*(loop.run_in_executor(None, engine.run, key, [item]) for engine in self._engines))
            yield
        finally:
            self._batcher.close()
            self._readers.shutdown(wait=False, cancel_futures=True)

    async def encode(self, images: Sequence[ImageFile], outputs: tuple[str, ...]) -> list[Encoded]:
        """Encodes images, in their order.

        Args:
            images: The images.
            outputs: Names of the features.

        Raises:
            Refusal: if an image cannot be read, or the queue has no room.
        """
        with self._accepted(len(images)):
            return await _all(self._encode_one(image, outputs) for image in images)

    async def decode(self, encodings: Sequence[StellarEncoding]) -> list[Tensor]:
        """Decodes encodings, each a batch of one, to images `(3, H', W')` in [0, 1].

        Raises:
            Refusal: if the model has no decoder, a decoded image is not finite, or the queue has no room.
        """
        if not self.model.can_decode:
            raise Refusal(400, f"{self.name} has no decoder: it gives features alone")
        with self._accepted(len(encodings)):
            return await _all(self._decode_one(encoding) for encoding in encodings)

    async def in_thread(self, function: Callable[..., Any], *values: Any) -> Any:
        """Returns what a function returns, which runs outside of the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *values)

    def abandon(self) -> int:
        """Refuses everything that has no result yet, because time to stop is over; returns how many images."""
        error = Refusal(503, "the server stops, and had no time for this: send it to another one")
        return 0 if self._batcher is None else self._batcher.abandon(error)

    def health(self) -> dict[str, Any]:
        """Returns what `/health` answers."""
        return {
            "status": "stopping" if self.stopping else "ready" if self._batcher is not None else "starting",
            **self.facts,
            "version": __version__,
            "devices": [str(engine.model.device) for engine in self._engines],
            "image_size": list(self._input_size()),
            "patch_size": self.model.patch_size,
            "num_tokens": self.model.config.num_sparse_tokens,
            "hidden_size": self.model.config.hidden_size,
            "can_decode": self.model.can_decode,
            "queue": {
                "accepted": self.num_accepted,
                "waiting": 0 if self._batcher is None else self._batcher.num_waiting,
                "limit": self.settings.max_queue,
            },
        }

    def _input_size(self) -> tuple[int, int]:
        return int(self.processor.crop_size["height"]), int(self.processor.crop_size["width"])

    @contextmanager
    def _accepted(self, count: int) -> Iterator[None]:
        """Counts images until they are answered."""
        limit = self.settings.max_queue
        if count > limit:
            raise Refusal(413, f"the request has {count} images, and the queue holds {limit}: send fewer at once")
        if self.num_accepted + count > limit:
            raise Refusal(429, f"the queue is full ({self.num_accepted} of {limit} images): try again later")
        self.num_accepted += count
        try:
            yield
        finally:
            self.num_accepted -= count

    async def _encode_one(self, image: ImageFile, outputs: tuple[str, ...]) -> Encoded:
        key, item = await self.in_thread(self._read, image, outputs)
        features = await self._submit(key, item)
        _, height, width = item.pixels.shape
        return Encoded(image.name, (height // self.model.patch_size, width // self.model.patch_size), features)

    def _read(self, image: ImageFile, outputs: tuple[str, ...]) -> tuple[BatchKey, ToEncode]:
        with faults_of_the_request():
            pixels, _ = self.processor.fit_image(image.data, image.name)
            key, item = self._to_encode(pixels, outputs)
            check_patches(key.patches, image.name)
        return key, item

    def _to_encode(self, pixels: Tensor, outputs: tuple[str, ...]) -> tuple[BatchKey, ToEncode]:
        patches = pixels.shape[1] * pixels.shape[2] // self.model.patch_size**2
        return BatchKey(ENCODE, tuple(pixels.shape), pixels.dtype, patches), ToEncode(pixels, outputs)

    async def _decode_one(self, encoding: StellarEncoding) -> Tensor:
        _, patches, tokens = encoding.localization.shape
        shape = (patches, tokens, *(encoding.grid_size or ()))
        image: Tensor = await self._submit(BatchKey(DECODE, shape, torch.float32, max(patches, tokens)), encoding)
        if not bool(torch.isfinite(image).all()):
            raise Refusal(400, "the decoded image is not finite: the values of S or L are too large")
        return image

    async def _submit(self, key: BatchKey, item: Any) -> Any:
        if self._batcher is None:
            raise Refusal(503, "the server starts: try again later")
        return await self._batcher.submit(key, item)


def all_gpus(device: str) -> list[str]:
    """Returns the devices that a name stands for: "auto" is all GPUs, or the CPU."""
    if device != "auto":
        return [device]
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]


def batch_sizes_up_to(largest: int) -> list[int]:
    """Returns the batch sizes to optimize for: the powers of 4 below the largest, and the largest."""
    return [*(4**power for power in range(5) if 4**power < largest), largest]


def served_name(name: str) -> str:
    """Returns the name of a model in answers: of a folder or file its last part, so that no path is shown.

    The model of a run lies in a folder "model" of the run's: then it is the name of the run.
    """
    if not Path(name).exists():
        return name
    path = Path(name).resolve()
    return path.parent.name if path.name == "model" and path.parent.name else path.name


async def _all(work: Any) -> list[Any]:
    """Returns the results of some coroutines, in their order; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
