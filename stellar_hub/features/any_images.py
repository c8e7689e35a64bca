"""Images of any kind and any mix, in lists or iterators, prepared in their order and stacked to batches."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources import EncodedImage
from stellar_hub.data.sources.image_source import encoded_and_name
from stellar_hub.features.preparation import PreparedBatch, error_of_row, stack_pixels
from stellar_hub.features.rows import ImageRecord, name_of
from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.image_loading import UnreadableImageError, own_name, read_encoded
from stellar_hub.modeling.safe_text import one_line

_FILES = (str, os.PathLike, bytes)  # threads read these; an object in memory may be in a list twice
_IN_MEMORY = (Image.Image, np.ndarray, Tensor)
_BATCHES_HELD = 4  # of images that wait for others of their size
_KINDS_OF_ERRORS = (FileNotFoundError, OSError, UnreadableImageError, TypeError)

_Prepared = tuple[ImageRecord, Tensor]


def as_iterable(images: Any) -> tuple[Iterable[Any], bool]:
    """Returns images as an iterable, and whether it is one image that was given alone.

    Args:
        images: An image (a path, the bytes or the open file of one, a PIL image, an array or a tensor of two or three
            dimensions), an iterable of images, or an array with a batch dimension.

    Raises:
        TypeError: if it is something else.
        ValueError: if it is the path of a folder.
    """
    if isinstance(images, np.ndarray) and images.ndim == 1:
        return images.tolist(), False  # of paths
    if isinstance(images, np.ndarray | Tensor):
        return (images, False) if images.ndim == 4 else ([images], True)
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):
        raise ValueError(
            f"{one_line(images)} is a folder: pass a list of image files, or call model.extract, which reads folders"
        )
    if isinstance(images, (*_FILES, *_IN_MEMORY, bytearray, memoryview, EncodedImage)) or hasattr(images, "read"):
        return [images], True
    if isinstance(images, Mapping) or not (hasattr(images, "__iter__") or hasattr(images, "__getitem__")):
        hint = ": pass its images alone" if isinstance(images, Mapping) else ""
        raise TypeError(f"images must be an image or a list of images, got {type(images).__name__}{hint}")
    return images, False


def prepare_all(
    images: Iterable[Any], processor: StellarImageProcessor, num_workers: int, ahead: int
) -> Iterator[_Prepared]:
    """Yields the images as a processor fits them, in their order.

    Args:
        images: The images. They are taken one by one, as far as they are needed.
        processor: Processor that fits them.
        num_workers: Number of threads that prepare files; 0 prepares all images in this thread.
        ahead: Number of images that are prepared before they are needed, if there are threads.

    Raises:
        OSError, TypeError, ValueError: if an image cannot be read; the message has its place and its name.
        MemoryError, RuntimeError: if the machine is full, and not the image at fault.
    """
    pending: deque[Future[_Prepared]] = deque()
    with ThreadPoolExecutor(max(1, num_workers), "read") as pool:
        try:
            for row, image in enumerate(images):
                if num_workers and isinstance(image, _FILES):
                    pending.append(pool.submit(_prepare, row, image, processor))
                else:
                    pending.append(_prepared_here(row, image, processor))
                if not num_workers or len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _prepared_here(row: int, image: Any, processor: StellarImageProcessor) -> Future[_Prepared]:
    """Prepares an image in this thread; its error is raised when it is asked for, after those of earlier images."""
    future: Future[_Prepared] = Future()
    try:
        future.set_result(_prepare(row, image, processor))
    except Exception as error:
        future.set_exception(error)
    return future


def _prepare(row: int, image: Any, processor: StellarImageProcessor) -> _Prepared:
    """Reads and fits one image."""
    name = name_of(image, row)
    try:
        pixels, geometry = processor.fit_image(*_content_and_name(image, name))
    except Exception as error:  # decoders raise many kinds
        line = error_of_row(error, name)
        kind = next((kind for kind in _KINDS_OF_ERRORS if isinstance(error, kind)), ValueError)
        numbered = line.startswith((f"image {row} ", f"image {row}:"))
        raise kind(line if numbered else f"image {row}: {line}") from error
    return ImageRecord(row, name, geometry.original_size, geometry.crop_box), pixels


def _content_and_name(image: Any, name: str) -> tuple[Any, str]:
    """Returns what a processor takes for an image of any kind, and its name for errors."""
    if isinstance(image, str | os.PathLike | EncodedImage):
        return encoded_and_name(image)  # type: ignore[arg-type]
    name = own_name(image) or name
    if isinstance(image, Tensor):
        return image.detach().cpu(), name  # resizing always runs there
    return (image, name) if isinstance(image, _IN_MEMORY) else read_encoded(image, name)


def batches_of_one_size(images: Iterable[_Prepared], batch_size: int, pin_memory: bool) -> Iterator[PreparedBatch]:
    """Yields batches of images of one size, each as soon as it is full.

    Args:
        images: The images, as `prepare_all` yields them.
        batch_size: Largest number of images in a batch. Some batches are smaller if there are many sizes, so that few
            images wait for others of their size.
        pin_memory: Whether to put pixels into pinned memory.
    """
    waiting: dict[torch.Size, list[_Prepared]] = {}
    for record, pixels in images:
        group = waiting.setdefault(pixels.shape, [])
        group.append((record, pixels))
        if len(group) == batch_size:
            yield _stacked(waiting.pop(pixels.shape), pin_memory)
        elif sum(map(len, waiting.values())) >= _BATCHES_HELD * batch_size:
            yield _stacked(waiting.pop(max(waiting, key=lambda size: len(waiting[size]))), pin_memory)
    for group in waiting.values():
        yield _stacked(group, pin_memory)


def _stacked(group: list[_Prepared], pin_memory: bool) -> PreparedBatch:
    batch = PreparedBatch([record for record, _ in group], stack_pixels([pixels for _, pixels in group]))
    return batch.pin_memory() if pin_memory else batch
