"""The work of an extraction into a store: its plan, which is fixed before it begins, and the work on shards."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stellar_hub.data.sources import ImageSource, StoredSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.encoding import BatchEncoder, check_precision
from stellar_hub.features.names import DEFAULT_OUTPUTS, check_names, check_outputs
from stellar_hub.features.preparation import PreparedBatches, batch_loader, check_at_least, refuse_errors, split_rows
from stellar_hub.features.rows import FeatureBatch
from stellar_hub.store.files import write_shard
from stellar_hub.store.manifest import Manifest, shard_path
from stellar_hub.store.progress import ExtractionProgress
from stellar_hub.store.tensor_format import check_dtype, computed_dtype, to_stored
from stellar_hub.version import __version__


@dataclass(frozen=True)
class ExtractionOptions:
    """The options that decide the content of a store; the store keeps them.

    Attributes:
        outputs: Names of the features to store: "S", "L", "pooled", "cls", "patches".
        dtype: Type of the stored features: "float32", "float16", "bfloat16", or "int8" (`S` as int8, `L` as uint8, all
            others as float16).
        precision: Precision of the computation: "float32" is the model's own dtype, "float16" and "bfloat16" use
            autocast.
        batch_size: Number of images per batch.
        shard_rows: Number of rows in a shard.

    Raises:
        ValueError: if a value is out of range.
    """

    outputs: Sequence[str] = DEFAULT_OUTPUTS
    dtype: str = "float16"
    precision: str = "float32"
    batch_size: int = 32
    shard_rows: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", check_outputs(self.outputs))
        check_dtype(self.dtype)
        check_precision(self.precision)
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("shard_rows", self.shard_rows, 1)


def make_plan(
    backbone: Backbone,
    source: StoredSource,
    options: ExtractionOptions,
    source_names: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Manifest:
    """Returns the manifest of a store before it is filled: it has no counts yet.

    Args:
        backbone: Backbone that computes the features.
        source: The images.
        options: Options of the extraction.
        source_names: Names that `open_sources` opens the source by.
        outputs: Names of the features to store; None takes those of the options.
        more: Further values that decide the features, such as the device; they are kept with the features.

    Raises:
        OSError: if an image of the source does not exist any more.
        ValueError: if the backbone lacks a feature, or its processor does not give images of one size.
    """
    if outputs is None:
        check_names("outputs", options.outputs, backbone.feature_names)
    shapes = backbone.feature_shapes(options.outputs if outputs is None else outputs)
    return Manifest(
        library=f"stellar_hub {__version__}",
        model=backbone.describe_model(),
        preprocessing=backbone.describe_preprocessing(),
        features={
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "dtype": options.dtype,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "grid_size": list(backbone.grid_size()),
            **(more or {}),
        },
        source={
            "fingerprint": source.fingerprint(),
            "names": [absolute(name) for name in source_names],
            "num_images": len(source),
        },
        shard_rows=options.shard_rows,
    )


def absolute(name: str) -> str:
    """Returns a path as an absolute path; other names, such as "hub:OWNER/NAME", stay as they are."""
    return os.path.abspath(name) if Path(name).parent.exists() and ":" not in name else name


def batches_of(plan: Manifest, shard: int) -> list[range]:
    """Returns the rows of each batch of a shard; they are fixed, so that every run computes the same bits."""
    return split_rows(plan.rows_of_shard(shard), plan.features["batch_size"])


def owned_shards(plan: Manifest, rank: int, num_processes: int) -> range:
    """Returns the shards of one of several processes."""
    return range(rank, plan.num_shards, num_processes)


def check_source(source: ImageSource) -> None:
    """Raises TypeError unless a source can tell whether it has changed."""
    if not hasattr(source, "fingerprint"):
        raise TypeError(
            f"a store needs a source with a fingerprint, got {type(source).__name__}: "
            "open a folder, a list, tars or a table with stellar_hub.data.open_sources"
        )


def encoder_of(plan: Manifest, backbone: Backbone) -> BatchEncoder:
    """Returns the encoder that computes the features of a plan."""
    features = plan.features
    return BatchEncoder(backbone, tuple(features["shapes"]), features["precision"], computed_dtype(features["dtype"]))


def extract_shards(
    plan: Manifest,
    folder: Path,
    shards: Sequence[int],
    source: ImageSource,
    encoder: BatchEncoder,
    num_workers: int | None,
    progress: ExtractionProgress,
    view: AugmentedView | None = None,
    stop_at_error: bool = False,
) -> None:
    """Computes and writes some shards; one shard is written while the next one is computed.

    Args:
        plan: Plan of the store.
        folder: Folder of the store.
        shards: Numbers of the shards.
        source: The images.
        encoder: Encoder of the plan.
        num_workers: Number of worker processes that read images; None takes the number of cores, at most 8.
        progress: Counts the rows.
        view: Augmented view that replaces the whole image.
        stop_at_error: Whether an image that cannot be read ends the work.

    Raises:
        OSError: if a shard cannot be written, for example because the disk is full; no part of it stays.
        ValueError: if an image cannot be read and that ends the work.
    """
    batches = [batch for shard in shards for batch in batches_of(plan, shard)]
    if not batches:
        return
    prepared = PreparedBatches(source, encoder.backbone.processor, batches, view)
    loader: Iterable[Any] = batch_loader(prepared, num_workers, pin_memory=encoder.on_gpu)
    waited = progress.waiting_for(refuse_errors(loader) if stop_at_error else loader)
    encoded = encoder.encode_all(waited)
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing: Future[None] | None = None
        for number in shards:
            done = _take(encoded, len(batches_of(plan, number)), progress)
            if writing is not None:
                writing.result()
            writing = writer.submit(_write_batches, plan, folder, number, done)
        if writing is not None:
            writing.result()


def _take(encoded: Iterable[FeatureBatch], count: int, progress: ExtractionProgress) -> list[FeatureBatch]:
    taken = []
    for _, batch in zip(range(count), encoded, strict=False):
        progress.update(len(batch), int((~batch.ok).sum()))
        taken.append(batch)
    return taken


def _write_batches(plan: Manifest, folder: Path, number: int, batches: Sequence[FeatureBatch]) -> None:
    stored = [to_stored(batch.features, plan.features["dtype"]) for batch in batches]
    tensors = {name: torch.cat([part[name] for part in stored]) for name in stored[0]}
    records = [record for batch in batches for record in batch.records]
    write_shard(shard_path(folder, number), plan.rows_of_shard(number), tensors, records, plan.plan)
