"""SHA-256 of pictures' bytes: what tells whether two files are the same."""

import hashlib
from pathlib import Path

from stellar_hub.data.sources.picture_source import EncodedPicture, Picture


def picture_digest(picture: Picture) -> str:
    """SHA-256 of a picture's bytes as they are stored, in hexadecimal.

    Raises:
        OSError: if it is a path that cannot be read.
    """
    data = picture.data if isinstance(picture, EncodedPicture) else Path(picture).read_bytes()
    return hashlib.sha256(data).hexdigest()
