import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from stellar_hub.modeling import image_errors, image_loading, image_pixels
from stellar_hub.modeling.image_loading import (
    UnreadableImageError,
    is_fault_of_machine,
    is_passing_fault,
    load_reduced,
    load_rgb,
    read_size,
)

Save = Callable[..., Path]

# What a viewer does to the stored pixels, by the EXIF tag's value.
UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WIDE_VALUES = np.array([[0, 1, 128, 129, 257, 32768, 65406, 65535]], dtype=np.uint16)
WIDE_ROUNDED = [0, 0, 0, 1, 1, 128, 254, 255]  # value * 255 / 65535, rounded


def chw(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a PIL image: `save(image, "a.png", **options)`."""

    def write(photo: Image.Image, name: str, **options: object) -> Path:
        photo.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def png_of(chunks: dict[bytes, bytes]) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (chunks | {b"IEND": b""}).items():
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data


class TestSources:
    def test_path_pil_array_tensor__give_the_same(self, photo: np.ndarray, save: Save) -> None:
        expected = chw(photo)
        path = save(Image.fromarray(photo), "a.png")
        files = (path.read_bytes(), path.open("rb"))
        for source in (path, str(path), *files, Image.fromarray(photo), Image.open(path), photo, expected):
            assert_same(load_rgb(source), expected)

    def test_jpeg__is_what_pillow_decodes(self, photo: np.ndarray, save: Save) -> None:
        path = save(Image.fromarray(photo), "a.jpg", quality=90)
        assert_same(load_rgb(path), chw(np.asarray(Image.open(path))))

    def test_animation__gives_its_first_frame(self, save: Save) -> None:
        frames = [Image.new("RGB", (6, 5), color) for color in ("red", "blue")]
        path = save(frames[0], "a.gif", save_all=True, append_images=frames[1:])
        assert_same(load_rgb(path), chw(np.full((5, 6, 3), [255, 0, 0], dtype=np.uint8)))

    @pytest.mark.parametrize("source", [None, 7])
    def test_other_source__names_its_type(self, source: object) -> None:
        message = rf"got {type(source).__name__}$"
        with pytest.raises(TypeError, match=message):
            load_rgb(source)  # type: ignore[arg-type]

    def test_file_open_as_text__is_refused(self, photo: np.ndarray, save: Save) -> None:
        path = save(Image.fromarray(photo), "a.png")
        with path.open() as file, pytest.raises(TypeError, match=r"a\.png is open as text: .*'rb'"):
            load_rgb(file)  # type: ignore[arg-type]

    def test_sources__are_not_changed(self, photo: np.ndarray) -> None:
        array, image, tensor = photo.copy(), Image.fromarray(photo), chw(photo).clone()
        for source in (array, image, tensor):
            load_rgb(source)
        assert (array == photo).all()
        assert (np.asarray(image) == photo).all()
        assert_same(tensor, chw(photo))


class TestOrientation:
    @pytest.mark.parametrize("orientation", sorted(UPRIGHT))
    def test_exif__is_applied_once(self, photo: np.ndarray, save: Save, orientation: int) -> None:
        stored = Image.fromarray(photo)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(stored, "a.png", exif=exif)
        operation = UPRIGHT[orientation]
        upright = stored if operation is None else stored.transpose(operation)
        for source in (path, Image.open(path)):
            assert_same(load_rgb(source), chw(np.asarray(upright)))
        assert read_size(path) == (upright.height, upright.width)

    def test_own_change_of_the_exif__counts(self, photo: np.ndarray, save: Save) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        image = Image.open(save(Image.fromarray(photo), "a.jpg", exif=exif))
        image.getexif()[0x0112] = 1
        assert load_rgb(image).shape == (3, 74, 148)

    @pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
    def test_size__is_that_of_the_pixels(self, photo: np.ndarray, save: Save, name: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = save(Image.fromarray(photo), name, exif=exif)
        assert read_size(path) == tuple(load_rgb(path).shape[1:]) == (148, 74)


class TestModes:
    def test_grey__is_repeated(self, photo: np.ndarray, save: Save) -> None:
        grey = photo[..., 0]
        expected = chw(np.stack([grey] * 3, axis=-1))
        for source in (Image.fromarray(grey), save(Image.fromarray(grey), "a.png"), grey, grey[..., None]):
            assert_same(load_rgb(source), expected)

    def test_black_and_white__is_0_and_255(self, save: Save) -> None:
        bits = np.random.default_rng(0).random((6, 7)) < 0.5
        expected = chw(np.stack([bits.astype(np.uint8) * 255] * 3, axis=-1))
        image = Image.fromarray(bits)
        assert image.mode == "1"
        for source in (image, save(image, "a.png"), bits, torch.from_numpy(bits)):
            assert_same(load_rgb(source), expected)

    def test_grey_times_alpha__is_composited_on_white(self) -> None:
        assert load_rgb(Image.new("LA", (1, 1), (100, 51)).convert("La"))[0].item() == pytest.approx(224, abs=1)

    def test_grey_with_alpha__is_composited_on_white(self, save: Save) -> None:
        image = Image.new("LA", (3, 1))
        for x, value in enumerate([(100, 255), (100, 0), (100, 51)]):
            image.putpixel((x, 0), value)
        expected = torch.tensor([100, 255, 224], dtype=torch.uint8).expand(3, 1, 3)  # 0.2 * 100 + 0.8 * 255 = 224
        for source in (image, save(image, "a.png"), np.asarray(image)):
            assert_same(load_rgb(source), expected)

    def test_rgba__is_composited_on_white(self, save: Save) -> None:
        pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 255, 51]]], dtype=np.uint8)
        expected = chw(np.array([[[255, 0, 0], [255, 255, 255], [204, 204, 255]]], dtype=np.uint8))
        image = Image.fromarray(pixels)
        for source in (image, save(image, "a.png"), pixels, chw(pixels)):
            assert_same(load_rgb(source), expected)

    def test_palette__gives_its_colours(self, save: Save) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((1, 0), 1)
        expected = chw(np.array([[[10, 20, 30], [200, 100, 50]]], dtype=np.uint8))
        for source in (image, save(image, "a.png"), save(image, "a.gif")):
            assert_same(load_rgb(source), expected)

    def test_palette_with_transparency__shows_white_there(self, save: Save) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((1, 0), 1)
        expected = chw(np.array([[[10, 20, 30], [255, 255, 255]]], dtype=np.uint8))
        path = save(image, "a.png", transparency=1)
        assert Image.open(path).mode == "P"
        assert_same(load_rgb(path), expected)
        assert_same(load_rgb(save(image, "a.gif", transparency=1)), expected)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_transparent_colour__shows_white_there(self, save: Save, mode: str) -> None:
        image = Image.new(mode, (2, 1), "black")
        image.putpixel((1, 0), 9 if mode == "L" else (9, 9, 9))
        path = save(image, "a.png", transparency=9 if mode == "L" else (9, 9, 9))
        assert Image.open(path).mode == mode
        expected = chw(np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8))
        assert_same(load_rgb(path), expected)

    def test_cmyk__is_converted_as_pillow_does(self, photo: np.ndarray, save: Save) -> None:
        image = Image.fromarray(photo).convert("CMYK")
        assert_same(load_rgb(image), chw(np.asarray(image.convert("RGB"))))
        path = save(image, "a.jpg", quality=95)
        assert Image.open(path).mode == "CMYK"
        assert_same(load_rgb(path), chw(np.asarray(Image.open(path).convert("RGB"))))
        assert (load_rgb(path).float() - chw(photo).float()).abs().mean() < 5  # JPEG, but the same photo

    @pytest.mark.parametrize("mode", ["YCbCr", "LAB", "PA", "RGBa"])
    def test_rarer_modes__become_rgb(self, photo: np.ndarray, mode: str) -> None:
        image = Image.fromarray(photo)
        if mode == "LAB":
            image = Image.new("LAB", (5, 4), (128, 128, 128))
        else:
            image = image.convert("RGBA").convert(mode) if mode in ("RGBa", "PA") else image.convert(mode)
        result = load_rgb(image)
        assert result.shape == (3, image.height, image.width)
        assert result.dtype == torch.uint8


class TestSixteenBits:
    def test_png__is_scaled_to_eight_bits(self, save: Save) -> None:
        path = save(Image.fromarray(WIDE_VALUES), "a.png")
        assert Image.open(path).mode == "I;16"
        assert load_rgb(path)[:, 0].tolist() == [WIDE_ROUNDED] * 3

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
    def test_pil__is_scaled_to_eight_bits(self, mode: str) -> None:
        image = Image.fromarray(WIDE_VALUES)
        if mode == "I":
            image = Image.fromarray(WIDE_VALUES.astype(np.int32))
        elif mode == "I;16B":
            image = Image.frombytes("I;16B", (8, 1), WIDE_VALUES.astype(">u2").tobytes())
        assert image.mode == mode
        assert load_rgb(image)[:, 0].tolist() == [WIDE_ROUNDED] * 3

    @pytest.mark.parametrize("order", ["<u2", ">u2"])
    def test_array__is_scaled_in_either_byte_order(self, order: str) -> None:
        assert load_rgb(WIDE_VALUES.astype(order))[:, 0].tolist() == [WIDE_ROUNDED] * 3

    def test_rgb_array_and_tensor__are_scaled(self) -> None:
        array = np.stack([WIDE_VALUES, WIDE_VALUES // 2, np.zeros_like(WIDE_VALUES)], axis=-1)
        expected = load_rgb(array)
        assert expected[0, 0].tolist() == WIDE_ROUNDED
        assert expected[2].max() == 0
        assert_same(load_rgb(torch.from_numpy(array).permute(2, 0, 1)), expected)

    @pytest.mark.parametrize("value", [-5, 65536])
    def test_beyond_sixteen_bits__is_an_error(self, value: int) -> None:
        image = Image.fromarray(np.full((2, 2), value, dtype=np.int32))
        with pytest.raises(ValueError, match=rf"from {value} to {value}, allowed are 0 to 65535"):
            load_rgb(image)

    def test_eight_bits_in_thirty_two__are_warned_of_once(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(image_pixels, "_said", set())
        dark, bright, black = (Image.new("I", (4, 4), value) for value in (200, 60000, 0))
        for image in (bright, black):
            load_rgb(image)
        assert caplog.messages == []
        for _ in range(2):
            load_rgb(dark, name="a.tif")
        (message,) = caplog.messages
        assert "a.tif has 32-bit integers up to 200" in message

    def test_beyond_sixteen_bits__names_the_file(self, save: Save) -> None:
        path = save(Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)), "wide.tif")
        with pytest.raises(ValueError, match=r"wide\.tif .* 70000 to 70000"):
            load_rgb(path)

    @pytest.mark.parametrize("depth", [8, 16])
    def test_transparent_grey__is_white(self, tmp_path: Path, depth: int) -> None:
        grey = np.array([[156, 10, 156, 10]], dtype=np.uint8)
        image = Image.fromarray(grey if depth == 8 else grey.astype(np.uint16) * 257)
        image.save(tmp_path / "a.png", transparency=10 if depth == 8 else 2570)
        assert load_rgb(tmp_path / "a.png")[0, 0].tolist() == [156, 255, 156, 255]

    @pytest.mark.parametrize(("depth", "row", "step"), [(1, 0x40, 255), (2, 0x10, 85), (4, 0x01, 17)])
    def test_transparent_grey_of_few_bits__is_white(self, tmp_path: Path, depth: int, row: int, step: int) -> None:
        header = struct.pack(">IIBBBBB", 2, 1, depth, 0, 0, 0, 0)  # the pixels 0 and 1, of which 0 is transparent
        parts = {b"IHDR": header, b"tRNS": b"\0\0", b"IDAT": zlib.compress(bytes([0, row]))}
        (tmp_path / "a.png").write_bytes(png_of(parts))
        assert load_rgb(tmp_path / "a.png")[0, 0].tolist() == [255, step]
        (tmp_path / "a.png").write_bytes(png_of(parts | {b"tRNS": b"\0\1"}))
        assert load_rgb(tmp_path / "a.png")[0, 0].tolist() == [0, 255]

    def test_transparent_colour__is_white(self, tmp_path: Path) -> None:
        rows = b"\0" + struct.pack(">6H", 40000, 1000, 500, 1000, 2000, 3000)
        parts = {b"IHDR": struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), b"tRNS": struct.pack(">3H", 1000, 2000, 3000)}
        assert load_rgb(png_of(parts | {b"IDAT": zlib.compress(rows)}))[:, 0].tolist() == [
            [156, 255],
            [3, 255],
            [1, 255],
        ]

    def test_tiff_with_white_as_zero__is_inverted(self, save: Save) -> None:
        path = save(Image.fromarray(WIDE_VALUES), "a.tif")
        data = bytearray(path.read_bytes())
        place = data.index(struct.pack("<HHI", 262, 3, 1))
        data[place + 8 : place + 10] = b"\0\0"
        assert load_rgb(bytes(data))[0, 0].tolist() == [255 - value for value in WIDE_ROUNDED]

    def test_large_image__is_converted_in_bands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        images = [Image.fromarray(np.tile(WIDE_VALUES, (9, 1)))]
        images += [Image.effect_noise((30, 50), 90).convert(mode) for mode in ("RGB", "RGBA", "P", "CMYK", "1")]
        whole = [load_rgb(image) for image in images]
        monkeypatch.setattr(image_pixels, "_BAND_PIXELS", 100)
        for image, expected in zip(images, whole, strict=True):
            assert_same(load_rgb(image), expected)


class TestFloats:
    @pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
    def test_array__becomes_float32_unchanged(self, dtype: str) -> None:
        array = np.random.default_rng(0).random((5, 6, 3)).astype(dtype)
        assert_same(load_rgb(array), chw(array.astype(np.float32)))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_tensor__becomes_float32_unchanged(self, dtype: torch.dtype) -> None:
        tensor = torch.rand(3, 5, 6).to(dtype)
        assert_same(load_rgb(tensor), tensor.float())

    def test_mode_f__is_grey_in_zero_to_one(self, save: Save) -> None:
        grey = np.random.default_rng(0).random((5, 6)).astype(np.float32)
        expected = chw(np.stack([grey] * 3, axis=-1))
        image = Image.fromarray(grey)
        assert image.mode == "F"
        for source in (image, save(image, "a.tif"), grey):
            assert_same(load_rgb(source), expected)

    def test_alpha__is_composited_on_white(self) -> None:
        tensor = torch.tensor([0.5, 0.0, 1.0, 0.25]).view(4, 1, 1)
        expected = torch.tensor([0.875, 0.75, 1.0]).view(3, 1, 1)
        torch.testing.assert_close(load_rgb(tensor), expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (255.0, r"the image .* from 0 to 255, .*0-255 range"),
            (1.5, r"the image .* from 0 to 1\.5"),
            (float("nan"), "the image .* got NaN"),
        ],
    )
    def test_bad_values__are_an_error(self, value: float, message: str) -> None:
        array = np.zeros((4, 4, 3), dtype=np.float32)
        array[1, 2, 0] = value
        with pytest.raises(ValueError, match=message):
            load_rgb(array)


class TestArrays:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_channel_order__is_found_where_only_one_makes_sense(self, channels: int) -> None:
        last = np.random.default_rng(0).integers(0, 256, (7, 9, channels), dtype=np.uint8)
        first = np.moveaxis(last, -1, 0)
        expected = load_rgb(last)
        assert expected.shape == (3, 7, 9)
        assert_same(load_rgb(np.ascontiguousarray(first)), expected)
        assert_same(load_rgb(torch.from_numpy(np.ascontiguousarray(first))), expected)
        assert_same(load_rgb(torch.from_numpy(last)), expected)

    def test_ambiguous_order__is_last_for_arrays_and_first_for_tensors(self) -> None:
        array = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
        assert_same(load_rgb(array), chw(array))
        assert_same(load_rgb(torch.from_numpy(array)), torch.from_numpy(array))

    def test_negative_strides_and_read_only__are_allowed(self, photo: np.ndarray) -> None:
        mirrored = photo[:, ::-1]
        mirrored.flags.writeable = False
        assert_same(load_rgb(mirrored), chw(np.ascontiguousarray(mirrored)))

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((5, 6, 7), r"1 to 4 channels .* got shape \(5, 6, 7\)"),
            ((6,), r"2 or 3 dimensions, got shape \(6,\)"),
            ((0, 6, 3), r"the image is empty, shape \(0, 6, 3\)"),
        ],
    )
    def test_wrong_shape__is_named(self, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_rgb(np.zeros(shape, dtype=np.uint8))
        with pytest.raises(ValueError, match=message):
            load_rgb(torch.zeros(shape))

    @pytest.mark.parametrize("dtype", ["int32", "uint32", "object"])
    def test_other_array_values__are_named(self, dtype: str) -> None:
        with pytest.raises(TypeError, match=rf"uint8, uint16, bool .* got {dtype}.*astype\(numpy\.uint8\)"):
            load_rgb(np.zeros((4, 4, 3), dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.int64])
    def test_other_tensor_values__are_named(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=rf"got {dtype}.*to\(torch\.uint8\)"):
            load_rgb(torch.zeros(3, 4, 4, dtype=dtype))


class TestUnreadable:
    def test_missing_file__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such image file: .*nothing\.png$"):
            load_rgb(tmp_path / "nothing.png")

    def test_folder__is_named_as_one(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such image file: .* \(it is a folder\)"):
            load_rgb(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"This is a letter.", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_no_image__is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "broken.jpg"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image: "):
            load_rgb(path)

    @pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "cut.tif"])
    def test_truncated__is_named(self, photo: np.ndarray, save: Save, name: str) -> None:
        path = save(Image.fromarray(photo), name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"{name} cannot be read as an image: "):
            load_rgb(path)

    def test_truncated_and_only_opened__is_named_too(self, photo: np.ndarray, save: Save) -> None:
        path = save(Image.fromarray(photo), "cut.jpg")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"cut\.jpg cannot be read as an image: .*truncated"):
            load_rgb(Image.open(path))

    def test_too_many_pixels__are_not_decoded(
        self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = save(Image.fromarray(photo), "bomb.png")
        monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", "1000")
        with pytest.raises(UnreadableImageError, match=r"bomb\.png cannot be read as an image: .*10,952 pixels"):
            load_rgb(path)

    def test_too_many_bytes__are_not_read(self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
        path = save(Image.fromarray(photo), "long.png")
        monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_BYTES", "1000")
        for source in (path, path.read_bytes(), path.open("rb")):
            with pytest.raises(UnreadableImageError, match="IMAGE_BYTES"):
                load_rgb(source)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_corrupt_exif__does_not_hide_the_image(self, photo: np.ndarray, save: Save) -> None:
        path = save(Image.fromarray(photo), "a.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff")
        result = load_rgb(path)
        assert result.shape == (3, 74, 148)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "QOI", "SGI", "PCX"])
    def test_listed_format__is_read_whatever_its_suffix(self, photo: np.ndarray, tmp_path: Path, kind: str) -> None:
        Image.fromarray(photo).save(tmp_path / "a.xyz", kind)
        assert load_rgb(tmp_path / "a.xyz").shape == (3, 74, 148)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n", "PostScript"),
            (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
            (b"%PDF-1.4\n", "PDF"),
            (b"8BPS\0\1" + bytes(60), "Photoshop"),
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
            (b"<!doctype html><p>not found", "web page"),
            (b"", "empty"),
        ],
    )
    def test_other_formats__say_why_they_are_not_read(self, tmp_path: Path, content: bytes, reason: str) -> None:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UnreadableImageError, match=rf"a\.jpg cannot be read as an image: .*{reason}"):
            load_rgb(tmp_path / "a.jpg")

    def test_eps_that_was_only_opened__is_not_run(self, tmp_path: Path) -> None:
        (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n")
        with pytest.raises(UnreadableImageError, match=r"a\.eps .*EPS is not read"):
            load_rgb(Image.open(tmp_path / "a.eps"))

    @pytest.mark.parametrize(
        "error",
        [IndexError("x"), TypeError("x"), AttributeError("x"), RuntimeError("x"), struct.error("x"), KeyError(7)],
    )
    def test_whatever_a_decoder_raises__names_the_file(
        self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        path = save(Image.fromarray(photo), "a.png")

        def fail(self: Image.Image) -> None:
            raise error

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
        with pytest.raises(UnreadableImageError, match=rf"a\.png .*{type(error).__name__}"):
            load_rgb(path)

    def test_decoder_that_is_misled_about_memory__is_the_images_fault(
        self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = save(Image.fromarray(photo), "a.png")

        def fail(self: Image.Image) -> None:
            raise MemoryError

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
        with pytest.raises(UnreadableImageError, match=r"a\.png"):
            load_rgb(path)
        monkeypatch.setattr(image_errors, "_memory_is_there", lambda size: False)
        with pytest.raises(MemoryError):
            load_rgb(path)

    def test_control_characters_of_names__are_escaped(self, tmp_path: Path) -> None:
        (tmp_path / "a\x1b[31m.png").write_bytes(b"nothing")
        for name in ("a\x1b[31m.png", "gone\x1b.png"):
            with pytest.raises((ValueError, OSError)) as caught:
                load_rgb(tmp_path / name)
            assert str(caught.value).isprintable()
            assert r"\x1b" in str(caught.value)

    def test_pipe__is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(UnreadableImageError, match=r"a\.png .*regular file"):
            load_rgb(tmp_path / "a.png")

    @pytest.mark.parametrize(
        "address", ["https://me:secret@host/a.jpg", "s3://bucket/a.jpg", "data:image/png;base64,AA"]
    )
    def test_address__is_refused_with_the_reason(self, address: str) -> None:
        with pytest.raises(ValueError, match="download it") as caught:
            load_rgb(address)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("code", [errno.EIO, errno.EREMOTE, errno.EUCLEAN, errno.EKEYEXPIRED])
    def test_fault_of_the_machine__is_no_fault_of_the_image(
        self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        path = save(Image.fromarray(photo), "a.png")

        def fail(*arguments: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("builtins.open", fail)
        with pytest.raises(OSError, match=r"a\.png") as caught:
            load_rgb(path)
        assert is_passing_fault(caught.value)
        assert not is_fault_of_machine(caught.value)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EMFILE, "x"),
            OSError(errno.ENOMEM, "x"),
            MemoryError(),
            RuntimeError("x: can't allocate memory"),
        ],
    )
    def test_full_machine__is_told_apart(self, error: Exception) -> None:
        assert is_fault_of_machine(error)
        assert not is_fault_of_machine(UnreadableImageError("a.png"))

    def test_large_image__raises_no_warning_of_pillows(
        self, photo: np.ndarray, save: Save, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        paths = [save(Image.fromarray(photo), name) for name in ("a.png", "a.tif", "a.webp")]
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
        for path in paths:
            load_rgb(path)
        assert not recwarn.list


class TestPages:
    def test_first_page__is_read_and_it_is_said_once(
        self, save: Save, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        pages = [Image.new("RGB", (6, 5), color) for color in ("red", "blue")]
        path = save(pages[0], "a.tif", save_all=True, append_images=pages[1:])
        monkeypatch.setattr(image_loading, "_said", set())
        for _ in range(2):
            assert load_rgb(path)[:, 0, 0].tolist() == [255, 0, 0]
        assert [record.message for record in caplog.records if "a.tif has several pages" in record.message][1:] == []
        assert "a.tif has several pages" in caplog.text


class TestReduced:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG"])
    def test_huge_image__is_read_at_the_scale_that_is_enough(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        image = Image.linear_gradient("L").resize((120, 90)).convert("RGB")
        image.save(tmp_path / "a", kind, **({"quality": 95} if kind == "JPEG" else {}))
        monkeypatch.setattr(image_loading, "HUGE_PIXELS", 1000)
        pixels, size = load_reduced(tmp_path / "a", lambda height, width: 4)
        assert size == (90, 120)
        assert pixels.shape == (3, 23, 30)
        expected = np.asarray(image.reduce(4), dtype=np.float32)
        assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).max() <= 3

    def test_png_that_is_not_huge__keeps_its_size(self, photo: np.ndarray, save: Save) -> None:
        pixels, _ = load_reduced(save(Image.fromarray(photo), "a.png"), lambda height, width: 8)
        assert pixels.shape == (3, 74, 148)
