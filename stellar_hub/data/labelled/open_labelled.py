"""Opening labelled images by the names that users write: class folders, a split file or a table."""

import os
import re
from pathlib import Path

from stellar_hub.data.labelled.labelled_images import LabelledImages
from stellar_hub.data.labelled.tables import DELIMITERS, read_labelled_table, read_split_file
from stellar_hub.data.sources.files import IMAGE_SUFFIXES, find_images
from stellar_hub.data.sources.open_sources import expand_pattern
from stellar_hub.data.sources.table import TABLE_PREFIX, HubDataset, is_saved_table, load_parquet, load_saved_table

_SPLIT_FILE = re.compile(r"(.+\.(?:csv|tsv))(?::([^/:]+))?", flags=re.IGNORECASE)


def open_labelled(name: str | os.PathLike[str]) -> LabelledImages:
    """Opens labelled images.

    - a folder that holds one folder per class; a folder that `datasets` saved is a table;
    - `NAME.csv`, `NAME.tsv`, `NAME.csv:SPLIT`: a split file, see `read_split_file`;
    - `NAME.parquet`, `part-*.parquet`: tables with a column of images and a column of labels;
    - `hub:OWNER/NAME`, `hub:OWNER/NAME:SPLIT`: a data set of the Hub; the default split is "train".

    Raises:
        OSError: if it does not exist or cannot be read.
        ValueError: if it has no images or no labels, or is of another kind.
        ImportError: if it is a table and `datasets` is not installed.
    """
    text = os.fspath(name)
    if text.startswith(TABLE_PREFIX):
        return read_labelled_table(HubDataset.parse(text).load(), text)
    if Path(text).is_dir():
        return read_labelled_table(load_saved_table(text), text) if is_saved_table(text) else read_class_folders(text)
    split_file = _SPLIT_FILE.fullmatch(text)
    if split_file:
        return read_split_file(split_file[1], split_file[2])
    if Path(text).suffix.lower() == ".parquet":
        return read_labelled_table(load_parquet(expand_pattern(text)), text)
    if not Path(text).exists():
        raise FileNotFoundError(f"no such folder: {text}")
    raise ValueError(
        f"{text} has no labelled images; name a folder of class folders, a split file "
        f"({', '.join(DELIMITERS)}), tables (.parquet), or {TABLE_PREFIX}OWNER/NAME"
    )


def read_class_folders(folder: str | os.PathLike[str]) -> LabelledImages:
    """Reads a folder of class folders, such as `cats/1.jpg` and `dogs/2.png`, class by class.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it has no class folder, or one without images.
    """
    classes = list_classes(Path(folder))
    images = [path for name in sorted(classes) for path in classes[name]]
    return LabelledImages.from_names(str(folder), images, [name for name in sorted(classes) for _ in classes[name]])


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """Lists the images of each class, at any depth below its folder. Names that start with "." are skipped.

    Returns:
        Paths of the images by the name of their class's folder.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it has no class folder, or one without images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not subfolders:
        raise ValueError(f"{folder} has no class folders; images belong in {folder / 'CLASS'}")
    images = {path.name: _images_below(path) for path in subfolders}
    empty = [name for name, paths in images.items() if not paths]
    if len(empty) == len(images):
        raise ValueError(f"no images in the class folders of {folder}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    if empty:
        raise ValueError(f"classes with no images in {folder}: {', '.join(empty)}; fill or remove these folders")
    return images


def _images_below(folder: Path) -> list[Path]:
    """Returns the images below a folder, perhaps none."""
    try:
        return [folder / name for name in find_images(folder)]
    except ValueError:
        return []
