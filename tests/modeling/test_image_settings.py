import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
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
        ({"size": 448}, "; image_size=448 or image_size=224 without"),
        ({"size": 100}, "do not fit together"),
        ({"crop_size": 512}, r"; image_size=512 without size and crop_size"),
        ({"crop_size": {"height": 512, "width": 320}}, r"; image_size=\(512, 320\) without"),
        ({"crop_size": 64}, "do not fit together"),
        ({"image_size": 230}, "multiples of the patch size 16"),
        ({"image_size": 100}, "use 96 or 112"),
        ({"size": 299}, "size may be 224 to 298"),
        ({"size": 223}, "size may be 224 to 298"),
        ({"patch_size": 0}, "patch_size must be an integer of at least 1"),
    ],
)
def test_sizes_that_do_not_fit__are_refused_everywhere(tmp_path: Path, sizes: dict[str, Any], message: str) -> None:
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
    assert StellarImageProcessor(size=298, crop_size=224).size.shortest_edge == 298  # 3/4 of it are seen
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
        with pytest.raises(TypeError, match="'crop_sise'; did you mean 'crop_size'"):
            make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "squash"}, "fit must be 'crop', 'aspect' or 'pad', got 'squash'"),
        ({"return_tensors": "xx"}, "return_tensors must be 'pt', 'np' or 'mlx', got 'xx'"),
        ({"image_mean": [0.5]}, r"image_mean must be None, because the model normalizes inside, got \[0.5\]"),
        ({"image_std": "x"}, "image_std must be None"),
        ({"do_normalize": True}, "do_normalize must be False"),
        ({"resample": "nonsense"}, "resample must be bicubic, .*got 'nonsense'"),
        ({"resample": 2}, "resample must be bicubic, .*got 2"),
        ({"rescale_factor": 0.5}, "rescale_factor must be 1/255"),
        ({"do_pad": True}, "do_pad must be False"),
        ({"pad_size": 3}, "pad_size must be None"),
        ({"do_convert_rgb": False}, "do_convert_rgb must be True"),
        ({"device": "cuda"}, "device must be 'cpu'"),
        ({"data_format": "channels_last"}, "data_format must be 'channels_first'"),
        ({"input_data_format": "channels_last"}, "input_data_format must be None"),
        ({"do_resize": "no"}, "do_resize must be True or False, got 'no'"),
        ({"return_geometry": 1}, "return_geometry must be True or False, got 1"),
        ({"fill_value": 2}, r"fill_value must be a number in \[0, 1\], got 2"),
        ({"fill_value": True}, "fill_value must be a number"),
        ({"patch_size": "16"}, "patch_size must be an integer of at least 1, got '16'"),
        ({"patch_size": 16.0}, "patch_size must be an integer"),
        ({"size": "big"}, "size must be .*shortest_edge.*got 'big'"),
        ({"size": (256, 256)}, "size must be .*shortest_edge"),
        ({"size": {"shortest_edge": -4}}, "size must be .*shortest_edge"),
        ({"crop_size": {"height": "a", "width": 2}}, "crop_size must be .*height.*width"),
        ({"crop_size": True}, "crop_size must be"),
        ({"do_center_crop": False}, "do_center_crop=False .* do_resize=False"),
    ],
)
def test_wrong_value__is_refused_in_one_line_everywhere(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    processor = StellarImageProcessor()
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    for make in (
        lambda: StellarImageProcessor(**settings),
        lambda: processor(tmp_path, **settings),
        lambda: processor.preprocess(tmp_path, **settings),
        lambda: StellarImageProcessor.from_pretrained(tmp_path),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": 3},
        {"resample": "bicubic"},
        {"resample": InterpolationMode.BICUBIC},
        {"device": torch.device("cpu")},
        {"size": {"shortest_edge": 256}, "crop_size": (224, 224)},
        {"fit": None, "size": None, "patch_size": None, "crop_size": None},
        {"disable_grouping": True},
    ],
)
def test_other_spelling_of_the_defaults__is_taken(settings: dict[str, Any]) -> None:
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    expected = StellarImageProcessor()(image)["pixel_values"]
    assert torch.equal(StellarImageProcessor(**settings)(image)["pixel_values"], expected)
    assert torch.equal(StellarImageProcessor()(image, **settings)["pixel_values"], expected)
    assert json.loads(StellarImageProcessor(**settings).to_json_string())["resample"] == 3


def test_unknown_setting_of_a_call__lists_what_there_is() -> None:
    processor = StellarImageProcessor()
    for call in (processor, processor.preprocess):
        with pytest.raises(TypeError, match=r"'foo'; it takes apply_icc_profile, crop_size, .*size"):
            call(np.zeros((30, 40, 3), dtype=np.uint8), foo=1)
    with pytest.raises(TypeError, match="'use_fast'"):
        processor(np.zeros((30, 40, 3), dtype=np.uint8), use_fast=True)


def test_unknown_setting_of_a_file__is_passed_over_and_named(caplog: pytest.LogCaptureFixture) -> None:
    processor = StellarImageProcessor.from_dict(StellarImageProcessor().to_dict() | {"from_the_future": 1})
    assert not hasattr(processor, "from_the_future")
    assert "'from_the_future'" in caplog.text


def test_what_transformers_writes_into_files__is_passed_over_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    of_transformers = {"use_fast": True, "processor_class": "P", "feature_extractor_type": "F", "image_mean": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | of_transformers))
    for processor in (StellarImageProcessor.from_pretrained(tmp_path), StellarImageProcessor.from_json_file(file)):
        assert not hasattr(processor, "use_fast")
    assert not caplog.records


def test_options_of_loading__are_no_settings(tmp_path: Path) -> None:
    StellarImageProcessor().save_pretrained(tmp_path)
    StellarImageProcessor.from_pretrained(tmp_path, token="x", trust_remote_code=False)
    _, unused = StellarImageProcessor.from_pretrained(tmp_path, return_unused_kwargs=True, other=1)
    assert unused["other"] == 1


def test_checkpoint_of_a_run__has_the_processor_of_its_model(tmp_path: Path) -> None:
    StellarConfig(image_size=64, patch_size=8).save_pretrained(tmp_path)
    processor = StellarImageProcessor.from_pretrained(tmp_path, fit="pad", token="x")
    expected = StellarImageProcessor.from_config(StellarConfig(image_size=64, patch_size=8), fit="pad")
    assert processor.to_dict() == expected.to_dict()
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(OSError, match="image processor"):
        StellarImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["", None])
def test_no_name__is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="needs the name or folder of a model"):
        StellarImageProcessor.from_pretrained(name)


def test_folder_without_a_processor__is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=rf"{tmp_path} holds no model"):
        StellarImageProcessor.from_pretrained(tmp_path)


def test_save__over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="a is a file"):
        StellarImageProcessor().save_pretrained(tmp_path / "a")
