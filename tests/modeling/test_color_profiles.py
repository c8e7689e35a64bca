import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from stellar_hub.modeling import StellarImageProcessor
from stellar_hub.modeling.color_profiles import srgb_transform
from stellar_hub.modeling.image_loading import load_rgb

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XYZ = ("rXYZ", "gXYZ", "bXYZ")
# The primaries of Display P3 and of Adobe RGB, adapted to D50, from their published profiles.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def profile_with(primaries: tuple[tuple[float, float, float], ...]) -> bytes:
    """The profile of sRGB with other primaries."""
    data = bytearray(SRGB)
    for number in range(struct.unpack_from(">I", data, 128)[0]):
        name, place, _ = struct.unpack_from(">4sII", data, 132 + 12 * number)
        if name.decode() in XYZ:
            values = [round(value * 65536) for value in primaries[XYZ.index(name.decode())]]
            struct.pack_into(">3i", data, place + 8, *values)
    return bytes(data)


def grey_profile(gamma: float) -> bytes:
    """A profile of grey with a gamma."""

    def tag(kind: bytes, content: bytes) -> bytes:
        return (kind + bytes(4) + content).ljust(20, b"\0")

    white = tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061))
    curve = tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))
    table = struct.pack(">I", 2) + struct.pack(">4sII", b"wtpt", 156, 20) + struct.pack(">4sII", b"kTRC", 176, 14)
    head = struct.pack(">I4sI4s4s4s", 196, bytes(4), 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + white + curve


def png(image: Image.Image, profile: bytes, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=profile, **options)
    return buffer.getvalue()


def first_pixel(data: bytes, **options: bool) -> tuple[int, ...]:
    return tuple(load_rgb(data, **options)[:, 0, 0].tolist())  # type: ignore[arg-type]


GREEN = Image.new("RGB", (4, 4), (0, 200, 0))


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB])
def test_wide_colours__become_srgb(primaries: tuple[tuple[float, float, float], ...]) -> None:
    data = png(Image.new("RGB", (4, 4), (200, 100, 50)), profile_with(primaries))
    red, green, blue = first_pixel(data)
    assert red > 210
    assert green <= 100
    assert blue < 50
    assert first_pixel(data, apply_icc_profile=False) == (200, 100, 50)


def test_result__is_that_of_little_cms() -> None:
    profile = profile_with(DISPLAY_P3)
    noise = Image.effect_noise((20, 30), 90).convert("RGB")
    shown = ImageCms.profileToProfile(
        noise, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert (load_rgb(png(noise, profile)).permute(1, 2, 0).numpy() == np.asarray(shown)).all()


def test_srgb__changes_nothing() -> None:
    noise = Image.effect_noise((20, 30), 90).convert("RGB")
    assert srgb_transform(Image.open(io.BytesIO(png(noise, SRGB)))) is None
    assert (load_rgb(png(noise, SRGB)) == load_rgb(noise)).all()


@pytest.mark.parametrize("profile", [b"short", b"\0" * 300, SRGB[:200], SRGB[:16] + b"NONE" + SRGB[20:]])
def test_broken_profile__is_ignored(profile: bytes) -> None:
    assert first_pixel(png(GREEN, profile)) == (0, 200, 0)


def test_grey__becomes_srgb_too() -> None:
    assert first_pixel(png(Image.new("L", (4, 4), 100), grey_profile(1.0))) == (168, 168, 168)
    wide = Image.fromarray(np.full((4, 4), 100 * 257, dtype=np.uint16))
    assert first_pixel(png(wide, grey_profile(1.0))) == (168, 168, 168)


def test_profile_of_another_kind__is_ignored() -> None:
    buffer = io.BytesIO()
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    cmyk.save(buffer, "TIFF", icc_profile=profile_with(DISPLAY_P3))
    assert first_pixel(buffer.getvalue()) == (255, 0, 0)
    assert first_pixel(png(GREEN, grey_profile(1.0))) == (0, 200, 0)


def test_transparent_parts__stay_white() -> None:
    image = Image.new("RGBA", (4, 4), (0, 200, 0, 0))
    assert first_pixel(png(image, profile_with(DISPLAY_P3))) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.putpalette([200, 100, 50, 0, 0, 0])
    assert first_pixel(png(palette, profile_with(DISPLAY_P3)))[0] > 210
    assert first_pixel(png(palette, profile_with(DISPLAY_P3), transparency=0)) == (255, 255, 255)


def test_processor__has_a_switch_that_is_saved(tmp_path: Path) -> None:
    data = png(Image.new("RGB", (40, 40), (200, 100, 50)), profile_with(DISPLAY_P3))
    ignoring = StellarImageProcessor(image_size=32, apply_icc_profile=False)
    ignoring.save_pretrained(tmp_path)
    loaded = StellarImageProcessor.from_pretrained(tmp_path)
    expected = torch.tensor([200, 100, 50]) / 255
    torch.testing.assert_close(loaded(data)["pixel_values"][0, :, 0, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        loaded(data, apply_icc_profile=True)["pixel_values"][0, 0].min() > 0.8, torch.tensor(True)
    )
