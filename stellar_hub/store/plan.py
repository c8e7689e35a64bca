"""The plan of an extraction into a store, which is fixed before the work begins."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stellar_hub.data.sources import ImageSource, StoredSource
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.encoding import AUTO, BatchEncoder, check_precision, choose_precision
from stellar_hub.features.identity import PILLOW, with_decoder
from stellar_hub.features.jpeg_decoding import DECODERS, TORCHVISION, JpegDecoder, decoder_of, decoder_on
from stellar_hub.features.names import DEFAULT_OUTPUTS, check_names, check_outputs
from stellar_hub.features.preparation import check_at_least, split_rows
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.tensor_format import check_dtype, computed_dtype
from stellar_hub.version import __version__


@dataclass(frozen=True)
class ExtractionOptions:
    """The options that decide the content of a store; the store keeps them.

    Attributes:
        outputs: Names of the features to store: "S", "L", "pooled", "cls", "patches".
        dtype: Type of the stored features: "float32", "float16", "bfloat16", or "int8" (`S` as int8, `L` as uint8, all
            others as float16).
        precision: Precision of the computation: "float32" is the model's own dtype, "float16" and "bfloat16" use
            autocast. "auto" is bfloat16 on GPUs that have it and float32 elsewhere; a store that exists keeps its own.
        batch_size: Number of images per batch.
        shard_rows: Number of rows in a shard.
        decoder: What decodes JPEGs: "pillow" in the workers, or "torchvision" on the model's device, which a store
            keeps as "nvjpeg" (GPU) or "libjpeg-turbo" (CPU). "auto" is the store's own; for a new store, a GPU measures
            which is faster, and a CPU takes Pillow.

    Raises:
        ValueError: if a value is out of range.
    """

    outputs: Sequence[str] = DEFAULT_OUTPUTS
    dtype: str = "float16"
    precision: str = AUTO
    batch_size: int = 32
    shard_rows: int = 1024
    decoder: str = PILLOW

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", check_outputs(self.outputs))
        check_dtype(self.dtype)
        check_precision(self.precision, AUTO)
        if self.decoder not in (AUTO, TORCHVISION, *DECODERS):
            allowed = ", ".join((AUTO, TORCHVISION, *DECODERS))
            raise ValueError(f"decoder must be one of {allowed}, got {one_line(repr(self.decoder), 80)}")
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
        options: Options of the extraction. What is "auto" in them is decided by the device alone; `decide` decides
            better.
        source_names: Names that `open_sources` opens the source by.
        outputs: Names of the features to store; None takes those of the options.
        more: Further values that decide the features, such as the device; they are kept with the features.

    Raises:
        OSError: if an image of the source does not exist any more.
        ValueError: if the backbone lacks a feature, or its processor does not give images of one size.
    """
    if outputs is None:
        check_names("outputs", options.outputs, backbone.feature_names)
    decoder = options.decoder
    if decoder == AUTO:
        decoder = TORCHVISION if backbone.device.type == "cuda" else PILLOW
    if decoder == TORCHVISION:
        decoder = decoder_on(decoder, backbone.device)
    shapes = backbone.feature_shapes(options.outputs if outputs is None else outputs)
    return Manifest(
        library=f"stellar_hub {__version__}",
        model=backbone.describe_model(),
        preprocessing=with_decoder(backbone.describe_preprocessing(), decoder),
        features={
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "dtype": options.dtype,
            "precision": choose_precision(options.precision, backbone),
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


def jpeg_decoder_of(plan: Manifest, backbone: Backbone) -> JpegDecoder | None:
    """Returns what decodes the JPEGs of a plan beside the workers; None if they decode.

    Raises:
        ValueError: if the plan's decoder does not work here.
    """
    return decoder_of(backbone, plan.decoder)
