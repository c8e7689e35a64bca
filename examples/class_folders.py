"""Folders of class folders, such as `cats/1.jpg` and `dogs/2.png`, as data sets for `finetune_classification.py`."""

import sys
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
from stellar_hub.data.labelled import list_classes
from stellar_hub.modeling.image_loading import is_fault_of_machine
from stellar_hub.modeling.safe_text import one_line

MIN_CROP_AREA = 0.35  # part of the image; smaller crops often do not show the labelled object
UNREADABLE = -1  # label of an image that cannot be read


@dataclass(frozen=True)
class ClassFolders:
    """The images of class folders and their labels.

    Attributes:
        paths: Paths of the images.
        labels: Index into `classes` for each image.
        classes: Names of the classes.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]

    @classmethod
    def read(cls, folder: Path, classes: list[str] | None = None) -> Self:
        """Lists the images of `folder`/CLASS, at any depth.

        Args:
            folder: Folder with one folder per class. Names that start with "." are skipped.
            classes: Classes that may occur. None: those of the folder, at least two.

        Raises:
            FileNotFoundError: if the folder does not exist.
            ValueError: if it has no class folder, one without images, or one that is not among `classes`.
        """
        images = list_classes(folder)
        if classes is None and len(images) < 2:
            raise ValueError(f"{folder} must have at least two classes, got {next(iter(images))!r} only")
        classes = sorted(images) if classes is None else classes
        unexpected = sorted(set(images) - set(classes))
        if unexpected:
            raise ValueError(
                f"{folder} has classes that the training folder does not have: {', '.join(unexpected)}; "
                f"its classes are {', '.join(classes)}"
            )
        labelled = [(path, classes.index(name)) for name, paths in images.items() for path in paths]
        return cls([path for path, _ in labelled], [label for _, label in labelled], classes)

    def majority(self) -> int:
        """Returns the label of the most frequent class."""
        return Counter(self.labels).most_common(1)[0][0]


class ClassFolderDataset(Dataset[tuple[Tensor, int]]):
    """A data set of pairs of a prepared image `(3, H, W)` and its label.

    An image that cannot be read is named on standard error, and is a black image with the label `UNREADABLE`: so all
    batches have their size, and the loss and the accuracy leave it out.

    Args:
        folders: Images and labels.
        prepare: Function that reads an image and prepares it for the model.
        blank: A black image as `prepare` would return it.
    """

    def __init__(self, folders: ClassFolders, prepare: Callable[[Path], Tensor], blank: Tensor):
        self.folders = folders
        self.prepare = prepare
        self.blank = blank

    def __len__(self) -> int:
        return len(self.folders.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.folders.paths[index]
        try:
            return self.prepare(path), self.folders.labels[index]
        except Exception as error:
            if is_fault_of_machine(error):  # no other image could be read either
                raise
            print(f"left out {one_line(path)}: {one_line(error)}", file=sys.stderr, flush=True)
            return self.blank, UNREADABLE


def augmented_images(folders: ClassFolders, processor: StellarImageProcessor) -> ClassFolderDataset:
    """Returns a data set of random crops, perhaps mirrored, in the processor's size, `(3, H, W)` uint8.

    As uint8, a batch has a quarter of the bytes to transfer.
    """
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
    return ClassFolderDataset(folders, partial(_augment, processor, augmentation), _black(processor, torch.uint8))


def prepared_images(folders: ClassFolders, processor: StellarImageProcessor) -> ClassFolderDataset:
    """Returns a data set of images as the processor prepares them for the classifier's users, `(3, H, W)` in [0, 1]."""
    return ClassFolderDataset(folders, partial(_prepare, processor), _black(processor, torch.float32))


def _black(processor: StellarImageProcessor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(3, processor.crop_size["height"], processor.crop_size["width"], dtype=dtype)


def _augment(processor: StellarImageProcessor, augmentation: v2.Compose, path: Path) -> Tensor:
    return augmentation(processor.process_image(path))


def _prepare(processor: StellarImageProcessor, path: Path) -> Tensor:
    return processor(path)["pixel_values"][0]


if __name__ == "__main__":
    print(f"{__doc__}\nThis file is a part of that program: python examples/finetune_classification.py --help")
