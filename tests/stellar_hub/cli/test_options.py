"""Options that commands share."""

import pytest

from stellar_hub.cli.options import parse_image_size


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("448", 448), ("224x448", (224, 448)), (" 64X32 ", (64, 32)), ("064", 64)]
)
def test_parse_image_size__takes_a_side_or_two(text: str | None, size: int | tuple[int, int] | None) -> None:
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "64x0", "-64", "64.0", "64x64x64", "x64", "٦٤", "1" * 5000, "64,64"])
def test_parse_image_size__refuses_others(text: str) -> None:
    with pytest.raises(ValueError, match="--image-size"):
        parse_image_size(text)
