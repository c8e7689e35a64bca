"""A backbone's features of all images of a source."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from stellar_hub.data.sources.image_source import ImageSource
from stellar_hub.data.views.augmented_view import AugmentedView
from stellar_hub.features.backbones.backbone import Backbone, prepare_image
from stellar_hub.features.processes import Processes
from stellar_hub.modeling.atomic_write import write_atomically

KEY_LENGTH = 32  # hexadecimal digits of the folder's name


class FeatureCache:
    """A folder of features that all come from the same weights, images and preprocessing.

    Args:
        root: Where folders for all keys lie; created if it does not exist.
        key: What the features depend on; anything that JSON can hold.

    Raises:
        FileExistsError: if `root` is a file.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]):
        if root.exists() and not root.is_dir():
            raise FileExistsError(f"--cache {root} is a file; name a folder")
        text = json.dumps(key, sort_keys=True, indent=2)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "key.json").exists():
            write_atomically(self.folder / "key.json", f"{text}\n".encode())

    def read(self, name: str, first: int, stop: int) -> Tensor | None:
        """The feature of images `first` to `stop`; None if it is not there, or damaged."""
        try:
            rows = load_file(self._path(name, first, stop))["features"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        return rows if len(rows) == stop - first else None

    def write(self, name: str, first: int, stop: int, rows: Tensor) -> None:
        """Keep the feature of images `first` to `stop`, `(stop - first, ...)`.

        Raises:
            OSError: if it cannot be written; nothing half-written stays.
        """
        path = self._path(name, first, stop)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, serialize({"features": rows.contiguous()}))

    def _path(self, name: str, first: int, stop: int) -> Path:
        return self.folder / name / f"{first:09d}-{stop:09d}.safetensors"


FORMAT = 1  # of the cache; a change makes old features unknown


@dataclass(frozen=True)
class RunSettings:
    """How an evaluation is computed; none of it changes what is measured, but for rounding.

    Attributes:
        batch_size: Images of one forward; batches are the same however many processes share them.
        num_workers: Processes that read images, for each process; 0 reads in the process itself.
        cache: Folder to keep features in; None keeps none.
        show_progress: Whether to show progress bars.
        processes: This process among those that evaluate together.
        stores: Feature stores to take pooled features from, of the models they belong to.

    Raises:
        ValueError: if a number is out of range.
    """

    batch_size: int = 64
    num_workers: int = 0
    cache: Path | None = None
    show_progress: bool = True
    processes: Processes = field(default_factory=Processes)
    stores: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                "batch_size must be at least 1 and num_workers at least 0, "
                f"got {self.batch_size} and {self.num_workers}"
            )

    def progress(self, items: Iterable[Any], description: str, total: int | None = None, unit: str = "batch") -> Any:
        """Go through items with a progress bar, in the process that shows."""
        hidden = None if self.show_progress and self.processes.is_main else True
        return tqdm(items, desc=description, total=total, unit=unit, disable=hidden, leave=False)


def extract_features(
    backbone: Backbone,
    images: ImageSource,
    names: Sequence[str],
    run: RunSettings,
    data_hash: str = "",
    description: str = "encoding",
    view: AugmentedView | None = None,
) -> dict[str, Tensor]:
    """Features of all images, in their order, in every process.

    Processes compute disjoint ranges of whole batches, so that any number of them gives the same bits.

    Args:
        backbone: What makes the features; its network is on its device.
        images: The source.
        names: Features to make.
        run: How.
        data_hash: What tells the images from others, for the cache.
        description: Of the progress bar.
        view: An augmented view to show in the place of the whole image.

    Returns:
        Each feature `(N, ...)`, float32, on the CPU.

    Raises:
        ValueError: if an image cannot be read (it is named), in whichever process.
    """
    starts = range(0, len(images), run.batch_size)
    mine = [starts[number] for number in run.processes.share(len(starts))]
    made: list[dict[str, Tensor]] = []
    failure: Exception | None = None
    try:
        cache = open_cache(backbone, run, data_hash, view)
        with run.progress(mine, f"{description}, {backbone.name}") as bar:
            for rows in compute(backbone, PreparedImages(backbone, images, view), names, mine, run, cache):
                made.append(rows)
                bar.update()
    except (OSError, ValueError, RuntimeError) as error:
        failure = error
    run.processes.raise_together(failure)
    return {name: gather(name, made, run.processes) for name in names}


