"""What surrounds the pixels in an image file: the orientation, read leniently, and files without their metadata.

Metadata never costs an image. Of EXIF only the orientation matters. Where a decoder stumbles over metadata, it gets the
file once more without them.
"""

import re
import struct
import zlib

from PIL import Image
from torch import Tensor

ORIENTATION_TAG = 0x0112  # EXIF
SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)  # values of the tag for images whose height and width change places

_EXIF_HEAD = b"Exif\0\0"
_PROFILE_HEAD = b"ICC_PROFILE\0"
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_WEBP_METADATA = {b"EXIF": 0x08, b"XMP ": 0x04, b"ICCP": 0x20}  # chunks, and their bits in the file's header
_TIFF_PROFILE = 34675
# The tags that say where and how the pixels are stored, and the orientation.
_TIFF_PIXELS = {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323}
_TIFF_PIXELS |= {324, 325, 330, 332, 336, 338, 339, 340, 341, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532}
_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}  # EXIF types


def orientation_of(image: Image.Image, from_file: bool = True) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1 where none can be read.

    TIFFs have 1, because Pillow turns them itself.

    Args:
        image: The image.
        from_file: Whether the image is as its file is. Else its EXIF may have been changed since.
    """
    if image.format == "TIFF":
        return 1
    raw = image.info.get("exif")
    in_file = orientation_in_exif(raw) if isinstance(raw, bytes) else None
    if from_file and in_file is not None:
        return in_file
    try:
        # Pillow's own method would load a PNG, and hide that it is damaged.
        value = Image.Image.getexif(image).get(ORIENTATION_TAG)
    except Exception:  # broken EXIF: the tag itself may still be there
        value = in_file
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orientation_in_exif(data: bytes) -> int | None:
    """Returns the orientation in an EXIF block, whatever its other tags hold; None where there is none."""
    while data.startswith(_EXIF_HEAD):
        data = data[len(_EXIF_HEAD) :]
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 10:
        return None
    start = struct.unpack_from(order + "L", data, 4)[0]
    if start + 2 > len(data):
        return None
    count = struct.unpack_from(order + "H", data, start)[0]
    for place in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHL", data, place)
        if tag == ORIENTATION_TAG and kind in _INTEGERS and number == 1:
            value = int(struct.unpack_from(order + _INTEGERS[kind], data, place + 8)[0])
            if 1 <= value <= 8:
                return value
    return None


def turn_upright(pixels: Tensor, orientation: int) -> Tensor:
    """Turns an image `(C, H, W)` as its EXIF orientation says."""
    if orientation in SIDEWAYS_ORIENTATIONS:
        pixels = pixels.transpose(-1, -2)
    flips = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}.get(orientation)
    return pixels.flip(flips) if flips else pixels


def without_metadata(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    """Returns an image file without its metadata, and its EXIF block, which may be broken.

    Args:
        data: Bytes of the file.
        keep_profile: Whether the colour profile stays.

    Returns:
        The file and the block; None for formats whose metadata cannot be told from their pixels, and for files that
        are too damaged for it.
    """
    makers = {
        b"\xff\xd8": _bare_jpeg,
        _PNG_HEAD: _bare_png,
        b"RIFF": _bare_webp,
        b"II*\0": _bare_tiff,
        b"MM\0*": _bare_tiff,
    }
    maker = next((maker for head, maker in makers.items() if data.startswith(head)), None)
    if maker is None:
        maker = _bare_avif if data[4:8] == b"ftyp" else None
    try:
        return None if maker is None else maker(data, keep_profile)
    except (struct.error, IndexError):
        return None


def _bare_jpeg(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    kept, exif, place = [data[:2]], None, 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == 0xDA:  # the pixels begin
            return b"".join([*kept, data[place:]]), exif
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        content = data[place + 4 : end]
        is_profile = marker == 0xE2 and content.startswith(_PROFILE_HEAD)
        if marker == 0xE1 and exif is None and content.startswith(_EXIF_HEAD):
            exif = content
        is_metadata = (0xE0 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE  # EE says how colours are stored
        if not is_metadata or (is_profile and keep_profile):
            kept.append(data[place:end])
        place = end
    return None


def _bare_png(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    names = (*_PNG_PIXELS, b"iCCP") if keep_profile else _PNG_PIXELS
    kept, exif, place = [data[:8]], None, 8
    while place + 8 <= len(data):
        end = place + 12 + struct.unpack_from(">L", data, place)[0]
        name, content = data[place + 4 : place + 8], data[place + 4 : end - 4]
        if name == b"eXIf":
            exif = content[4:]
        if name in names:
            if end > len(data) or zlib.crc32(content) != struct.unpack_from(">L", data, end - 4)[0]:
                return None  # the pixels themselves are damaged
            kept.append(data[place:end])
        place = end
    return (b"".join(kept), exif) if kept[-1][4:8] == b"IEND" else None


def _bare_webp(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    removed = {name: bit for name, bit in _WEBP_METADATA.items() if not (keep_profile and name == b"ICCP")}
    kept, exif, place = [], None, 12
    while place + 8 <= len(data):
        name, length = struct.unpack_from("<4sL", data, place)
        chunk = data[place : place + 8 + length + length % 2]
        if name == b"EXIF":
            exif = chunk[8:]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~sum(removed.values())]) + chunk[9:]
        if name not in removed:
            if place + 8 + length > len(data):
                return None  # the pixels themselves are cut short
            kept.append(chunk)
        place += 8 + length + length % 2
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body, exif


def _bare_tiff(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    order = "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(order + "L", data, 4)[0]
    count = struct.unpack_from(order + "H", data, start)[0]
    entries = [data[start + 2 + 12 * number : start + 14 + 12 * number] for number in range(count)]
    names = _TIFF_PIXELS | ({_TIFF_PROFILE} if keep_profile else set())
    kept = [entry for entry in entries if len(entry) == 12 and struct.unpack(order + "H", entry[:2])[0] in names]
    # In place, so that all offsets stay right; without the pages that follow.
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :], None


def _bare_avif(data: bytes, keep_profile: bool) -> tuple[bytes, bytes | None] | None:
    # Items of a type that nobody knows are passed over. The orientation is in a property of the image.
    return re.sub(rb"(infe.{8})(Exif|mime)", rb"\1skip", data, flags=re.DOTALL), None
