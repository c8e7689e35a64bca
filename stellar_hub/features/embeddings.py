"""One vector, or one set of tokens, for each image, in one call: what `model.embed` computes."""

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stellar_hub.data.workers import default_num_workers
from stellar_hub.features.any_images import as_iterable, batches_of_one_size, prepare_all
from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.encoding import AUTO, BatchEncoder, choose_precision
from stellar_hub.features.preparation import check_at_least
from stellar_hub.features.processes import Processes
from stellar_hub.features.rows import FeatureBatch
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.image_loading import ImageInput
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import did_you_mean
from stellar_hub.progress import Progress

# The features that each pooling may be: a backbone gives the first one that it has.
FEATURES_OF_POOLING = {"mean": ("pooled", "patches_mean", "pixels"), "cls": ("cls",), "tokens": ("S",)}
RETURN_TENSORS = ("np", "pt")


def embed_images(
    model: StellarModel | Backbone,
    images: ImageInput | Iterable[ImageInput],
    pooling: str = "mean",
    *,
    normalize: bool = True,
    batch_size: int = 32,
    show_progress: bool = False,
    return_tensors: str = "np",
    processor: StellarImageProcessor | None = None,
    image_size: int | tuple[int, int] | None = None,
    num_workers: int | None = None,
    precision: str = AUTO,
) -> np.ndarray | Tensor:
    """Computes one vector for each image, or one set of tokens.

    The values are those of `extract_features`. The model is in evaluation mode meanwhile, and afterwards in its own. An
    iterator is read as far as batches need it, so that images in it need not fit in memory together.

    Args:
        model: STELLAR model on its device, or a backbone as `open_backbone` opens it.
        images: One image or several, in a list, a tuple, an iterator or an array with a batch dimension. An image is a
            path, the bytes or the open file of an image, a PIL image, an array `(H, W, 3)` or a tensor `(3, H, W)`,
            uint8 or floats in [0, 1]. Sizes may differ: the processor resizes and crops each image.
        pooling: "mean" is the mean of the sparse tokens, "pooled" in the table of features; of other backbones it is
            the mean of the patches. "cls" is the cls token. "tokens" is the set of sparse tokens, `S`.
        normalize: Whether vectors, and each token of a set, are scaled to length 1, so that a dot product is a cosine.
        batch_size: Number of images per batch, at least 1; the last batch may be smaller.
        show_progress: Whether to show a progress bar.
        return_tensors: "np" for a NumPy array, "pt" for a tensor on the CPU.
        processor: Processor that fits the images, with any `fit`. None takes the one that belongs to the model's size.
        image_size: Side of a square, or height and width, of the images that the model sees, in pixels. None keeps the
            size of the processor.
        num_workers: Number of threads that read files ahead. None takes the number of cores, at most 8; 0 reads in this
            thread. Images in memory are always prepared in this thread.
        precision: Precision of the computation, as for `extract_features`.

    Returns:
        Float32 values in the order of the images: `(N, d)`, or `(N, r, d)` for "tokens"; without the first dimension
        for one image. `N` may be 0.

    Raises:
        FileNotFoundError: if the path of an image does not exist.
        OSError: if the machine fails to read a file.
        TypeError: if an item is not an image.
        ValueError: if an image cannot be read, or its features are not finite, or an argument does not fit. Errors of
            images have the image's place in the list, from 0, and its path.
    """
    if return_tensors not in RETURN_TENSORS:
        raise ValueError(f'return_tensors must be "np" or "pt", got {one_line(repr(return_tensors))}')
    backbone = as_backbone(model, _processor_of(model, processor, image_size))
    name = _feature_of(pooling, backbone)
    listed, is_single = as_iterable(images)
    vectors = compute_feature(
        backbone,
        listed,
        name,
        batch_size=batch_size,
        num_workers=num_workers,
        precision=precision,
        show_progress=show_progress,
    )
    if normalize:
        vectors = F.normalize(vectors, dim=-1)
    if is_single:
        vectors = vectors[0]
    return vectors.numpy() if return_tensors == "np" else vectors