def open_cache(backbone: Backbone, run: RunSettings, data_hash: str, view: AugmentedView | None) -> FeatureCache | None:
    """The cache for these weights, images and preprocessing, if one is kept."""
    if run.cache is None:
        return None
    facts = backbone.facts
    key = {
        "format": FORMAT,
        "kind": facts.kind,
        "weights": facts.sha256,
        "preprocessing": facts.preprocessing,
        "images": data_hash,
        "view": None if view is None else view.facts(),
        "batch_size": run.batch_size,
        "device": backbone.device.type,
    }
    return FeatureCache(run.cache, key)


def compute(
    backbone: Backbone,
    images: "PreparedImages",
    names: Sequence[str],
    starts: Sequence[int],
    run: RunSettings,
    cache: FeatureCache | None,
) -> Iterator[dict[str, Tensor]]:
    """Features of the batches that begin at `starts`, in order; those in the cache are not computed."""
    spans = [(start, min(start + run.batch_size, len(images))) for start in starts]
    cached = [cached_batch(cache, names, *span) for span in spans]
    missing = [span for span, known in zip(spans, cached, strict=True) if known is None]
    batches = prepared_batches(images, missing, run)
    for span, known in zip(spans, cached, strict=True):
        if known is not None:
            yield known
            continue
        with torch.inference_mode():
            made = backbone.features(next(batches).to(backbone.device), names)
        rows = {name: feature.float().cpu() for name, feature in made.items()}
        for name, feature in rows.items():
            if cache is not None:
                cache.write(name, *span, feature)
        yield rows


def cached_batch(cache: FeatureCache | None, names: Sequence[str], first: int, stop: int) -> dict[str, Tensor] | None:
    """All features of a batch out of the cache, or None if one is not there."""
    if cache is None:
        return None
    rows = {name: cache.read(name, first, stop) for name in names}
    return None if any(value is None for value in rows.values()) else rows  # type: ignore[return-value]


def prepared_batches(images: "PreparedImages", spans: Sequence[tuple[int, int]], run: RunSettings) -> Iterator[Tensor]:
    """Prepared images `(B, 3, H, W)` of each span.

    Raises:
        ValueError: if an image cannot be read.
    """
    loader: DataLoader = DataLoader(
        images,
        batch_sampler=[list(range(first, stop)) for first, stop in spans],
        num_workers=run.num_workers,
        collate_fn=list,
    )
    for batch in loader:
        failures = [item for item in batch if isinstance(item, str)]
        if failures:
            raise ValueError(failures[0])
        yield torch.stack(batch)


class PreparedImages(Dataset[Tensor | str]):
    """Images as a backbone sees them; in place of one that cannot be read, what is wrong with it."""

    def __init__(self, backbone: Backbone, images: ImageSource, view: AugmentedView | None = None):
        self.processor = backbone.processor  # workers need not have the network
        self.images = images
        self.view = view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            if self.view is not None:
                return self.view.prepare(self.processor, self.images[index], index)
            return prepare_image(self.processor, self.images[index])
        except (OSError, ValueError, TypeError) as error:
            return f"{error}"


def gather(name: str, made: list[dict[str, Tensor]], processes: Processes) -> Tensor:
    """All processes' rows of a feature; one that had no batch learns the shape from the others."""
    mine = torch.cat([rows[name] for rows in made]) if made else None
    shape = next(iter(processes.gather([] if mine is None else [tuple(mine.shape[1:])])))
    return processes.gather_rows(torch.zeros(0, *shape) if mine is None else mine)
