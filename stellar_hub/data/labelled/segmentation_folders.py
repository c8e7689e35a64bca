"""Images with masks: `images/NAME.jpg`, `masks/NAME.png` and, optionally, `classes.txt`."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.data.sources.files import counted, scan_images
from stellar_hub.data.sources.open_sources import check_root
from stellar_hub.measures import UNLABELLED
from stellar_hub.modeling.image_errors import is_fault_of_machine, unreadable
from stellar_hub.modeling.image_formats import open_encoded
from stellar_hub.modeling.image_loading import read_encoded, read_size
from stellar_hub.modeling.safe_paths import is_below, read_bounded
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import old_names
from stellar_hub.progress import track

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
NUMBER_MODES = ("1", "L", "P", "I", "I;16")  # Pillow's modes of images that hold one number per pixel
BINARY = frozenset({0, UNLABELLED})  # the numbers of masks of two classes, as image editors and many tools write them
_SCALED_PNG = {"L;2": 85, "L;4": 17}  # Pillow scales grey values of 2 and 4 bits to 0..255


@dataclass(frozen=True, eq=False)
class SegmentationImages:
    """Images and their masks; make it with `read_segmentation_folder`.

    A mask has the size of its image and holds the number of a class for each pixel, 255 where unlabelled.

    Attributes:
        name: Name for messages and reports.
        images: Paths of the images.
        masks: Paths of the masks. One may be missing, which `mask` reports.
        classes: Names of the classes.
        binary: Whether the masks hold 0 and 255 for two classes; `mask` then returns 1 for 255.
        roots: Folders below which masks must be, also if they are links; empty allows all.
        notes: What was passed over, counted, one sentence each.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: tuple[str, ...]
    binary: bool = False
    roots: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def numbers(self, index: int) -> Tensor:
        """Reads the mask of an image as it is stored, `(H, W)` uint8.

        Raises:
            FileNotFoundError: if the image or the mask does not exist.
            ValueError: if one of them cannot be read, their sizes differ, or the mask is a link that leads elsewhere.
        """
        path = self.masks[index]
        if not path.is_file():
            raise FileNotFoundError(f"{one_line(self.images[index])} has no mask {one_line(path)}")
        _check_place(path, self.roots)
        mask = read_mask(path)
        height, width = read_size(self.images[index])
        if tuple(mask.shape) != (height, width):
            raise ValueError(
                f"the mask {one_line(path)} must have the size of its image, {height} x {width} pixels, "
                f"got {mask.shape[0]} x {mask.shape[1]}"
            )
        return mask

    def mask(self, index: int) -> Tensor:
        """Reads the mask of an image, `(H, W)` uint8.

        Raises:
            FileNotFoundError: if the image or the mask does not exist.
            ValueError: if it cannot be read, its size is not the image's, or it has a number that is not a class.
        """
        mask = self.numbers(index)
        self.check_labels(index, frozenset(mask.unique().tolist()))
        return (mask == UNLABELLED).to(torch.uint8) if self.binary else mask

    def check_labels(self, index: int, labels: Iterable[int]) -> None:
        """Raises ValueError if one of the numbers in a mask is not a class."""
        allowed = BINARY if self.binary else {*range(len(self.classes)), UNLABELLED}
        undefined = sorted(set(labels) - allowed)
        if undefined:
            raise ValueError(
                f"the mask {one_line(self.masks[index])} has the label {undefined[0]}, allowed are 0 to "
                f"{len(self.classes) - 1} and {UNLABELLED} (unlabelled); correct the mask or name all classes in "
                f"{CLASSES}"
            )

    def some(self, rows: Iterable[int]) -> "SegmentationImages":
        """Returns some of the images with their masks."""
        rows = list(rows)
        return replace(
            self, images=tuple(self.images[row] for row in rows), masks=tuple(self.masks[row] for row in rows)
        )


