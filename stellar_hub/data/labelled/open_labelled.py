"""From what users write, a folder, a split file or a table, to labelled images."""

import os
import re
from pathlib import Path

from stellar_hub.data.labelled.class_folders import read_class_folders
from stellar_hub.data.labelled.labelled_images import LabelledImages
from stellar_hub.data.labelled.tables import DELIMITERS, read_labelled_table, read_split_file
from stellar_hub.data.sources.open_sources import expand
from stellar_hub.data.sources.table import TABLE_PREFIX, ImageTable, datasets, is_saved_table


def open_labelled(name: str | os.PathLike[str]) -> LabelledImages:
    """Open labelled images.

    - a folder: one folder per class below it; one that `datasets` saved is a table;
    - `NAME.csv`, `NAME.tsv`, or `NAME.csv:SPLIT`: a split file, see `read_split_file`;
    - `NAME.parquet`, `part-*.parquet`: tables with a column of images and one of labels;
    - `hub:OWNER/NAME` or `hub:OWNER/NAME:SPLIT`: a data set of the Hub, its "train" split unless one is named.

    Raises:
        OSError: if it does not exist or cannot be read.
        ValueError: if it has no images or no labels, or is of another kind.
        ImportError: if it is a table and `datasets` is not installed.
    """
    text = os.fspath(name)
    if text.startswith(TABLE_PREFIX):
        repository, _, split = text.removeprefix(TABLE_PREFIX).partition(":")
        return read_labelled_table(datasets().load_dataset(repository, split=split or "train"), text)
    if Path(text).is_dir():
        if is_saved_table(text):
            ImageTable.from_disk(text)  # says what is wrong with several splits at once
            return read_labelled_table(datasets().load_from_disk(text), text)
        return read_class_folders(text)
    table = re.fullmatch(r"(.+\.(?:csv|tsv))(?::([^/:]+))?", text, flags=re.IGNORECASE)
    if table:
        return read_split_file(table[1], table[2])
    if Path(text).suffix.lower() == ".parquet":
        files = expand(text)
        ImageTable.from_parquet(files)  # says which file is missing
        return read_labelled_table(datasets().load_dataset("parquet", data_files=files, split="train"), text)
    if not Path(text).exists():
        raise FileNotFoundError(f"no such folder: {text}")
    raise ValueError(
        f"{text} holds no labelled images: name a folder of class folders, a split file "
        f"({', '.join(DELIMITERS)}), tables (.parquet), or {TABLE_PREFIX}OWNER/NAME"
    )
