"""The errors of images that cannot be read, and whose fault an error is: the image's, or the machine's."""

import errno
import re

import numpy as np
from PIL import Image

from .safe_text import escape_control, one_line

# With these errors the next images would fail as well.
_FULL_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# With these errors a disk, a network or rights are at fault, and the next try may succeed.
_PASSING_NAMES = (
    "EIO ESTALE ETIMEDOUT ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ECONNRESET ECONNABORTED ECONNREFUSED "
    "ENOTCONN ESHUTDOWN EPIPE EREMOTEIO ENOLINK EPROTO EACCES EPERM EAGAIN EBUSY EINTR ENODEV ENXIO ENOLCK EDQUOT "
    "EREMOTE ECOMM ENONET ENOMEDIUM EUCLEAN EBADMSG ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOPNOTSUPP EOVERFLOW"
)
_PASSING = {getattr(errno, name, None) for name in _PASSING_NAMES.split()} - {None}

_OBJECT = re.compile(r"<_io\.\w+ object at 0x[0-9a-f]+>")  # an address in memory, different at every try

NOT_THE_IMAGES_FAULT = "not the image's fault: "  # errors of rows begin so where another try may succeed


class UnreadableImageError(ValueError):
    """An image cannot be read: it is damaged, cut short, too large, or of a format that is not read."""


def is_fault_of_machine(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that the machine is full and nothing about the image."""
    while error is not None and not isinstance(error, UnreadableImageError):
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FULL_MACHINE):
            return True
        if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


def is_passing_fault(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, comes from a disk, a network or rights: try again later."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False


def unreadable(name: str, reason: object) -> UnreadableImageError:
    """Returns the error of an image that cannot be read, on one printable line that names it."""
    return UnreadableImageError(f"{escape_control(name)} cannot be read as an image: {one_line(reason)}")


def translated(error: Exception, name: str, size: tuple[int, int]) -> Exception:
    """Returns the error to raise for what a decoder raised: its own only if the machine has no memory."""
    if isinstance(error, UnreadableImageError):
        return error
    if is_fault_of_machine(error) and not _memory_is_there(size):
        return error
    reason = _OBJECT.sub("the file", str(error).strip()) or type(error).__name__
    if not isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError):
        reason = f"its decoder failed ({type(error).__name__}: {reason})"
    return unreadable(name, reason)


def _memory_is_there(size: tuple[int, int]) -> bool:
    """Whether there is memory for an image. If so, a decoder that ran out of it was misled by the file."""
    try:
        np.empty(16 * max(size[0] * size[1], 2**20), dtype=np.uint8)
    except MemoryError:
        return False
    return True
