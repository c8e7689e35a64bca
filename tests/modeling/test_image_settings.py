from pathlib import Path
from typing import Any

import pytest
from transformers import AutoImageProcessor

from stellar_hub.modeling import StellarConfig, StellarImageProcessor
from stellar_hub.modeling.image_settings import with_image_size


@pytest.mark.parametrize("image_size", [448, (448, 448), [448, 448], {"height": 448, "width": 448}])
def test_image_size__sets_both_sizes(image_size: Any) -> None:
    sizes = with_image_size({"image_size": image_size, "fit": "pad"})
    assert sizes == {"size": {"shortest_edge": 512}, "crop_size": {"height": 448, "width": 448}, "fit": "pad"}


def test_image_size__may_be_oblong() -> None:
    processor = StellarImageProcessor(image_size=(224, 448))
    assert dict(processor.size) == {"shortest_edge": 512}
    assert processor.geometry_of_shape((3, 100, 300)).output_size == (224, 448)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "image_size", [0, -16, True, (16,), (16, 16, 16), (16.0, 16.0), 16.0, "16", {"height": 16}, ("16", "16")]
)
def test_other_image_size__is_refused(image_size: Any) -> None:
    with pytest.raises(ValueError, match="image_size must be"):
        StellarImageProcessor(image_size=image_size)


@pytest.mark.parametrize("other", [{"size": 256}, {"crop_size": 224}])
def test_image_size_and_another__are_refused(other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="either image_size"):
        StellarImageProcessor(image_size=224, **other)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"size": 448}, "image_size=448"),
        ({"size": 100}, "do not fit together"),
        ({"crop_size": 512}, r"image_size=\(512, 512\)"),
        ({"crop_size": 64}, "do not fit together"),
        ({"image_size": 230}, "multiples of the patch size 16"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit__are_refused_everywhere(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    for make in (
        lambda: StellarImageProcessor(**sizes),
        lambda: StellarImageProcessor.from_pretrained(tmp_path, **sizes),
        lambda: StellarImageProcessor.from_config(StellarConfig(), **sizes),
        lambda: StellarImageProcessor()(tmp_path, **sizes),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_sizes_that_fit__are_taken() -> None:
    assert StellarImageProcessor(size=448, crop_size=448).crop_size.height == 448
    assert StellarImageProcessor(size=288, crop_size=224).size.shortest_edge == 288
    assert StellarImageProcessor(size=448, fit="pad").fit == "pad"


def test_image_size__works_wherever_a_processor_comes_from(tmp_path: Path) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    processors = [
        StellarImageProcessor.from_pretrained(tmp_path, image_size=64),
        AutoImageProcessor.from_pretrained(tmp_path, image_size=64),
        StellarImageProcessor.from_pretrained("stellar-b16", image_size=64),
        StellarImageProcessor.from_config(StellarConfig(), image_size=64),
    ]
    for processor in processors:
        assert processor.to_dict()["crop_size"] == {"height": 64, "width": 64}
        assert "image_size" not in processor.to_dict()


def test_unknown_setting__is_refused_with_the_nearest(tmp_path: Path) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    for make in (
        lambda: StellarImageProcessor(crop_sise=224),
        lambda: StellarImageProcessor.from_pretrained(tmp_path, crop_sise=224),
        lambda: StellarImageProcessor.from_config(StellarConfig(), crop_sise=224),
    ):
        with pytest.raises(TypeError, match="'crop_sise', did you mean 'crop_size'"):
            make()


def test_unknown_setting_of_a_file__is_passed_over(tmp_path: Path) -> None:
    processor = StellarImageProcessor.from_dict(StellarImageProcessor().to_dict() | {"from_the_future": 1})
    assert not hasattr(processor, "from_the_future")


def test_options_of_loading__are_no_settings(tmp_path: Path) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    StellarImageProcessor.from_pretrained(tmp_path, token="x", trust_remote_code=False)
    _, unused = StellarImageProcessor.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
    assert unused["other"] == 1
