"""Images with masks: `images/NAME.jpg` and `masks/NAME.png`, and perhaps `classes.txt`."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources.files import find_images
from stellar_hub.measures import UNLABELLED

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
NUMBER_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's, of images that hold a number for each pixel
ORIENTATION_TAG, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: orientations whose sides change places


@dataclass(frozen=True, eq=False)
class SegmentationImages:
    """Images and their masks; make it with `read_segmentation_folder`.

    Attributes:
        name: What to call it in messages and reports.
        images: Paths.
        masks: Paths; a mask has the size of its image and the number of a class at each pixel, 255 where unlabelled.
        classes: Names of the classes.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def mask(self, index: int) -> Tensor:
        """The mask of an image, `(H, W)` uint8.

        Raises:
            ValueError: if it cannot be read, has another size than the image, or a number that is no class.
        """
        path = self.masks[index]
        mask = read_mask(path)
        size = size_of_image(self.images[index])
        if tuple(mask.shape) != size:
            raise ValueError(
                f"the mask {path} has {mask.shape[0]} x {mask.shape[1]} pixels, and its image {size[0]} x {size[1]}: "
                "they must be equal"
            )
        labels = mask.unique()
        unknown = labels[(labels >= len(self.classes)) & (labels != UNLABELLED)]
        if len(unknown):
            raise ValueError(
                f"the mask {path} has the label {int(unknown[0])}, and the classes are 0 to {len(self.classes) - 1} "
                f"({UNLABELLED}: unlabelled): correct it, or name all classes in {CLASSES}"
            )
        return mask


def read_segmentation_folder(
    folder: str | os.PathLike[str], classes: tuple[str, ...] | None = None
) -> SegmentationImages:
    """Find the images of `folder`/images and their masks, of the same name, in `folder`/masks.

    Args:
        folder: The folder; its `classes.txt` names the classes, one per line, from number 0 on. Without it classes are
            called by their numbers, up to the largest in any mask.
        classes: The classes, where they are known from elsewhere.

    Raises:
        FileNotFoundError: if a folder or a mask is missing.
        ValueError: if there are no images, a name in `classes.txt` is empty or given twice, or names of images
            differ in their ending only.
    """
    root = Path(folder)
    for inside in (root, root / IMAGES, root / MASKS):
        if not inside.is_dir():
            raise FileNotFoundError(f"no such folder: {inside}; images are looked for in {IMAGES}, masks in {MASKS}")
    names = find_images(root / IMAGES)
    stems = [os.path.splitext(name)[0] for name in names]
    if len(set(stems)) < len(stems):
        raise ValueError(f"images in {root / IMAGES} have names that differ in their ending only: one mask for two")
    masks = [root / MASKS / f"{stem}.png" for stem in stems]
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} images of {root} have no mask, the first is {missing[0]}")
    images = tuple(root / IMAGES / name for name in names)
    known = classes or read_class_names(root / CLASSES) or class_numbers(masks)
    return SegmentationImages(str(folder), images, tuple(masks), known)


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """The lines of a `classes.txt`; None if there is none."""
    if not path.is_file():
        return None
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path} must name a class on each line, none of them twice")
    return names


def class_numbers(masks: list[Path]) -> tuple[str, ...]:
    """Classes called by their numbers, up to the largest in any mask."""
    largest = -1
    for path in masks:
        labelled = read_mask(path)
        labelled = labelled[labelled != UNLABELLED]
        largest = max(largest, int(labelled.max()) if labelled.numel() else -1)
    return tuple(str(number) for number in range(largest + 1))


def read_mask(path: Path) -> Tensor:
    """A mask's numbers, `(H, W)` uint8; those of a palette, not its colours.

    Raises:
        ValueError: if it cannot be read, is an image in colour, or has numbers beyond 255.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except OSError as error:
        raise ValueError(f"the mask {path} cannot be read: {error}") from error
    if mode not in NUMBER_MODES:
        raise ValueError(f"the mask {path} is an image in colour ({mode}); masks hold the number of a class per pixel")
    if values.max() > UNLABELLED or values.min() < 0:
        raise ValueError(f"the mask {path} has numbers from {values.min()} to {values.max()}, allowed are 0 to 255")
    return torch.from_numpy(values.astype(np.uint8))


def size_of_image(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is shown, its EXIF orientation applied; its header alone is read.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION_TAG) in TURNED
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if turned else (height, width)
