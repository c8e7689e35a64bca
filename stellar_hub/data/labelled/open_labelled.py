"""Opening labelled images by the names that users write: class folders, a split file or a table."""

import os
import re
from pathlib import Path

from stellar_hub.data.labelled.labelled_images import LabelledImages
from stellar_hub.data.labelled.tables import DELIMITERS, read_labelled_table, read_split_file
from stellar_hub.data.sources.files import FolderWalk, counted
from stellar_hub.data.sources.open_sources import check_root, expand_pattern, refuse_address
from stellar_hub.data.sources.table import TABLE_PREFIX, HubDataset, given, is_saved_table, load_saved_table
from stellar_hub.data.sources.table_files import TablePart, check_parquet, check_saved_table, load_parquet
from stellar_hub.modeling.safe_text import one_line

_SPLIT_FILE = re.compile(r"(.+\.(?:csv|tsv))(?::([^/:]+))?", flags=re.IGNORECASE)


def open_labelled(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> LabelledImages:
    """Opens labelled images.

    - a folder that holds one folder per class; a folder that `datasets` saved is a table;
    - `NAME.csv`, `NAME.tsv`, `NAME.csv:SPLIT`: a split file, see `read_split_file`;
    - `NAME.parquet`, `part-*.parquet`: tables with a column of images and a column of labels;
    - `hub:OWNER/NAME`, `hub:OWNER/NAME:SPLIT`: a data set of the Hub; the default split is "train".

    Args:
        name: Name of the images.
        root: Folder below which tables may name files, and links in folders may end; see
            `stellar_hub.data.sources.open_source`.

    Raises:
        OSError: if it does not exist or cannot be read.
        ValueError: if it has no images or no labels, or is of another kind, or `root` is not a folder.
        ImportError: if it is a table and `datasets` is not installed.
    """
    text = os.fspath(name)
    check_root(root)
    refuse_address(text)
    if text.startswith(TABLE_PREFIX):
        dataset = HubDataset.parse(text)
        return read_labelled_table(dataset.load(), text, [*given(root), dataset.cache_folder()])
    if Path(text).is_dir() and not is_saved_table(text):
        return read_class_folders(text, root)
    if Path(text).is_dir():
        table = load_saved_table(text)
        return read_labelled_table(table, text, given(root), [TablePart(len(table), check_saved_table(text))])
    split_file = _SPLIT_FILE.fullmatch(text)
    if split_file:
        return read_split_file(split_file[1], split_file[2])
    if Path(text).suffix.lower() == ".parquet":
        files = expand_pattern(text)
        parts = [check_parquet(file) for file in files]
        return read_labelled_table(load_parquet(files, parts), text, given(root), parts)
    if not Path(text).exists():
        raise FileNotFoundError(f"no such folder: {one_line(text)}")
    raise ValueError(
        f"{one_line(text)} has no labelled images; name a folder of class folders, a split file "
        f"({', '.join(DELIMITERS)}), tables (.parquet), or {TABLE_PREFIX}OWNER/NAME"
    )


def read_class_folders(folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> LabelledImages:
    """Reads a folder of class folders, such as `cats/1.jpg` and `dogs/2.png`, class by class.

    Args:
        folder: Folder of the class folders.
        root: Another folder below which links may end.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it has no class folder, or one without images.
    """
    classes, notes = scan_classes(Path(folder), root)
    images = [path for name in sorted(classes) for path in classes[name]]
    names = [name for name in sorted(classes) for _ in classes[name]]
    return LabelledImages.from_names(str(folder), images, names, notes)


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """Lists the images of each class, at any depth below its folder; see `scan_classes`."""
    return scan_classes(folder)[0]


def scan_classes(
    folder: Path, root: str | os.PathLike[str] | None = None
) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Lists the images of each class, at any depth below its folder. Names that start with "." are skipped.

    Args:
        folder: Folder of the class folders.
        root: Another folder below which links may end.

    Returns:
        Paths of the images by the name of their class's folder, and what was passed over.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: if it has no class folder, or one without images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {one_line(folder)}")
    walk = FolderWalk(folder, root=root)
    beside, subfolders = walk.entries("")
    if not subfolders:
        found = f"; {counted(len(beside), 'image lies', 'images lie')} directly in it" if beside else ""
        raise ValueError(
            f"{one_line(folder)} has no class folders: the images of each class are expected in a folder of their "
            f"own, such as {one_line(folder / 'cats' / '1.jpg')}{found}"
        )
    images = {name: [folder / image for image in walk.images(name)] for name in subfolders}
    empty = [name for name, paths in images.items() if not paths]
    if len(empty) == len(images):
        raise ValueError(f"no images in the class folders of {one_line(folder)}; {walk.what_was_sought()}")
    if empty:
        raise ValueError(
            f"classes with no images in {one_line(folder)}: {one_line(', '.join(empty))}; fill or remove these "
            f"folders; {walk.what_was_sought()}"
        )
    notes = walk.notes()
    if beside:
        notes += (f"{counted(len(beside), 'image lies', 'images lie')} beside the class folders of {one_line(folder)}",)
    return images, notes
