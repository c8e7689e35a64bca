"""Yields features batch by batch, without writing files."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from stellar_hub.data.sources import ImageSource, open_source
from stellar_hub.data.streams import STREAM_PREFIX, ImageStream, open_stream
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.decoder_choice import choose_decoder
from stellar_hub.features.encoding import AUTO, BatchEncoder, choose_precision
from stellar_hub.features.identity import PILLOW
from stellar_hub.features.jpeg_decoding import decoder_of
from stellar_hub.features.names import DEFAULT_OUTPUTS, check_outputs
from stellar_hub.features.preparation import (
    PreparedBatches,
    StreamedBatches,
    batch_loader,
    check_at_least,
    split_rows,
)
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import FeatureBatch
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.safe_text import one_line


def extract_features(
    model: StellarModel | Backbone,
    source: str | os.PathLike[str] | ImageSource | ImageStream | Sequence[Image.Image | np.ndarray | torch.Tensor],
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    *,
    processor: StellarImageProcessor | None = None,
    batch_size: int = 32,
    num_workers: int | None = None,
    precision: str = AUTO,
    dtype: torch.dtype | str = torch.float32,
    decoder: str = PILLOW,
) -> Iterator[FeatureBatch]:
    """Computes the features of all images of a source, batch by batch and in its order; memory stays flat.

    An image that cannot be read keeps its row: its features are NaN, and its record has the error.

    Args:
        model: STELLAR model on its device, or a backbone as `open_backbone` opens it.
        source: Anything that `open_source` takes (a folder, a list, tars, a table), a source, or a list of paths, PIL
            images, arrays or tensors. Also a stream, as "stream:..." or as `open_stream` gives it: the processes of a
            launch and their workers share its shards, and rows count by shard and place (`StreamedBatches`).
        outputs: Names of the features, each once: "S", "L", "pooled", "cls", "patches" or another one in the table of
            features (`stellar_hub.features.FEATURES`) that the model has.
        processor: Processor that fits the images to one size, with fit "crop" or "pad". None takes the one that
            belongs to the model's size.
        batch_size: Number of images per batch, at least 1; the last batch may be smaller.
        num_workers: Number of worker processes that read images. None takes the number of cores, at most 8; 0 reads in
            this process.
        precision: Precision of the computation: "float32" is the model's own dtype, "float16" and "bfloat16" use
            autocast. "auto" is bfloat16 on GPUs that have it and float32 elsewhere.
        dtype: Floating dtype of the features, such as `torch.float16` or "float16".
        decoder: What decodes JPEGs: "pillow" in the workers, or "torchvision" on the model's device. "auto" is Pillow
            on a CPU; a GPU measures which is faster.

    Yields:
        Batches: `batch.row_ids`, `batch["S"]`, `batch.records`.

    Raises:
        OSError: if the source does not exist or cannot be read.
        TypeError: if the source is one image, or something else.
        ValueError: if the source has no images, or an argument does not fit.
    """
    dtype = _floating_dtype(dtype)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("num_workers", num_workers or 0, 0)
    backbone = as_backbone(model, processor)
    precision = choose_precision(precision, backbone)
    encoder = BatchEncoder(backbone, check_outputs(outputs, backbone.feature_names), precision, dtype)
    processes = Processes.from_environment()
    batches: PreparedBatches | StreamedBatches
    if isinstance(source, str) and source.startswith(STREAM_PREFIX):
        source = open_stream([source])
    is_stream = hasattr(source, "shards") and not hasattr(source, "__getitem__")
    opened: Any = open_source(source) if isinstance(source, str | os.PathLike) else source
    if not is_stream and not len(_checked_source(opened)):
        raise ValueError("the source has no images")
    decoder, _ = choose_decoder(
        decoder, backbone, opened, batch_size=batch_size, precision=precision, num_workers=num_workers
    )
    on_device = decoder_of(backbone, decoder)
    if is_stream:
        stream = cast(ImageStream, opened)
        batches = StreamedBatches(stream, backbone.processor, batch_size, processes, on_device is not None)
    else:
        rows = split_rows(range(len(opened)), batch_size)
        batches = PreparedBatches(opened, backbone.processor, rows, keep_jpegs=on_device is not None)
    loader = batch_loader(batches, num_workers, pin_memory=encoder.on_gpu)
    return encoder.encode_all(loader if on_device is None else on_device.decode_all(loader))


def _floating_dtype(dtype: Any) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type such as 'float16', got {one_line(repr(dtype))}")
    return found


def _checked_source(source: Any) -> Any:
    """Returns a source or a list of images; raises TypeError for one image, whose rows would count as images."""
    is_array = isinstance(source, np.ndarray | torch.Tensor)
    if source.ndim == 4 if is_array else hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return source
    found = f"an array of {source.ndim} dimensions" if is_array else type(source).__name__
    raise TypeError(
        f"source must be a path, a source as open_source gives it, or a list of images, got {found}: pass [image] for "
        "one image"
    )
