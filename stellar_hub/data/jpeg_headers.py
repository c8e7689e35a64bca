"""The headers of JPEG files: whether a file is so plain that every decoder of JPEGs gives the same image."""

import re
import struct

_START, _END = b"\xff\xd8", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # among the pixels, where restarts may come
_FRAME, _SCAN, _ADOBE = 0xC0, 0xDA, 0xEE
_OTHER_FRAMES = {0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_COLOR_IDS = ((1, 2, 3), (0, 1, 2))
_SAMPLINGS = ((1, 1), (2, 1), (1, 2), (2, 2))  # of luminance, horizontal and vertical; of colours it is (1, 1)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Returns the height and the width of a plain JPEG, in pixels as they are stored; None for any other file.

    Plain is a baseline JPEG of 8 bits, grey or YCbCr with one of the usual samplings, in one scan, that is not cut
    short. CMYK, RGB, progressive and arithmetic coding are not plain.
    """
    try:
        return _plain_size(data) if data.startswith(_START) else None
    except (struct.error, IndexError):  # cut short
        return None


def _plain_size(data: bytes) -> tuple[int, int] | None:
    place, found, components = 2, None, 0
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:  # a fill byte
            place += 1 if marker == 0xFF else 2
            continue
        length = struct.unpack_from(">H", data, place + 2)[0]
        content = data[place + 4 : place + 2 + length]
        if marker in _OTHER_FRAMES or (marker == _FRAME and found is not None):
            return None
        if marker == _FRAME:
            found, components = _size_in_frame(content), content[5]
        elif marker == _ADOBE and content.startswith(b"Adobe") and content[11] != 1 and components != 1:
            return None  # the colours are not YCbCr
        elif marker == _SCAN:
            end = _MARKER.search(data, place + 2 + length)
            return found if content[0] == components and end is not None and end.group() == _END else None
        if marker == _FRAME and found is None:
            return None
        place += 2 + length
    return None


def _size_in_frame(content: bytes) -> tuple[int, int] | None:
    bits, height, width, components = struct.unpack_from(">BHHB", content)
    parts = [struct.unpack_from(">BBB", content, 6 + 3 * number) for number in range(components)]
    samplings = [(sampling >> 4, sampling & 15) for _, sampling, _ in parts]
    if bits != 8 or not height or not width:
        return None
    if components == 1:
        return (height, width) if samplings == [(1, 1)] else None
    is_color = components == 3 and tuple(part[0] for part in parts) in _COLOR_IDS
    is_usual = is_color and samplings[0] in _SAMPLINGS and samplings[1:] == [(1, 1), (1, 1)]
    return (height, width) if is_usual else None
