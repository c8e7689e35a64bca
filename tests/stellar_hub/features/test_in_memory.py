from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stellar_hub.data.streams import TarStream
from stellar_hub.features.in_memory import extract_features
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from tests.stellar_hub.data.conftest import jpeg
from tests.stellar_hub.data.sources.conftest import write_tar


def test_loop__gives_every_row_once(pixel_model: StellarModel, image_folder: Path) -> None:
    batches = list(pixel_model.extract(image_folder, batch_size=5))
    assert torch.cat([batch.row_ids for batch in batches]).tolist() == list(range(23))
    assert torch.cat([~batch.ok for batch in batches]).nonzero().flatten().tolist() == [4, 17]
    assert {name: tuple(tensor.shape[1:]) for name, tensor in batches[0].features.items()} == {
        "S": (4, 48),
        "L": (16, 4),
        "pooled": (48,),
    }


def test_loop__computes_what_the_model_computes(pixel_model: StellarModel, image_folder: Path) -> None:
    processor = StellarImageProcessor.from_config(pixel_model.config)
    paths = [image_folder / f"{index:04d}.png" for index in range(4)]
    (batch,) = extract_features(pixel_model, paths, ["S", "cls"])
    with torch.inference_mode():
        expected = pixel_model(processor(paths, return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(batch["S"], expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch["cls"], expected.cls_token, atol=1e-5, rtol=1e-5)


def test_loop__leaves_the_random_state_alone(pixel_model: StellarModel, image_folder: Path) -> None:
    before = torch.random.get_rng_state()
    next(extract_features(pixel_model, image_folder))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"outputs": ["mean"]}, "outputs must be .*got mean"),
        ({"dtype": "int9"}, "dtype must be .*got 'int9'"),
        ({"dtype": torch.int8}, "dtype must be .*got torch.int8"),
    ],
)
def test_options__are_checked_at_once(
    pixel_model: StellarModel, image_folder: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        extract_features(pixel_model, image_folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("batch_sise", "extract .*did you mean 'batch_size'"),
        ("image_size", "processor=.*image_size="),
        ("fit", "processor=.*fit="),
        ("device", r"model\.to\(device\)"),
        ("foo", "it takes processor, batch_size"),
    ],
)
def test_unknown_option__gets_a_hint(pixel_model: StellarModel, image_folder: Path, option: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pixel_model.extract(image_folder, **{option: 3})


def test_dtype__may_be_a_name(pixel_model: StellarModel, image_folder: Path) -> None:
    assert next(extract_features(pixel_model, image_folder, dtype="float16"))["S"].dtype == torch.float16


def test_address__is_named_as_one(pixel_model: StellarModel) -> None:
    (batch,) = extract_features(pixel_model, ["https://x.y/z.jpg"], num_workers=0)
    assert "is an address" in str(batch.records[0].error)


def test_images_in_memory__are_a_list(pixel_model: StellarModel, image_folder: Path) -> None:
    paths = [image_folder / f"{index:04d}.png" for index in range(2)]
    images = [Image.open(path) for path in paths]
    (expected,) = extract_features(pixel_model, paths, num_workers=0)
    for source in (images, [np.array(image) for image in images], np.stack([np.array(image) for image in images])):
        (batch,) = extract_features(pixel_model, source, num_workers=0)
        torch.testing.assert_close(batch["S"], expected["S"], atol=0, rtol=0)
    assert batch.records[1].image == "image 1"


@pytest.mark.parametrize("source", [None, 3, Image.new("RGB", (40, 40)), np.zeros((40, 40, 3)), torch.zeros(3, 40, 40)])
def test_one_image__is_refused(pixel_model: StellarModel, source: Any) -> None:
    with pytest.raises(TypeError, match=r"\[image\]"):
        extract_features(pixel_model, source)


def test_no_images__is_an_error(pixel_model: StellarModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        extract_features(pixel_model, [])
    with pytest.raises(ValueError, match="no images in the folder"):
        extract_features(pixel_model, tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        extract_features(pixel_model, tmp_path / "gone")


def test_loop__decodes_with_torchvision(pixel_model: StellarModel, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(quality=60 + number))
    options: dict[str, Any] = {"outputs": ["pooled"], "num_workers": 0}
    (found,) = pixel_model.extract(tmp_path, decoder="torchvision", **options)
    (expected,) = pixel_model.extract(tmp_path, **options)
    assert found.records == expected.records
    torch.testing.assert_close(found["pooled"], expected["pooled"], atol=0.05, rtol=0.05)
    (auto,) = pixel_model.extract(tmp_path, decoder="auto", precision="float32", **options)
    assert torch.equal(auto["pooled"], expected["pooled"])


def test_decoded_images__pass_the_decoder_by(pixel_model: StellarModel, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    with Image.open(tmp_path / "a.jpg") as image:
        images: Any = [tmp_path / "a.jpg", image, np.asarray(image)]
        (batch,) = extract_features(pixel_model, images, ["pooled"], num_workers=0, decoder="torchvision")
    assert batch.ok.all()
    torch.testing.assert_close(batch["pooled"], batch["pooled"][:1].expand(3, -1), atol=0.05, rtol=0.05)


def test_stream__decodes_with_torchvision(pixel_model: StellarModel, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {f"{number}.jpg": jpeg(quality=60 + number) for number in range(3)})
    stream = TarStream([str(tmp_path / "0.tar")])
    (found,) = extract_features(pixel_model, stream, ["pooled"], num_workers=0, decoder="torchvision")
    (expected,) = extract_features(pixel_model, stream, ["pooled"], num_workers=0)
    assert found.records == expected.records
    torch.testing.assert_close(found["pooled"], expected["pooled"], atol=0.05, rtol=0.05)
