"""Images with masks: `images/NAME.jpg`, `masks/NAME.png` and, optionally, `classes.txt`."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources.files import find_images
from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling.image_loading import read_size
from stellar_hub.old_names import old_names

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
NUMBER_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's modes of images that hold one number per pixel


@dataclass(frozen=True, eq=False)
class SegmentationImages:
    """Images and their masks; make it with `read_segmentation_folder`.

    A mask has the size of its image and holds the number of a class for each pixel, 255 where unlabelled.

    Attributes:
        name: Name for messages and reports.
        images: Paths of the images.
        masks: Paths of the masks.
        classes: Names of the classes.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, index: int) -> Tensor:
        """Reads the mask of an image, `(H, W)` uint8.

        Raises:
            ValueError: if it cannot be read, its size is not the image's, or it has a number that is not a class.
        """
        path = self.masks[index]
        mask = read_mask(path)
        height, width = read_size(self.images[index])
        if tuple(mask.shape) != (height, width):
            raise ValueError(
                f"the mask {path} must have the size of its image, {height} x {width} pixels, "
                f"got {mask.shape[0]} x {mask.shape[1]}"
            )
        labels = mask.unique()
        undefined = labels[(labels >= len(self.classes)) & (labels != UNLABELLED)]
        if len(undefined):
            raise ValueError(
                f"the mask {path} has the label {int(undefined[0])}, allowed are 0 to {len(self.classes) - 1} and "
                f"{UNLABELLED} (unlabelled); correct the mask or name all classes in {CLASSES}"
            )
        return mask


def read_segmentation_folder(
    folder: str | os.PathLike[str], classes: tuple[str, ...] | None = None
) -> SegmentationImages:
    """Finds the images in `folder`/images and the masks of the same names in `folder`/masks.

    Args:
        folder: Folder with the two folders. Its `classes.txt`, if there is one, names the classes, one per line, the
            first is number 0. Without it, the names of classes are their numbers, up to the largest in any mask.
        classes: Names of the classes, if they are already known.

    Raises:
        FileNotFoundError: if a folder or a mask is missing.
        ValueError: if there are no images, two images differ in their suffix only, or a line of `classes.txt` is
            empty or occurs twice.
    """
    root = Path(folder)
    image_folder = _image_folder(root)
    for required in (root, image_folder, root / MASKS):
        if not required.is_dir():
            raise FileNotFoundError(
                f"no such folder: {required}; put the images into {IMAGES}/ and the masks into {MASKS}/"
            )
    names = find_images(image_folder)
    stems = [os.path.splitext(name)[0] for name in names]
    if len(set(stems)) < len(stems):
        raise ValueError(f"images in {image_folder} differ in their suffix only, so two would share one mask")
    masks = [root / MASKS / f"{stem}.png" for stem in stems]
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} images of {root} have no mask, the first is {missing[0]}")
    images = tuple(image_folder / name for name in names)
    known = classes or _read_class_names(root / CLASSES) or _class_numbers(masks)
    return SegmentationImages(str(folder), images, tuple(masks), known)


def _image_folder(root: Path) -> Path:
    """Returns the folder of images: `images`, or the name of earlier releases if only that exists."""
    earlier = [root / old for old, new in old_names("folders").items() if new == IMAGES and (root / old).is_dir()]
    current = root / IMAGES
    return earlier[0] if earlier and not current.is_dir() else current


def _read_class_names(path: Path) -> tuple[str, ...] | None:
    """Returns the lines of a `classes.txt`; None if it does not exist."""
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path} must name one class on each line, each of them once")
    return names


def _class_numbers(masks: list[Path]) -> tuple[str, ...]:
    """Returns the numbers of classes as names, up to the largest number in any mask."""
    largest = -1
    for path in masks:
        mask = read_mask(path)
        labelled = mask[mask != UNLABELLED]
        largest = max(largest, int(labelled.max()) if labelled.numel() else -1)
    return tuple(str(number) for number in range(largest + 1))


def read_mask(path: Path) -> Tensor:
    """Reads a mask's numbers, `(H, W)` uint8. For a palette image these are its indices.

    Raises:
        ValueError: if it cannot be read, is a colour image, or has numbers beyond 255.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read: {error}") from error
    if mode not in NUMBER_MODES:
        raise ValueError(f"the mask {path} must hold one class number per pixel, got a colour image ({mode})")
    if values.max() > UNLABELLED or values.min() < 0:
        raise ValueError(f"the mask {path} must hold numbers from 0 to 255, got {values.min()} to {values.max()}")
    return torch.from_numpy(values.astype(np.uint8))
