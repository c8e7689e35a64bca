"""The images of the page."""

from pathlib import Path

import pytest

from stellar_hub.app.models import PANEL, Models
from stellar_hub.app.photographs import ImageFiles, encode_file, example_path, read_example, read_upload
from stellar_hub.modeling.image_loading import UnreadableImageError


def test_image_files__hold_what_fits_and_drop_the_one_used_longest_ago() -> None:
    kept = ImageFiles(max_bytes=10)
    first, second = kept.add(b"12345"), kept.add(b"12345")
    assert kept.read(first, "first") == b"12345"
    third = kept.add(b"1")
    assert kept.num_bytes <= 10
    assert kept.read(third, "third") == b"1"
    with pytest.raises(ValueError, match="second is not kept"):
        kept.read(second, "second")
    huge = kept.add(b"x" * 50)
    assert kept.read(huge, "huge") == b"x" * 50


def test_image_files__forget_a_file_that_nobody_has_open() -> None:
    kept = ImageFiles()
    file = kept.add(b"12345")
    assert kept.num_bytes == 5
    del file
    assert kept.num_bytes == 0


def test_read_upload__names_the_file_as_the_user_did(photo: Path) -> None:
    kept = ImageFiles()
    number, title, written = read_upload(photo, kept)
    assert kept.read(number, title) == photo.read_bytes()
    assert (title, written) == ("my coffee.jpg", "'my coffee.jpg'")


def test_encode_file__names_a_damaged_file_and_no_folder(models: Models) -> None:
    kept = ImageFiles()
    with pytest.raises(UnreadableImageError, match=r"^holiday.jpg cannot be read"):
        encode_file(models, kept, models.names[0], kept.add(b"no image"), "holiday.jpg", "")


def test_encode_file__draws_on_more_pixels_of_the_same_part(models: Models) -> None:
    kept = ImageFiles()
    photograph = encode_file(models, kept, models.names[0], *read_example("petra.jpg", kept))
    assert min(photograph.seen.size) >= PANEL
    assert photograph.seen.width % photograph.pixels.shape[2] == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "cat.jpg/", "", "LICENSES.md", "\0"])
def test_example_path__is_one_of_the_examples(name: str) -> None:
    with pytest.raises(ValueError, match="no example"):
        example_path(name)
