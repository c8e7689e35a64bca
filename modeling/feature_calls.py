"""`model.embed` and `model.extract`: features of images that are read, resized and batched on the way.

The library computes them; it registers its functions as entry points (`pretrained_names.py`).
"""

# No `from __future__ import annotations` here: transformers reads annotations at run time.
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
from torch import Tensor

from .pretrained_names import ExtractedBatch, embed_images, extract_features


class FeatureCalls:
    """The part of `StellarModel` that takes images of any kind, and sources of images."""

    @overload
    def embed(
        self,
        images: Any,
        pooling: str = "mean",
        *,
        normalize: bool = True,
        batch_size: int = 32,
        show_progress: bool = False,
        return_tensors: Literal["np"] = "np",
        **options: Any,
    ) -> np.ndarray: ...
    @overload
    def embed(
        self,
        images: Any,
        pooling: str = "mean",
        *,
        normalize: bool = True,
        batch_size: int = 32,
        show_progress: bool = False,
        return_tensors: Literal["pt"],
        **options: Any,
    ) -> Tensor: ...
    def embed(
        self,
        images: Any,
        pooling: str = "mean",
        *,
        normalize: bool = True,
        batch_size: int = 32,
        show_progress: bool = False,
        return_tensors: str = "np",
        **options: Any,
    ) -> Any:
        """Computes one vector for each image, or one set of tokens, without gradients.

        Args:
            images: One image or several, in a list, an iterator or an array with a batch dimension, of any sizes. An
                image is a path, the bytes or the open file of an image, a PIL image, an array `(H, W, 3)` or a tensor
                `(3, H, W)`, uint8 or floats in [0, 1]. Each is resized and cropped to the model's size.
            pooling: "mean" is the mean of the sparse tokens, "cls" the cls token, "tokens" the set of sparse tokens.
            normalize: Whether vectors, and each token of a set, are scaled to length 1.
            batch_size: Number of images per batch, at least 1.
            show_progress: Whether to show a progress bar.
            return_tensors: "np" for a NumPy array, "pt" for a tensor on the CPU.
            **options: `processor`, `image_size`, `num_workers` and `precision`, as for
                `stellar_hub.features.embed_images`.

        Returns:
            Float32 values in the order of the images: `(N, d)`, or `(N, r, d)` for "tokens"; without the first
            dimension for one image.

        Raises:
            FileNotFoundError: if the path of an image does not exist.
            ImportError: if the library is not installed.
            TypeError: if an item is not an image, or there is no such option.
            ValueError: if an image cannot be read, or an argument does not fit. Errors of images have the image's
                place in the list, from 0, and its path.

        Example:
        ```python
        >>> from stellar_hub import StellarModel

        >>> model = StellarModel.from_pretrained("stellar-tiny")
        >>> vectors = model.embed(["examples/images/cat.jpg", "examples/images/petra.jpg"])
        >>> vectors.shape, model.embed("examples/images/cat.jpg", pooling="tokens").shape
        ((2, 192), (16, 192))

        ```
        """
        return embed_images(
            self,
            images,
            pooling,
            normalize=normalize,
            batch_size=batch_size,
            show_progress=show_progress,
            return_tensors=return_tensors,
            **options,
        )

    def extract(
        self, source: Any, outputs: Sequence[str] = ("S", "L", "pooled"), **options: Any
    ) -> Iterator[ExtractedBatch]:
        """Extracts features of all images of a source, batch by batch. It also reads and resizes the images.

        Args:
            source: A folder, a list (.txt), tar archives, a table, or a list of images.
            outputs: Names of the features: "S", "L", "pooled", "cls" and "patches".
            **options: `batch_size`, `num_workers`, `processor`, `precision`, `dtype` and `decoder`, as for
                `stellar_hub.features.extract_features`.

        Yields:
            Batches with `batch.row_ids`, the images' indices in the source, and tensors by name, as in `batch["S"]`.
            An image that cannot be read keeps its row: its features are NaN, and `batch.records` has the error.

        Raises:
            ImportError: if the library is not installed.
            OSError: if the source does not exist or cannot be read.
            ValueError: if the source has no images, or an option does not fit.
        """
        return extract_features(self, source, outputs, **options)
