"""The limits on what a file may ask for, in one table. Each has an environment variable that raises it.

A file that comes from elsewhere declares sizes: pixels, bytes, layers. They are compared with these limits, or with the
bytes that are there, before memory is allocated. The limits are read from the environment at each use, because worker
processes inherit the environment.
"""

import os
from dataclasses import dataclass

_PREFIX = "STELLAR_HUB_MAX_"


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        default: The largest value that is allowed without the variable.
        unit: What is counted, such as "pixels".
        meaning: Sentence for the documentation that says what the limit is for.
    """

    default: int
    unit: str
    meaning: str


LIMITS = {
    "image_pixels": Limit(178_956_970, "pixels", "The size of an image, height times width, before it is decoded."),
    "image_bytes": Limit(2**29, "bytes", "The size of the file of an image, also of one in an archive or a table."),
    "config_bytes": Limit(2**24, "bytes", "The size of a JSON or YAML file: a configuration, a recipe, a manifest."),
    "config_dimension": Limit(2**17, "units", "A width, a side or another dimension in a model's configuration."),
    "config_layers": Limit(1024, "layers", "The number of layers of a model, in a configuration or a checkpoint."),
    "model_parameters": Limit(2**35, "parameters", "The number of parameters of a model that is built."),
    "tensor_elements": Limit(2**33, "elements", "The size of one tensor in a checkpoint or a file of S and L."),
    "code_patches": Limit(2**16, "patches", "The number of patches of an image in a file of S and L."),
    "archive_members": Limit(2**27, "members", "The number of members of one tar file."),
    "table_expansion": Limit(
        256, "times the bytes of its file", "How far a parquet file expands, if that is more than 256 MiB."
    ),
    "archive_ratio": Limit(
        256, "bytes for each byte of its file", "How far a compressed tar expands after its first 256 MiB."
    ),
    "header_bytes": Limit(2**20, "bytes", "A header of a tar file that holds a long name or other facts of a member."),
    "worker_seconds": Limit(1800, "seconds", "The time that a batch of images from a worker process may take."),
    "text_bytes": Limit(2**31, "bytes", "The size of a list of images or a CSV file."),
    "store_segments": Limit(2**12, "segments", "The number of appended segments of a feature store."),
}


def variable_of(name: str) -> str:
    """Returns the environment variable that sets a limit, such as "STELLAR_HUB_MAX_IMAGE_PIXELS"."""
    return _PREFIX + name.upper()


def max_allowed(name: str) -> int:
    """Returns the value of a limit: that of its environment variable, or the default.

    Raises:
        ValueError: if the variable is not a positive whole number.
    """
    text = os.environ.get(variable_of(name), "").strip()
    if not text:
        return LIMITS[name].default
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 20 or int(text) == 0:
        raise ValueError(f"the environment variable {variable_of(name)} must be a positive whole number, got {text!r}")
    return int(text)


def check_limit(name: str, seen: int, subject: str) -> None:
    """Raises ValueError if a value is above a limit; the message says how to raise the limit.

    Args:
        name: Name of the limit in `LIMITS`.
        seen: Value that a file declares or has.
        subject: What has the value, such as "photo.jpg"; it begins the message.
    """
    allowed = max_allowed(name)
    if seen > allowed:
        raise ValueError(
            f"{subject} has {seen:,} {LIMITS[name].unit}, the limit is {allowed:,}: if you trust it, set the "
            f"environment variable {variable_of(name)} to a larger number"
        )
