"""Features in a loop: no files, just batches with their row ids."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from stellar_hub.data.sources import ImageSource, open_source
from stellar_hub.data.streams import STREAM_PREFIX, ImageStream, open_stream
from stellar_hub.features.encoding import BatchEncoder, FeatureBatch
from stellar_hub.features.names import DEFAULT_OUTPUTS, check_outputs
from stellar_hub.features.preparation import PreparedBatch, PreparedBatches, batch_loader, check_fixed_size
from stellar_hub.features.processes import LaunchedProcess
from stellar_hub.features.streamed import StreamedBatches
from stellar_hub.modeling import StellarImageProcessor, StellarModel


def extract_features(
    model: StellarModel,
    source: str | os.PathLike[str] | ImageSource | ImageStream,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    *,
    processor: StellarImageProcessor | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    precision: str = "float32",
    dtype: torch.dtype = torch.float32,
) -> Iterator[FeatureBatch]:
    """Features of all images of a source, batch by batch, in its order; memory stays flat.

    An image that cannot be read keeps its row: its features are NaN, and its record has the error.

    Args:
        model: On the device to compute on.
        source: What `open_source` takes (a folder, a list, tars, a table), a source, or a list of images. Also a
            stream, as "stream:..." or `open_stream` gives it: its shards are shared by the processes of a launch and
            their workers, and rows are told by shard and place (`StreamedBatches`).
        outputs: Of "S", "L", "pooled", "cls" and "patches".
        processor: How images are fitted; None takes what follows from the model's size. They must come out in one
            size: fit "crop" or "pad".
        batch_size: Rows of a batch, at least 1; the last one may be shorter.
        num_workers: Processes that read and fit images; 0 does it in this one.
        precision: "float32" computes in the model's own dtype, "float16" and "bfloat16" under autocast.
        dtype: Of the features, floating.

    Yields:
        Batches: `batch.row_ids`, `batch["S"]`, `batch.records`.

    Raises:
        OSError: if the source does not exist or cannot be read.
        ValueError: if it has no images, or an argument does not fit.
    """
    names = check_outputs(outputs)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("num_workers", num_workers, 0)
    processor = processor or StellarImageProcessor.from_config(model.config)
    encoder = BatchEncoder(model, names, check_fixed_size(processor), precision, dtype)
    batches: Dataset[PreparedBatch]
    if isinstance(source, str) and source.startswith(STREAM_PREFIX):
        source = open_stream([source])
    if hasattr(source, "shards") and not hasattr(source, "__getitem__"):
        process = LaunchedProcess.from_environment()
        batches = StreamedBatches(cast(ImageStream, source), processor, batch_size, process.rank, process.num_processes)
    else:
        opened: Any = open_source(source) if isinstance(source, str | os.PathLike) else source
        if not len(opened):
            raise ValueError("the source has no images")
        batches = PreparedBatches(opened, processor, split_rows(range(len(opened)), batch_size))
    loader = batch_loader(batches, num_workers, pin_memory=model.device.type == "cuda")
    return encoder.encode_all(loader)


def split_rows(rows: range, batch_size: int) -> list[range]:
    """Rows in batches of `batch_size`; the last one may be shorter."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ValueError: naming it.
    """
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
