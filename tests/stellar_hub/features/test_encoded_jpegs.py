import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from stellar_hub.features.encoded_jpegs import EncodedJpegs, for_the_device
from stellar_hub.modeling import StellarImageProcessor
from tests.stellar_hub.data.conftest import exif, jpeg

PROCESSOR = StellarImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


def test_plain_jpeg__keeps_bytes_and_facts() -> None:
    data = jpeg(exif=exif(6))
    found = for_the_device(data, "a.jpg", PROCESSOR)
    assert found is not None
    assert found.data == data
    assert found.facts[:3] == ("a.jpg", (30, 40), 6)
    assert found.facts.geometry == PROCESSOR.geometry_of_shape(torch.Size((3, 40, 30)))  # upright


def test_srgb_profile__is_plain_and_another_is_not() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert for_the_device(jpeg(icc_profile=srgb), "a", PROCESSOR) is not None
    assert for_the_device(jpeg(icc_profile=other), "a", PROCESSOR) is not None  # not for RGB: it is ignored
    swapped = srgb.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    assert for_the_device(jpeg(icc_profile=swapped), "a", PROCESSOR) is None
    processor = StellarImageProcessor(**{**PROCESSOR.to_dict(), "apply_icc_profile": False})
    assert for_the_device(jpeg(icc_profile=swapped), "a", processor) is not None


@pytest.mark.parametrize("size", [(20, 400), (8200, 8200)])
def test_long_and_huge_images__go_to_pillow(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(np.zeros(size, dtype=np.uint8)).save(tmp_path / "image.jpg")
    assert for_the_device((tmp_path / "image.jpg").read_bytes(), "image.jpg", PROCESSOR) is None


def test_image_that_does_not_fit__goes_to_pillow() -> None:
    processor = StellarImageProcessor(do_resize=False, crop_size={"height": 32, "width": 32})
    assert for_the_device(jpeg(), "a", processor) is None  # it has 30 rows


def test_packed_jpegs__come_apart_again_after_a_journey() -> None:
    jpegs = {
        place: for_the_device(jpeg(quality=quality), str(place), PROCESSOR) for place, quality in ((1, 50), (4, 90))
    }
    packed = EncodedJpegs.pack({place: found for place, found in jpegs.items() if found is not None})
    parts = list(pickle.loads(pickle.dumps(packed)).parts())
    assert [(place, facts.name) for place, facts, _ in parts] == [(1, "1"), (4, "4")]
    assert [data.numpy().tobytes() for *_, data in parts] == [jpeg(quality=50), jpeg(quality=90)]
    assert EncodedJpegs.pack({}) is None
