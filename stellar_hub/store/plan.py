"""What an extraction into a store is to do, decided before it begins."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stellar_hub.data.sources import ImageSource, StoredSource
from stellar_hub.features.encoding import PRECISIONS
from stellar_hub.features.identity import describe_model, describe_preprocessing
from stellar_hub.features.in_memory import check_at_least, split_rows
from stellar_hub.features.names import DEFAULT_OUTPUTS, check_outputs, output_shapes
from stellar_hub.features.preparation import check_fixed_size
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.tensor_format import check_dtype
from stellar_hub.version import __version__


@dataclass(frozen=True)
class ExtractionOptions:
    """What to extract and how; all of it is kept in the store, as it decides what is in the shards.

    Attributes:
        outputs: Of "S", "L", "pooled", "cls" and "patches".
        dtype: What is stored: "float32", "float16", "bfloat16", or "int8" (`S` int8, `L` uint8, the rest float16).
        precision: What is computed in: "float32" is the model's own dtype, "float16" and "bfloat16" are autocast.
        batch_size: Images that go through the model at once.
        shard_rows: Rows of a shard.

    Raises:
        ValueError: if one is out of range.
    """

    outputs: Sequence[str] = DEFAULT_OUTPUTS
    dtype: str = "float16"
    precision: str = "float32"
    batch_size: int = 32
    shard_rows: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", check_outputs(self.outputs))
        check_dtype(self.dtype)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("shard_rows", self.shard_rows, 1)


def make_plan(
    model: StellarModel,
    processor: StellarImageProcessor,
    source: StoredSource,
    options: ExtractionOptions,
    source_names: Sequence[str] = (),
) -> Manifest:
    """The manifest of the store to be, without counts.

    Raises:
        OSError: if an image of the source is gone.
        ValueError: if the processor does not give images of one size.
    """
    grid_size = model.grid_size(*check_fixed_size(processor))
    shapes = output_shapes(model.config, grid_size, options.outputs)
    return Manifest(
        library=f"stellar_hub {__version__}",
        model=describe_model(model),
        preprocessing=describe_preprocessing(processor),
        features={
            "shapes": {name: list(shape) for name, shape in shapes.items()},
            "dtype": options.dtype,
            "precision": options.precision,
            "batch_size": options.batch_size,
            "grid_size": list(grid_size),
        },
        source={
            "fingerprint": source.fingerprint(),
            "names": [absolute(name) for name in source_names],
            "num_images": len(source),
        },
        shard_rows=options.shard_rows,
    )


def absolute(name: str) -> str:
    """A path in full, so that it is found from any folder; other names as they are."""
    return os.path.abspath(name) if Path(name).parent.exists() and ":" not in name else name


def batches_of(plan: Manifest, shard: int) -> list[range]:
    """The batches of a shard: always the same rows together, so that numbers come out the same to the last bit."""
    return split_rows(plan.rows_of_shard(shard), plan.features["batch_size"])


def owned_shards(plan: Manifest, rank: int, num_processes: int) -> range:
    """The shards of one of several processes."""
    return range(rank, plan.num_shards, num_processes)


def check_source(source: ImageSource) -> None:
    """Refuse a source that cannot tell whether it is still the same.

    Raises:
        TypeError: if it has no fingerprint.
    """
    if not hasattr(source, "fingerprint"):
        raise TypeError(
            f"a store needs a source that can tell whether it has changed, got {type(source).__name__}: "
            "open a folder, a list, tars or a table with stellar_hub.data.sources.open_sources"
        )
