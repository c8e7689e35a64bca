"""Sources of images: folders, lists, tar files and tables, each a sequence whose images are reached by their index.

A new kind of source belongs here if it can return any image by its index; otherwise it is a stream.
"""

from stellar_hub.data.sources.combined import JoinedSources, SampledImages, sample_images
from stellar_hub.data.sources.files import IMAGE_SUFFIXES, ImageFolder, find_images, scan_images
from stellar_hub.data.sources.image_list import ImageList
from stellar_hub.data.sources.image_source import EncodedImage, ImageItem, ImageSource, StoredSource, read_image
from stellar_hub.data.sources.open_sources import open_source, open_sources
from stellar_hub.data.sources.table import ImageTable
from stellar_hub.data.sources.tar_shards import TarShards

__all__ = [
    "IMAGE_SUFFIXES",
    "EncodedImage",
    "ImageFolder",
    "ImageItem",
    "ImageList",
    "ImageSource",
    "ImageTable",
    "JoinedSources",
    "SampledImages",
    "StoredSource",
    "TarShards",
    "find_images",
    "open_source",
    "open_sources",
    "read_image",
    "sample_images",
    "scan_images",
]
