"""Images that are read one after the other: tars and tables that lie elsewhere, or are too many to index."""

from stellar_hub.data.streams.image_stream import DamagedShardError, ImageStream
from stellar_hub.data.streams.open_stream import STREAM_PREFIX, open_images, open_stream
from stellar_hub.data.streams.reading_order import Readers, StreamedImage
from stellar_hub.data.streams.table_stream import TableStream
from stellar_hub.data.streams.tar_stream import TarStream

__all__ = [
    "STREAM_PREFIX",
    "DamagedShardError",
    "ImageStream",
    "Readers",
    "StreamedImage",
    "TableStream",
    "TarStream",
    "open_images",
    "open_stream",
]
