"""Streams of images: tar files and tables that are read from the beginning on, on this machine or another.

What orders a stream for training, resumes it and makes batches of it belongs here as well.
"""

from stellar_hub.data.streams.image_streams import DamagedShardError, ImageStream, TableStream, TarStream
from stellar_hub.data.streams.open_stream import STREAM_PREFIX, open_images, open_stream
from stellar_hub.data.streams.reading_order import Cursor, Readers, StreamedImage
from stellar_hub.data.streams.stream_batches import StreamBatches

__all__ = [
    "STREAM_PREFIX",
    "Cursor",
    "DamagedShardError",
    "ImageStream",
    "Readers",
    "StreamBatches",
    "StreamedImage",
    "TableStream",
    "TarStream",
    "open_images",
    "open_stream",
]
