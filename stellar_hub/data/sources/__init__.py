"""Sources of pictures: folders, lists, tar shards, tables; one small interface for training and extraction."""

from stellar_hub.data.sources.folder import PictureFolder
from stellar_hub.data.sources.joined import JoinedSources
from stellar_hub.data.sources.list_file import PictureList
from stellar_hub.data.sources.open_sources import open_source, open_sources
from stellar_hub.data.sources.picture_source import EncodedPicture, PictureSource, StoredSource, read_picture
from stellar_hub.data.sources.table import PictureTable
from stellar_hub.data.sources.tar_shards import TarShards

__all__ = [
    "EncodedPicture",
    "JoinedSources",
    "PictureFolder",
    "PictureList",
    "PictureSource",
    "PictureTable",
    "StoredSource",
    "TarShards",
    "open_source",
    "open_sources",
    "read_picture",
]