def compute_feature(
    backbone: Backbone,
    images: Iterable[Any],
    name: str,
    *,
    batch_size: int = 32,
    num_workers: int | None = 0,
    precision: str = AUTO,
    show_progress: bool = False,
) -> Tensor:
    """Computes one feature of images of any kind and returns it as it is, `(N, ...)` float32, on the CPU.

    Args:
        backbone: Backbone, on its device.
        images: The images, as for `embed_images`.
        name: Name of a feature whose shape does not depend on the size of the image.
        batch_size: Number of images per batch, at least 1.
        num_workers: Number of threads that read files, as for `embed_images`.
        precision: Precision of the computation.
        show_progress: Whether to show a progress bar.

    Raises:
        The errors of `embed_images`.
    """
    check_at_least("batch_size", batch_size, 1)
    check_at_least("num_workers", num_workers or 0, 0)
    if num_workers is None:
        num_workers = default_num_workers(Processes.from_environment().num_local_processes)
    encoder = BatchEncoder(backbone, [name], choose_precision(precision, backbone))
    prepared = prepare_all(images, backbone.processor, num_workers, ahead=batch_size + num_workers)
    batches = batches_of_one_size(prepared, batch_size, encoder.on_gpu)
    rows: list[int] = []
    parts: list[Tensor] = []
    total = len(images) if isinstance(images, Sized) else None
    with (
        Progress(total, "image", "embedding", enabled=show_progress, leave=False) as progress,
        _in_evaluation(backbone.network),
    ):
        for batch in encoder.encode_all(batches):
            _refuse_errors(batch)
            rows += [record.row for record in batch.records]
            parts.append(batch[name])
            progress.update(len(batch))
    if not parts:  # a blank image tells the shape
        blank = Image.new("RGB", (1, 1))
        return compute_feature(backbone, [blank], name, precision=precision)[:0]
    features = torch.cat(parts)
    return features if rows == sorted(rows) else features[torch.tensor(rows).argsort()]


def _processor_of(
    model: StellarModel | Backbone, processor: StellarImageProcessor | None, image_size: Any
) -> StellarImageProcessor | None:
    """Returns the processor to take, or None for the model's own."""
    if image_size is None or not isinstance(model, Backbone | StellarModel):
        return processor
    if processor is not None:
        raise ValueError("image_size sets the size of the model's own processor: pass either image_size or processor")
    if isinstance(model, Backbone):
        raise ValueError(
            f"image_size must be None for the backbone {one_line(model.name)}, which has its own processor"
        )
    return StellarImageProcessor.from_config(model.config, image_size=image_size)


def _feature_of(pooling: str, backbone: Backbone) -> str:
    """Returns the name of the feature that a pooling is, of a backbone.

    Raises:
        ValueError: if there is no such pooling, or the backbone does not have it.
    """
    if not isinstance(pooling, str) or pooling not in FEATURES_OF_POOLING:
        features = {name: word for word, names in FEATURES_OF_POOLING.items() for name in names}
        meant = features.get(str(pooling))
        hint = f"; did you mean {meant!r}?" if meant else did_you_mean(str(pooling), FEATURES_OF_POOLING)
        hint = hint or "; model.extract gives other features"
        shown = ", ".join(map(repr, FEATURES_OF_POOLING))
        raise ValueError(f"pooling must be one of {shown}, got {one_line(repr(pooling))}{hint}")
    names = [name for name in FEATURES_OF_POOLING[pooling] if name in backbone.feature_names]
    if not names:
        offered = [word for word in FEATURES_OF_POOLING if set(FEATURES_OF_POOLING[word]) & set(backbone.feature_names)]
        raise ValueError(f"{one_line(backbone.name)} has no {pooling!r}: its poolings are {', '.join(offered)}")
    return names[0]


def _refuse_errors(batch: FeatureBatch) -> None:
    """Raises ValueError if the features of an image are not finite."""
    for record in batch.records:
        if record.error is not None:
            named = "" if record.image == f"image {record.row}" else f"{record.image}: "
            raise ValueError(f"image {record.row}: {named}{record.error}")


@contextmanager
def _in_evaluation(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode inside the block, and each of its modules back into its own mode after it."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
