"""Pictures that are read one after the other: tars and tables that lie elsewhere, or are too many to index."""

from stellar_hub.data.streams.lanes import LanePicture, Lanes
from stellar_hub.data.streams.open_stream import STREAM_PREFIX, open_pictures, open_stream
from stellar_hub.data.streams.picture_stream import DamagedShardError, PictureStream
from stellar_hub.data.streams.table_stream import TableStream
from stellar_hub.data.streams.tar_stream import TarStream

__all__ = [
    "STREAM_PREFIX",
    "DamagedShardError",
    "LanePicture",
    "Lanes",
    "PictureStream",
    "TableStream",
    "TarStream",
    "open_pictures",
    "open_stream",
]
