from typing import Any

import pytest

from stellar_hub.data.jpeg_headers import plain_size

from .conftest import jpeg


@pytest.mark.parametrize(
    "options", [{}, {"mode": "L"}, {"subsampling": 0}, {"subsampling": 1}, {"restart_marker_rows": 1}]
)
def test_plain_jpegs__have_a_size(options: dict[str, Any]) -> None:
    assert plain_size(jpeg(**options)) == (30, 40)


@pytest.mark.parametrize("options", [{"mode": "CMYK"}, {"progressive": True}, {"keep_rgb": True}])
def test_other_jpegs__are_not_plain(options: dict[str, Any]) -> None:
    assert plain_size(jpeg(**options)) is None


def test_damaged_files__are_not_plain() -> None:
    data = jpeg()
    assert all(plain_size(data[:length]) is None for length in range(len(data)))
    middle = len(data) - 200
    assert plain_size(data[:middle] + b"\xff\xc4" + data[middle:]) is None  # a marker among the pixels
    assert plain_size(data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")) is None  # 12 bits


def test_what_follows_the_image__does_not_matter() -> None:
    assert plain_size(jpeg() + b"\xff\xd8 something else") == (30, 40)
