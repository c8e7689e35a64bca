"""A folder of class folders: `cats/1.jpg`, `dogs/2.png`, ..."""

import os
from pathlib import Path

from stellar_hub.data.labelled.labelled_pictures import LabelledPictures
from stellar_hub.data.picture_files import SUFFIXES, find_pictures


def read_class_folders(folder: str | os.PathLike[str]) -> LabelledPictures:
    """The pictures of `folder`/CLASS/, at any depth below it, class after class.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no class folder, or one without pictures.
    """
    classes = list_classes(Path(folder))
    pictures = [path for name in sorted(classes) for path in classes[name]]
    return LabelledPictures.from_names(str(folder), pictures, [name for name in sorted(classes) for _ in classes[name]])


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """The pictures of each class, by the name of its folder; names that start with "." are skipped.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no class folder, or one without pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inside:
        raise ValueError(f"{folder} holds no class folders: pictures are looked for in {folder / 'CLASS'}")
    pictures = {path.name: _find_or_none(path) for path in inside}
    empty = [name for name, paths in pictures.items() if not paths]
    if len(empty) == len(pictures):
        raise ValueError(f"no pictures in the class folders of {folder}; looked for {', '.join(sorted(SUFFIXES))}")
    if empty:
        raise ValueError(f"classes with no pictures in {folder}: {', '.join(empty)}; fill or remove these folders")
    return pictures


def _find_or_none(folder: Path) -> list[Path]:
    """The pictures below a folder, of which there may be none."""
    try:
        return [folder / name for name in find_pictures(folder)]
    except ValueError:
        return []
