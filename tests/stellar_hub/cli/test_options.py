"""Options that commands share."""

import pytest

from stellar_hub.cli.errors import UsageError, WrongUsage
from stellar_hub.cli.options import check_device, parse_image_size


@pytest.mark.parametrize(
    ("text", "size"), [(None, None), ("448", 448), ("224x448", (224, 448)), (" 64X32 ", (64, 32)), ("064", 64)]
)
def test_parse_image_size__takes_a_side_or_two(text: str | None, size: int | tuple[int, int] | None) -> None:
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "64x0", "-64", "64.0", "64x64x64", "x64", "٦٤", "1" * 5000, "64,64"])
def test_parse_image_size__refuses_others(text: str) -> None:
    with pytest.raises(ValueError, match="--image-size"):
        parse_image_size(text)


@pytest.mark.parametrize("text", ["1000000", "20000x20000", "8x100000000"])
def test_parse_image_size__names_the_limit(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"178,956,970.*STELLAR_HUB_MAX_IMAGE_PIXELS"):
        parse_image_size(text)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps", "xpu:1", "CPU"])
def test_device__takes_what_torch_has(device: str) -> None:
    assert check_device(device) == device.lower()


@pytest.mark.parametrize(
    ("device", "hint"),
    [
        ("gpu", " (did you mean cuda?), got gpu"),
        ("gpu:1", " (did you mean cuda:1?), got gpu:1"),
        ("cuda1", " (did you mean cuda:1?), got cuda1"),
        ("cudda", " (did you mean cuda?), got cudda"),
        ("cpu:0", " (did you mean cpu?), got cpu:0"),
        ("meta", "xpu, got meta"),
        ("", "xpu, got "),
    ],
)
def test_device__of_another_name_gives_a_hint(device: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        check_device(device)
    assert str(error.value.message).startswith("--device must be auto, cpu, cuda, cuda:N, mps or xpu")  # type: ignore[attr-defined]
    assert str(error.value.message).endswith(hint)  # type: ignore[attr-defined]
