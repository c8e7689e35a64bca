"""The features of all images of a source, for the protocols: computed, or kept in a cache of feature stores."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from stellar_hub.data.sources.image_source import ImageItem, ImageSource, image_digest
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.evaluation.from_store import read_features
from stellar_hub.evaluation.left_out import UnreadableImagesError
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.encoding import BatchEncoder
from stellar_hub.features.preparation import (
    PreparedBatches,
    RefusedImageError,
    batch_loader,
    check_at_least,
    refuse_errors,
    split_rows,
)
from stellar_hub.features.processes import Processes
from stellar_hub.progress import Progress, track
from stellar_hub.store.feature_store import FeatureStore
from stellar_hub.store.files import pyarrow
from stellar_hub.store.fill import fill_store
from stellar_hub.store.manifest import Manifest
from stellar_hub.store.plan import ExtractionOptions, make_plan

SHARD_ROWS = 1024  # an interrupted run computes about this many rows of a cached store again
_KEY_LENGTH = 32  # hexadecimal digits
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class RunSettings:
    """How an evaluation computes; nothing here changes what it measures, except for rounding.

    Attributes:
        batch_size: Number of images per batch; batches do not depend on the number of processes.
        num_workers: Number of worker processes that read images, for each process. None takes the number of cores, at
            most 8; 0 reads in the process itself.
        cache: Folder that keeps features for later runs; None keeps none.
        show_progress: Whether to show progress on standard error.
        processes: This process among those that evaluate together.
        stores: Feature stores to read pooled features from, instead of computing them.

    Raises:
        ValueError: if a number is out of range.
    """

    batch_size: int = 32
    num_workers: int | None = None
    cache: Path | None = None
    show_progress: bool = True
    processes: Processes = field(default_factory=Processes)
    stores: tuple[FeatureStore, ...] = ()

    def __post_init__(self) -> None:
        check_at_least("batch_size", self.batch_size, 1)
        check_at_least("num_workers", self.num_workers or 0, 0)

    def progress(
        self, items: Iterable[ItemT], description: str, total: int | None = None, unit: str = "batch"
    ) -> Iterator[ItemT]:
        """Yields items and shows how many are done; only the main process shows it."""
        return track(items, description, total, unit, enabled=self._shows_progress)

    def progress_of(self, total: int, description: str, unit: str) -> Progress:
        """Returns the progress of work that is no loop over items; only the main process shows it."""
        return Progress(total, unit, description, enabled=self._shows_progress, leave=False)

    @property
    def _shows_progress(self) -> bool:
        return self.show_progress and self.processes.is_main


def all_features(
    backbone: Backbone,
    images: ImageSource,
    names: Sequence[str],
    run: RunSettings,
    data_hash: str = "",
    description: str = "encoding",
    view: AugmentedView | None = None,
) -> dict[str, Tensor]:
    """Returns the features of all images, in their order, in every process.

    Each process computes whole batches, so that any number of processes gives the same bits. Images are prepared and
    encoded as `extract` does it, but here an image that cannot be read raises an error: `evaluate_readable` begins
    again without it, so that the numbers are those of a folder that never had it.

    Args:
        backbone: Backbone that computes the features, on its device.
        images: The images.
        names: Names of the features.
        run: How to compute.
        data_hash: Hash of the images' content, which distinguishes them in the cache. If it is empty and there is a
            cache, the images are read once more to compute it.
        description: Text of the progress bar.
        view: Augmented view that replaces each whole image.

    Returns:
        Each feature `(N, ...)`, float32, on the CPU. Rows that are not finite are NaN.

    Raises:
        OSError: if the cache is not a folder, or cannot be written.
        UnreadableImagesError: if an image cannot be read, in any process; the message names it.
    """
    if run.cache is not None:
        return _cached_features(backbone, _HashedImages(images, data_hash), names, run, view)
    encoder = BatchEncoder(backbone, names)
    batches = split_rows(range(len(images)), run.batch_size)
    own = [batches[number] for number in run.processes.share(len(batches))]
    computed: list[dict[str, Tensor]] = []
    failure: Exception | None = None
    try:
        loader = batch_loader(
            PreparedBatches(images, backbone.processor, own, view), run.num_workers, pin_memory=encoder.on_gpu
        )
        encoded = encoder.encode_all(refuse_errors(loader))
        for batch in run.progress(encoded, f"{description}, {backbone.name}", len(own)):
            computed.append(batch.features)
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        failure = error
    _raise_together(failure, images, run)
    empty = {name: torch.zeros(0, *shape) for name, shape in encoder.shapes.items()}
    return {name: run.processes.gather_rows(torch.cat([rows[name] for rows in [empty, *computed]])) for name in names}


def _raise_together(failure: Exception | None, images: ImageSource, run: RunSettings) -> None:
    """Raises the same kind of error in all processes if one of them failed.

    Raises:
        UnreadableImagesError: if the only errors are images that cannot be read.
    """
    refused = failure.record if isinstance(failure, RefusedImageError) else None
    run.processes.raise_together(None if refused is not None else failure)
    found = [record for record in run.processes.gather([refused]) if record is not None]
    if found:
        raise UnreadableImagesError(images, {record.row: str(record.error) for record in found}) from failure


class _HashedImages:
    """A source whose content has a known hash, as a store needs it. It has no stamps: times of files do not matter."""

    def __init__(self, images: ImageSource, data_hash: str):
        self.images = images
        self.data_hash = data_hash or _hash_content(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageItem:
        return self.images[index]

    def fingerprint(self) -> str:
        return self.data_hash


def _hash_content(images: ImageSource) -> str:
    """Returns the SHA-256 of the content of all images; one that cannot be read counts by its error."""
    digest = hashlib.sha256()
    for index in range(len(images)):
        try:
            digest.update(f"{image_digest(images[index])}\0".encode())
        except (OSError, ValueError) as error:
            digest.update(f"{type(error).__name__}\0".encode())
    return digest.hexdigest()


def _cached_features(
    backbone: Backbone, images: _HashedImages, names: Sequence[str], run: RunSettings, view: AugmentedView | None
) -> dict[str, Tensor]:
    """Returns features out of a store in the cache; the store is filled first if it is not complete."""
    store: FeatureStore | None = None
    failure: Exception | None = None
    try:
        pyarrow()
        plan = _cache_plan(backbone, images, names, run, view)
        folder = _cache_folder(run, plan)
        store = _complete_store(folder, names, run)
        if store is None:
            fill_store(
                plan,
                folder / "+".join(names),
                backbone,
                images,  # type: ignore[arg-type]  # it has no stamps
                num_workers=run.num_workers,
                repair=True,
                processes=run.processes,
                show_progress=run.show_progress,
                view=view,
                stop_at_error=True,
            )
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        failure = error
    _raise_together(failure, images.images, run)
    store = store or FeatureStore(folder / "+".join(names))
    return read_features(store, range(len(store)), names, allow_errors=True)


def _cache_plan(
    backbone: Backbone, images: _HashedImages, names: Sequence[str], run: RunSettings, view: AugmentedView | None
) -> Manifest:
    """Returns the plan of a store whose batches are those of an evaluation without a cache."""
    shard_rows = run.batch_size * max(1, SHARD_ROWS // run.batch_size)
    # In float32 and decoded by Pillow on every device: these numbers are compared with published ones.
    options = ExtractionOptions(
        dtype="float32", precision="float32", batch_size=run.batch_size, shard_rows=shard_rows, decoder="pillow"
    )
    more = {"device": backbone.device.type, "view": None if view is None else view.facts()}
    return make_plan(backbone, images, options, outputs=names, more=more)  # type: ignore[arg-type]  # it has no stamps


def _cache_folder(run: RunSettings, plan: Manifest) -> Path:
    """Returns the folder of all stores in the cache that differ in nothing but the names of their features."""
    assert run.cache is not None
    if run.cache.exists() and not run.cache.is_dir():
        raise FileExistsError(f"--cache {run.cache} is a file: name a folder")
    settings = {name: value for name, value in plan.features.items() if name != "shapes"}
    return run.cache / replace(plan, features=settings).plan[:_KEY_LENGTH]


def _complete_store(folder: Path, names: Sequence[str], run: RunSettings) -> FeatureStore | None:
    """Returns a complete store in a folder of the cache that has these features, or None."""
    for path in sorted(folder.glob("*")):
        try:
            store = FeatureStore(path)
            for number in run.progress(range(store.num_shards), "checking the cache", unit="shard"):
                store.open_shard(number)
        except (ValueError, OSError):  # not complete, or damaged
            continue
        if set(names) <= set(store.outputs):
            return store
    return None
