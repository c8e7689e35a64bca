"""Sources of images: folders, lists, tar shards, tables; one small interface for training and extraction."""

from stellar_hub.data.sources.combined import JoinedSources
from stellar_hub.data.sources.files import ImageFolder, ImageList
from stellar_hub.data.sources.image_source import EncodedImage, ImageSource, StoredSource, read_image
from stellar_hub.data.sources.open_sources import open_source, open_sources
from stellar_hub.data.sources.table import ImageTable
from stellar_hub.data.sources.tar_shards import TarShards

__all__ = [
    "EncodedImage",
    "ImageFolder",
    "ImageList",
    "ImageSource",
    "ImageTable",
    "JoinedSources",
    "StoredSource",
    "TarShards",
    "open_source",
    "open_sources",
    "read_image",
]
