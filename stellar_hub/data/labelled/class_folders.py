"""A folder of class folders: `cats/1.jpg`, `dogs/2.png`, ..."""

import os
from pathlib import Path

from stellar_hub.data.labelled.labelled_images import LabelledImages
from stellar_hub.data.sources.files import SUFFIXES, find_images


def read_class_folders(folder: str | os.PathLike[str]) -> LabelledImages:
    """The images of `folder`/CLASS/, at any depth below it, class after class.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no class folder, or one without images.
    """
    classes = list_classes(Path(folder))
    images = [path for name in sorted(classes) for path in classes[name]]
    return LabelledImages.from_names(str(folder), images, [name for name in sorted(classes) for _ in classes[name]])


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, by the name of its folder; names that start with "." are skipped.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no class folder, or one without images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inside:
        raise ValueError(f"{folder} holds no class folders: images are looked for in {folder / 'CLASS'}")
    images = {path.name: _find_or_none(path) for path in inside}
    empty = [name for name, paths in images.items() if not paths]
    if len(empty) == len(images):
        raise ValueError(f"no images in the class folders of {folder}; looked for {', '.join(sorted(SUFFIXES))}")
    if empty:
        raise ValueError(f"classes with no images in {folder}: {', '.join(empty)}; fill or remove these folders")
    return images


def _find_or_none(folder: Path) -> list[Path]:
    """The images below a folder, of which there may be none."""
    try:
        return [folder / name for name in find_images(folder)]
    except ValueError:
        return []
