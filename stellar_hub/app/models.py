"""The models of the page: those that its owner named, loaded when they are first used, a few at a time."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stellar_hub.features.identity import load_model, load_processor, weights_sha256
from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.modeling.localization_maps import as_float
from stellar_hub.modeling.safe_text import did_you_mean, one_line

MAX_LOADED = 2  # models in memory: the one that is used and the one that it is compared with
PANEL = 384  # pixels of the shorter side of an image on the page, at least

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class LoadedModel:
    """A model with what reads images for it.

    Attributes:
        model: The model, in evaluation mode.
        processor: Its image processor.
        sharp: A processor that sees the same part of an image in several times the pixels, to draw on.
    """

    model: StellarModel
    processor: StellarImageProcessor
    sharp: StellarImageProcessor

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights that features depend on, as stores have it."""
        return weights_sha256(self.model)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


class Models:
    """Loads models by name, encodes and decodes. It may be used by several threads.

    Args:
        names: Published names, folders, Hub repositories or files. Nothing else is ever loaded, so that the name in a
            request can lead nowhere else.
        device: Device to run on, or "auto".
        on_gpu: Decorator of the functions that compute, such as `spaces.GPU`.

    Raises:
        ValueError: if there is no name.
    """

    def __init__(self, names: Sequence[str], device: str = "auto", on_gpu: Decorator = _as_it_is):
        if not names:
            raise ValueError("names must have at least one model, such as 'stellar-tiny'")
        self.names = tuple(dict.fromkeys(names))
        self.device = device
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        # The lock is held around these calls, never inside: a decorator may run them in a forked process.
        self._encode: Callable[[str, Tensor], StellarEncoding] = on_gpu(self._encode_here)
        self._decode: Callable[[str, StellarEncoding], Tensor | None] = on_gpu(self._decode_here)

    def load(self, name: str) -> LoadedModel:
        """Returns a model, which is loaded if it is not among the last that were used.

        Raises:
            OSError: if it does not exist any more, or cannot be downloaded.
            ValueError: if it is none of the models of the page.
        """
        with self._lock:
            return self._load_here(name)

    def encode(self, name: str, pixels: Tensor) -> StellarEncoding:
        """Encodes one image.

        Args:
            name: Name of the model.
            pixels: The image as the model sees it, `(3, H, W)` in [0, 1].

        Returns:
            A batch of one encoding, float32 on the CPU.
        """
        with self._lock:
            self._load_here(name)
            return self._encode(name, pixels)

    def decode(self, name: str, encoding: StellarEncoding) -> Tensor | None:
        """Decodes a batch of one encoding to `(3, H', W')` in [0, 1] on the CPU; None if the model has no decoder."""
        with self._lock:
            self._load_here(name)
            return self._decode(name, encoding)

    def _load_here(self, name: str) -> LoadedModel:
        if name not in self.names:
            hint = did_you_mean(name, self.names)
            raise ValueError(
                f"{one_line(repr(name), 100)} is no model of this page{hint}. It has {', '.join(self.names)}; start it "
                "with another --model to add one"
            )
        if name not in self._loaded:
            while len(self._loaded) >= MAX_LOADED:
                self._loaded.popitem(last=False)
            self._loaded[name] = _loaded(name, self.device)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    @torch.inference_mode()
    def _encode_here(self, name: str, pixels: Tensor) -> StellarEncoding:
        model = self._load_here(name).model
        encoding = model.encode(pixels[None].to(model.device, model.dtype))
        return encoding.to(torch.float32).cpu()

    @torch.inference_mode()
    def _decode_here(self, name: str, encoding: StellarEncoding) -> Tensor | None:
        model = self._load_here(name).model
        if not model.can_decode:
            return None
        return model.decode(encoding.to(model.device, model.dtype))[0].float().cpu()


def _loaded(name: str, device: str) -> LoadedModel:
    """Loads a model and its processors."""
    model, processor = load_model(name, device)
    height, width = int(processor.crop_size["height"]), int(processor.crop_size["width"])
    times = math.ceil(PANEL / min(height, width))
    sharp = load_processor(name, model, fit="crop", image_size=(times * height, times * width))
    return LoadedModel(model, processor, sharp)


def fitted(processor: StellarImageProcessor, data: bytes, title: str) -> Tensor:
    """Returns what a processor makes of an image file, `(3, H, W)` float32 in [0, 1].

    Raises:
        UnreadableImageError: if it cannot be read as an image; the message has the title.
    """
    return as_float(processor.fit_image(data, title)[0])
