"""A folder of class folders (`cats/1.jpg`, `dogs/2.png`, ...) as a data set, for `finetune_classification.py`."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from stellar_hub import StellarImageProcessor
from stellar_hub.data.labelled.class_folders import list_classes

MIN_CROP_AREA = 0.35  # of the image; smaller crops too often show nothing of what the image is labelled for


@dataclass(frozen=True)
class ClassFolders:
    """Images and what they show."""

    paths: list[Path]
    labels: list[int]  # indices into `classes`
    classes: list[str]  # sorted

    @classmethod
    def read(cls, folder: Path, classes: list[str] | None = None) -> Self:
        """List the images of `folder`/CLASS/, at any depth below it.

        Args:
            folder: Holds one folder per class; names that start with "." are skipped.
            classes: The classes that may occur; None takes those of the folder.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: if it holds no class folder, one without images, fewer than two of them (where `classes` is
                None) or one that is not among `classes`.
        """
        images = list_classes(folder)
        if classes is None and len(images) < 2:
            raise ValueError(f"{folder} holds one class, {next(iter(images))!r}: at least two are needed")
        classes = sorted(images) if classes is None else classes
        unknown = sorted(set(images) - set(classes))
        if unknown:
            raise ValueError(
                f"{folder} holds classes that the training folder does not: {', '.join(unknown)}; "
                f"the classes are {', '.join(classes)}"
            )
        labelled = [(path, classes.index(name)) for name, paths in images.items() for path in paths]
        return cls([path for path, _ in labelled], [label for _, label in labelled], classes)

    def num_in_majority(self, test: "ClassFolders") -> int:
        """How many of the images in `test` always answering with the most frequent class gets right."""
        majority, _ = Counter(self.labels).most_common(1)[0]
        return test.labels.count(majority)


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Pairs of a view `(3, H, W)` and a label.

    Args:
        folders: Images and labels.
        view: Makes of a path what the model is shown.
    """

    def __init__(self, folders: ClassFolders, view: Callable[[Path], Tensor]):
        self.folders = folders
        self.view = view

    def __len__(self) -> int:
        return len(self.folders.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.view(self.folders.paths[index]), self.folders.labels[index]


def augmented_images(folders: ClassFolders, processor: StellarImageProcessor) -> LabelledImages:
    """Random crops, perhaps mirrored, of the processor's size, `(3, H, W)` uint8: a quarter of the bytes to move."""
    augmentation = v2.Compose(
        [
            v2.ToDtype(torch.uint8, scale=True),
            v2.RandomResizedCrop(
                (processor.crop_size["height"], processor.crop_size["width"]),
                scale=(MIN_CROP_AREA, 1.0),
                interpolation=v2.InterpolationMode.BICUBIC,
                antialias=True,
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    return LabelledImages(folders, partial(_augment, processor, augmentation))


def prepared_images(folders: ClassFolders, processor: StellarImageProcessor) -> LabelledImages:
    """Images as the processor prepares them, `(3, H, W)` in [0, 1]: as whoever loads the result will."""
    return LabelledImages(folders, partial(_prepare, processor))


def _augment(processor: StellarImageProcessor, augmentation: v2.Compose, path: Path) -> Tensor:
    return augmentation(processor.process_image(path))


def _prepare(processor: StellarImageProcessor, path: Path) -> Tensor:
    return processor(path)["pixel_values"][0]