def read_segmentation_folder(
    folder: str | os.PathLike[str],
    classes: tuple[str, ...] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> SegmentationImages:
    """Finds the images in `folder`/images and the masks of the same names in `folder`/masks.

    Args:
        folder: Folder with the two folders. Its `classes.txt`, if there is one, names the classes, one per line, the
            first is number 0. Without it, the names of classes are their numbers, up to the largest in any mask. Masks
            that hold only 0 and 255 then have the two classes "0" and "255".
        classes: Names of the classes, if they are already known.
        root: Another folder below which links in the folder may end.

    Raises:
        FileNotFoundError: if a folder is missing, or no image has a mask.
        ValueError: if there are no images, two images differ in their suffix only, no mask can be read, or a line of
            `classes.txt` is empty or occurs twice.
    """
    base = Path(folder)
    image_folder = _image_folder(base)
    for required in (base, image_folder, base / MASKS):
        if not required.is_dir():
            raise FileNotFoundError(
                f"no such folder: {required}; put the images into {IMAGES}/ and the masks into {MASKS}/"
            )
    check_root(root)
    names, notes = scan_images(image_folder, root=root or base)
    stems = [os.path.splitext(name)[0] for name in names]
    if len(set(stems)) < len(stems):
        raise ValueError(f"images in {image_folder} differ in their suffix only, so two would share one mask")
    masks = tuple(base / MASKS / f"{stem}.png" for stem in stems)
    if not any(mask.is_file() for mask in masks):
        raise FileNotFoundError(f"none of the {len(masks)} images of {base} has a mask, the first lacks {masks[0]}")
    roots = tuple(os.path.realpath(each) for each in (base, base / MASKS, root) if each is not None)
    found = SegmentationImages(
        name=str(folder),
        images=tuple(image_folder / name for name in names),
        masks=masks,
        classes=classes or _read_class_names(base / CLASSES) or (),
        roots=roots,
        notes=(*notes, *_note_on_masks_alone(base / MASKS, masks)),
    )
    if found.classes:
        return found
    labels = _all_labels(masks, roots)
    if labels == BINARY:
        return replace(found, classes=("0", str(UNLABELLED)), binary=True)
    numbers = range(max(labels - {UNLABELLED}, default=-1) + 1)
    return replace(found, classes=tuple(map(str, numbers)))


def _note_on_masks_alone(folder: Path, masks: Sequence[Path]) -> list[str]:
    """Returns a note on the masks without an image, if there are any."""
    found = {mask for mask in folder.rglob("*.png") if not mask.name.startswith(".")}
    alone = len(found - set(masks))
    return (
        [f"{counted(alone, 'mask has', 'masks have')} no image and {'is' if alone == 1 else 'are'} not used"]
        if alone
        else []
    )


def _check_place(mask: Path, roots: Sequence[str]) -> None:
    """Raises ValueError if a mask is a link that leads out of the folders where masks may be."""
    real = os.path.realpath(mask)
    if roots and not any(is_below(real, root) for root in roots):
        raise ValueError(
            f"the mask {one_line(mask)} is a link that leads out of the folder: name a folder above its target as root "
            "(--root)"
        )


def _image_folder(root: Path) -> Path:
    """Returns the folder of images: `images`, or the name of earlier releases if only that exists."""
    earlier = [root / old for old, new in old_names("folders").items() if new == IMAGES and (root / old).is_dir()]
    current = root / IMAGES
    return earlier[0] if earlier and not current.is_dir() else current


def _read_class_names(path: Path) -> tuple[str, ...] | None:
    """Returns the lines of a `classes.txt`; None if it does not exist."""
    if not path.is_file():
        return None
    try:
        lines = read_bounded(path, "text_bytes").decode("utf-8-sig").splitlines()  # Windows writes a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8: {error}") from error
    names = tuple(line.strip() for line in lines)
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{path} must name one class on each line, each of them once")
    if len(names) > UNLABELLED:
        raise ValueError(f"{path} must name at most {UNLABELLED} classes, got {len(names)}")
    return names


def _all_labels(masks: Sequence[Path], roots: Sequence[str]) -> frozenset[int]:
    """Returns the numbers that occur in the masks that can be read.

    Raises:
        ValueError: if none can be read; the message is that of the first.
    """
    found: set[int] = set()
    first: Exception | None = None
    for path in track(masks, "looking for the classes in masks", unit="mask"):
        try:
            _check_place(path, roots)
            found.update(read_mask(path).unique().tolist())
        except (ValueError, OSError) as error:
            if is_fault_of_machine(error):
                raise
            first = first or error
    if first is not None and not found:
        raise ValueError(f"none of the {len(masks)} masks can be used, the first error: {first}") from first
    return frozenset(found)


def read_mask(path: Path) -> Tensor:
    """Reads a mask's numbers, `(H, W)` uint8. For a palette image these are its indices.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it cannot be read, is a colour image, or has numbers beyond 255.
    """
    with open_encoded(*read_encoded(path, f"the mask {path}")) as image:
        mode, step = image.mode, _SCALED_PNG.get(_raw_mode(image), 1)
        if image.format == "JPEG":
            raise ValueError(f"the mask {one_line(path)} is a JPEG, which changes numbers: save it as PNG")
        values = _decoded(image, path)
    if mode not in NUMBER_MODES:
        raise ValueError(
            f"the mask {one_line(path)} must hold one class number per pixel, got a colour image ({mode}): replace "
            "each colour by the number of its class"
        )
    if values.max() > UNLABELLED or values.min() < 0:
        raise ValueError(
            f"the mask {one_line(path)} must hold numbers from 0 to 255, got {values.min()} to {values.max()}: number "
            f"the classes from 0, and write {UNLABELLED} for unlabelled pixels"
        )
    return torch.from_numpy(values.astype(np.uint8) // step)


def _raw_mode(image: Image.Image) -> str:
    """Returns how an image that was only opened stores its values, such as "L;4" for grey values of 4 bits."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ()
    return str(args[0] if isinstance(args, tuple) and args else args)


def _decoded(image: Image.Image, path: Path) -> np.ndarray:
    """Decodes a mask; whatever its decoder raises becomes an error that names the file."""
    try:
        return np.array(image)
    except Exception as error:
        if is_fault_of_machine(error):
            raise
        raise unreadable(f"the mask {path}", error) from error
