import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.image_utils import SizeDict

from stellar_hub.modeling import StellarConfig, StellarEncoding, StellarImageProcessor, StellarModel


def pixels(photo: Image.Image) -> Tensor:
    """A PIL photo as `(3, H, W)` floats in 0..255."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()


def smooth(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TestReference:
    @pytest.mark.parametrize("make", [smooth, noise])
    @pytest.mark.parametrize("shape", [(74, 148), (123, 99), (30, 20), (37, 37)])
    @pytest.mark.parametrize(("edge", "side"), [(37, 32), (256, 224)])
    def test_pixels__are_those_of_pillow(self, make: Any, shape: tuple[int, int], edge: int, side: int) -> None:
        array = make(*shape)
        processor = StellarImageProcessor(
            size={"shortest_edge": edge}, crop_size={"height": side, "width": side}, patch_size=8
        )
        height, width = shape
        resized = (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)
        expected = Image.fromarray(array).resize(resized[::-1], Image.Resampling.BICUBIC)
        top, left = (resized[0] - side) // 2, (resized[1] - side) // 2
        expected = expected.crop((left, top, left + side, top + side))
        difference = (processor(array)["pixel_values"][0] * 255 - pixels(expected)).abs()
        # torchvision rounds Pillow's fixed-point weights a little otherwise: measured at most 2 levels, 0.012 on
        # average. Without antialiasing it would be 30 levels and more.
        assert difference.max() <= 2 + 1e-3
        assert difference.mean() < 0.05

    @pytest.mark.parametrize("shape", [(300, 400), (224, 224)])
    def test_defaults__are_torchvisions_256_then_224(self, shape: tuple[int, int]) -> None:
        image = Image.fromarray(smooth(*shape))
        resize = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)
        expected = pixels(transforms.CenterCrop(224)(resize(image)))
        difference = (StellarImageProcessor()(image)["pixel_values"][0] * 255 - expected).abs()
        assert difference.max() <= 2 + 1e-3
        assert difference.mean() < 0.05

    def test_float_image__is_that_of_uint8_without_rounding(self, processor: StellarImageProcessor) -> None:
        array = smooth(74, 148)
        rounded = processor(array)["pixel_values"]
        exact = processor(array.astype(np.float32) / 255)["pixel_values"]
        assert exact.dtype == torch.float32
        # Two passes, each rounding to a level: measured 1.1 levels.
        torch.testing.assert_close(exact, rounded, rtol=0, atol=1.5 / 255)
        assert (exact != rounded).any()

    def test_overshoot_of_bicubic__is_clamped(self, processor: StellarImageProcessor) -> None:
        halves = np.zeros((20, 20, 3), dtype=np.float32)
        halves[:, 10:] = 1
        result = processor(halves)["pixel_values"]
        assert (result.min().item(), result.max().item()) == (0, 1)


class TestInputs:
    def test_path_pil_array_tensor__give_the_same(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        image = Image.fromarray(photo)
        image.save(tmp_path / "a.png")
        expected = processor(image)["pixel_values"]
        assert expected.shape == (1, 3, 32, 32)
        assert expected.dtype == torch.float32
        tensor = torch.from_numpy(photo).permute(2, 0, 1)
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png"), photo, tensor):
            torch.testing.assert_close(processor(source)["pixel_values"], expected, rtol=0, atol=0)

    def test_list__is_a_batch_of_the_singles(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        other = Image.fromarray(photo[:, ::-1]).resize((50, 90))
        batch = processor([photo, other], return_tensors="pt")["pixel_values"]
        singles = [processor(source)["pixel_values"] for source in (photo, other)]
        torch.testing.assert_close(batch, torch.cat(singles), rtol=0, atol=0)

    def test_four_dimensions__are_a_batch(self, processor: StellarImageProcessor) -> None:
        batch = torch.rand(3, 3, 40, 50)
        expected = processor(list(batch))["pixel_values"]
        torch.testing.assert_close(processor(batch)["pixel_values"], expected, rtol=0, atol=0)
        array = batch.permute(0, 2, 3, 1).numpy()
        torch.testing.assert_close(processor(array)["pixel_values"], expected, rtol=0, atol=0)

    def test_mixed_kinds__make_one_batch(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        grey, wide = photo[..., 0], photo.astype(np.uint16) * 257
        Image.fromarray(photo).save(tmp_path / "a.png")
        sources = [tmp_path / "a.png", grey, wide, photo.astype(np.float32) / 255]
        batch = processor(sources, return_tensors="pt")["pixel_values"]
        assert batch.shape == (4, 3, 32, 32)
        torch.testing.assert_close(batch[2], batch[0], rtol=0, atol=0)

    def test_orientation__is_applied_before_fitting(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(photo).save(tmp_path / "a.png", exif=exif)
        result = processor(tmp_path / "a.png", fit="aspect", return_geometry=True)
        upright = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_270)
        assert result["original_sizes"].tolist() == [[148, 74]]
        expected = processor(upright, fit="aspect")["pixel_values"]
        torch.testing.assert_close(result["pixel_values"], expected, rtol=0, atol=0)

    def test_numpy__is_returned_on_request(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        result = processor(photo, return_tensors="np")["pixel_values"]
        assert isinstance(result, np.ndarray)
        assert result.shape == (1, 3, 32, 32)

    def test_input__is_not_changed(self, processor: StellarImageProcessor) -> None:
        tensor = torch.rand(3, 40, 50)
        before = tensor.clone()
        processor(tensor, fit="pad")
        torch.testing.assert_close(tensor, before, rtol=0, atol=0)

    def test_result__is_what_the_model_takes(
        self, photo: np.ndarray, processor: StellarImageProcessor, pixel_model: StellarModel
    ) -> None:
        for fit in ("crop", "aspect", "pad"):
            batch = processor(photo, fit=fit, return_tensors="pt")
            semantics, _ = pixel_model.encode(batch["pixel_values"])
            assert semantics.shape == (1, 4, 48)


class TestFits:
    def test_aspect__shows_the_whole_image(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        result = processor(photo, fit="aspect", return_geometry=True)
        assert result["pixel_values"].shape == (1, 3, 32, 64)
        assert result["crop_boxes"].tolist() == [[0, 0, 74, 148]]
        expected = Image.fromarray(photo).resize((64, 32), Image.Resampling.BICUBIC)
        difference = (result["pixel_values"][0] * 255 - pixels(expected)).abs()
        assert difference.max() <= 2 + 1e-3

    def test_pad__shows_the_whole_image_between_bars(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        result = processor(photo, fit="pad", return_geometry=True)
        fitted = result["pixel_values"][0]
        assert fitted.shape == (3, 32, 32)
        assert result["crop_boxes"].tolist() == [[-37, 0, 111, 148]]  # bars of 8 rows, 4.625 of the original's each
        expected = Image.fromarray(photo).resize((32, 16), Image.Resampling.BICUBIC)
        assert (fitted[:, 8:24] * 255 - pixels(expected)).abs().max() <= 2 + 1e-3
        bars = torch.cat([fitted[:, :8], fitted[:, 24:]], dim=1)
        torch.testing.assert_close(bars, torch.full_like(bars, 128 / 255), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("fill", [0.25, 1])
    def test_fill_value__is_the_grey_of_the_bars(self, processor: StellarImageProcessor, fill: float) -> None:
        floats = processor(torch.rand(3, 20, 40), fit="pad", fill_value=fill)["pixel_values"]
        torch.testing.assert_close(floats[:, :, :8], torch.full((1, 3, 8, 32), float(fill)), rtol=0, atol=1e-7)
        levels = processor(noise(20, 40), fit="pad", fill_value=fill)["pixel_values"]
        torch.testing.assert_close(levels[:, :, :8], torch.full((1, 3, 8, 32), float(fill)), rtol=0, atol=0.5 / 255)

    def test_geometry__by_hand(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        # 74 x 148 is halved to 37 x 74; 32 x 32 from (2, 21) is rows 4..68 and columns 42..106 of the original.
        other = Image.fromarray(photo).resize((37, 111))  # 37 wide: not resized; rows 39..71, columns 2..34
        result = processor([photo, other], return_geometry=True, return_tensors="pt")
        assert result["original_sizes"].tolist() == [[74, 148], [111, 37]]
        assert result["crop_boxes"].tolist() == [[4, 42, 68, 106], [39, 2, 71, 34]]
        assert processor.geometry(photo).crop_box == (4, 42, 68, 106)

    def test_geometry__is_absent_unless_asked(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        assert set(processor(photo)) == {"pixel_values"}

    def test_without_resizing__the_middle_is_bit_equal(self, photo: np.ndarray) -> None:
        processor = StellarImageProcessor(
            do_resize=False, crop_size={"height": 32, "width": 32}, patch_size=8, size={"shortest_edge": 37}
        )
        result = processor(photo)["pixel_values"][0]
        expected = torch.from_numpy(photo[21:53, 58:90].copy()).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(result, expected, rtol=0, atol=0)

    def test_without_fitting_at_all__the_image_passes(
        self, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        result = processor(photo, do_resize=False, do_center_crop=False)["pixel_values"][0]
        expected = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
        torch.testing.assert_close(result, expected, rtol=0, atol=0)

    def test_without_rescaling__uint8_is_returned(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        levels = processor(photo, do_rescale=False)["pixel_values"]
        assert levels.dtype == torch.uint8
        torch.testing.assert_close(levels.float() / 255, processor(photo)["pixel_values"], rtol=0, atol=0)


class TestRefused:
    def test_normalization__is_the_models(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        with pytest.raises(ValueError, match="do_normalize must be False"):
            processor(photo, do_normalize=True)
        with pytest.raises(ValueError, match="do_normalize must be False"):
            StellarImageProcessor(do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3)(photo)

    @pytest.mark.parametrize("empty", [[], torch.zeros(0, 3, 8, 8)])
    def test_no_images__is_an_error(self, processor: StellarImageProcessor, empty: Any) -> None:
        with pytest.raises(ValueError, match="at least one image"):
            processor(empty)

    def test_list_of_lists__is_an_error(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        with pytest.raises(TypeError, match="list of lists"):
            processor([[photo], [photo]])

    def test_mixed_sizes__make_no_batch(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        upright = np.ascontiguousarray(photo.transpose(1, 0, 2))
        message = r"\[\(32, 64\), \(64, 32\)\]"
        with pytest.raises(ValueError, match=message):
            processor([photo, upright], fit="aspect", return_tensors="pt")
        result = processor([photo, upright], fit="aspect")["pixel_values"]
        assert [tuple(image.shape) for image in result] == [(3, 32, 64), (3, 64, 32)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"crop_size": 30}, r"crop_size .* 8, got \(30, 30\)"),
            ({"crop_size": 64}, "side is resized to 37 pixels, .* see 64 x 64"),
            ({"size": {"height": 37, "width": 37}}, "shortest_edge.*got .*height"),
            ({"fit": "stretch"}, r"fit must be 'crop', 'aspect' or 'pad', got 'stretch'"),
            ({"do_center_crop": False}, "do_center_crop=False .* do_resize=False"),
            ({"fill_value": 1.5, "fit": "pad"}, r"fill_value .*\[0, 1\], got 1\.5"),
        ],
    )
    def test_options_that_do_not_fit__are_named(
        self, photo: np.ndarray, processor: StellarImageProcessor, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            processor(photo, **options)

    def test_unknown_option__is_named(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'fitt'"):
            processor(photo, fitt="pad")

    def test_wrong_type_of_option__is_named(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        with pytest.raises(ValueError, match="patch_size must be an integer of at least 1, got '8'"):
            processor(photo, patch_size="8")

    def test_unreadable_image_in_a_list__is_named(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        Image.fromarray(photo).save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
            processor([tmp_path / "good.png", tmp_path / "bad.png"])

    @pytest.mark.parametrize("bad", [b"no image", np.zeros((0, 3, 3)), None])
    def test_bad_item_without_a_path__is_counted(
        self, photo: np.ndarray, processor: StellarImageProcessor, bad: Any
    ) -> None:
        with pytest.raises((ValueError, TypeError), match="image 2 of 3"):
            processor([photo, bad, photo])

    def test_missing_image_in_a_list__is_named(self, tmp_path: Path, processor: StellarImageProcessor) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such image file: .*gone\.png"):
            processor([noise(40, 40), tmp_path / "gone.png"])

    @pytest.mark.parametrize(("value", "message"), [(255.0, "0-255 range"), (float("nan"), "got NaN")])
    def test_values_out_of_range__are_an_error(
        self, processor: StellarImageProcessor, value: float, message: str
    ) -> None:
        tensor = torch.zeros(3, 40, 40)
        tensor[0, 0, 0] = value
        with pytest.raises(ValueError, match=message):
            processor(tensor)


def one_cell(grid: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """`L` of one image with 3 tokens: token 2 has one cell, token 0 the rest; `(1, n, 3)`."""
    localization = torch.zeros(1, grid[0] * grid[1], 3)
    localization[..., 0] = 1
    localization[0, cell[0] * grid[1] + cell[1]] = torch.tensor([0.0, 0.0, 1.0])
    return localization


class TestLocalization:
    # Options, grid, cell, and the rectangle (top, left, bottom, right) of that cell in the 74 x 148 original.
    CASES = (
        ("crop", (4, 4), (1, 2), (20, 74, 36, 90)),  # 16 x 16 per cell from (4, 42)
        ("aspect", (4, 8), (2, 5), (37, 92.5, 55.5, 111)),  # 18.5 x 18.5 per cell from (0, 0)
        ("pad", (4, 4), (1, 2), (0, 74, 37, 111)),  # 37 x 37 per cell from (-37, 0)
        ("pad", (4, 4), (2, 0), (37, 0, 74, 37)),
    )

    @pytest.mark.parametrize("upright", [False, True], ids=["landscape", "portrait"])
    @pytest.mark.parametrize(("fit", "grid", "cell", "box"), CASES)
    def test_one_cell__lands_on_its_pixels(
        self,
        photo: np.ndarray,
        processor: StellarImageProcessor,
        fit: str,
        grid: tuple[int, int],
        cell: tuple[int, int],
        box: tuple[float, ...],
        upright: bool,
    ) -> None:
        if upright:
            photo = np.ascontiguousarray(photo.transpose(1, 0, 2))
            grid, cell, box = grid[::-1], cell[::-1], (box[1], box[0], box[3], box[2])
        batch = processor(photo, fit=fit, return_geometry=True, return_tensors="pt")
        assert batch["pixel_values"].shape[-2:] == (8 * grid[0], 8 * grid[1])
        (maps,) = processor.post_process_localization(
            one_cell(grid, cell), batch["original_sizes"], batch["crop_boxes"], grid_size=grid
        )
        assert maps.shape == (3, *photo.shape[:2])
        rows, columns = (maps[2] > 0.5).nonzero(as_tuple=True)
        # A pixel belongs to the cell if its centre does.
        assert rows.min() + 0.5 == pytest.approx(box[0] + 0.5, abs=0.5)
        assert columns.min() + 0.5 == pytest.approx(box[1] + 0.5, abs=0.5)
        assert rows.max() + 0.5 == pytest.approx(box[2] - 0.5, abs=0.5)
        assert columns.max() + 0.5 == pytest.approx(box[3] - 0.5, abs=0.5)
        assert maps[2, int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)] > 0.9

    def test_batch__is_one_map_per_image_in_its_own_size(self, processor: StellarImageProcessor) -> None:
        batch = processor([noise(74, 148), noise(50, 40)], return_geometry=True, return_tensors="pt")
        localization = torch.rand(2, 16, 3).softmax(dim=-1)
        maps = processor.post_process_localization(localization, batch["original_sizes"], batch["crop_boxes"])
        assert [tuple(item.shape) for item in maps] == [(3, 74, 148), (3, 50, 40)]

    @pytest.mark.parametrize("shape", [(2, 16, 3), (16, 3)])
    def test_counts_that_do_not_fit__are_named(self, processor: StellarImageProcessor, shape: tuple[int, ...]) -> None:
        batch = processor(noise(74, 148), return_geometry=True, return_tensors="pt")
        with pytest.raises(ValueError, match=r"\(B, n, r\).* 1 sizes and 1"):
            processor.post_process_localization(torch.zeros(shape), batch["original_sizes"], batch["crop_boxes"])


class TestSources:
    def test_bytes_files_and_paths__give_the_same(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor
    ) -> None:
        path = tmp_path / "a.png"
        Image.fromarray(photo).save(path)
        expected = processor(photo)["pixel_values"]
        for source in (path, str(path), path.read_bytes(), path.open("rb"), Image.open(path)):
            torch.testing.assert_close(processor(source)["pixel_values"], expected, rtol=0, atol=0)

    def test_address__is_refused(self, processor: StellarImageProcessor) -> None:
        with pytest.raises(ValueError, match="download it"):
            processor("https://example.com/a.jpg")

    def test_fit_image__gives_the_bytes_of_a_call(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        pixels, plan = processor.fit_image(photo)
        torch.testing.assert_close(pixels.float() / 255, processor(photo)["pixel_values"][0], rtol=0, atol=0)
        assert plan == processor.geometry(photo)


class TestOverlay:
    @pytest.mark.parametrize(
        ("fit", "grid", "token"), [("crop", (4, 4), None), ("aspect", (4, 8), 2), ("pad", (4, 4), -1)]
    )
    def test_size__is_that_of_the_original(
        self, photo: np.ndarray, processor: StellarImageProcessor, fit: str, grid: tuple[int, int], token: int | None
    ) -> None:
        processor.fit = fit
        image = processor.overlay(photo, one_cell(grid, (1, 2)), token=token)
        assert image.size == (148, 74)
        assert image.mode == "RGB"

    @pytest.mark.parametrize(("fit", "grid", "cell", "box"), TestLocalization.CASES)
    def test_one_cell__is_painted_on_its_pixels(
        self,
        processor: StellarImageProcessor,
        fit: str,
        grid: tuple[int, int],
        cell: tuple[int, int],
        box: tuple[float, ...],
    ) -> None:
        processor.fit = fit
        grey = np.full((74, 148, 3), 100, dtype=np.uint8)
        painted = np.array(processor.overlay(grey, one_cell(grid, cell)[0]))
        centre = painted[int((box[0] + box[2]) / 2), int((box[1] + box[3]) / 2)]
        rows, columns = (painted == centre).all(axis=-1).nonzero()
        assert (rows.min(), rows.max()) == (pytest.approx(box[0], abs=1), pytest.approx(box[2] - 1, abs=1))
        assert (columns.min(), columns.max()) == (pytest.approx(box[1], abs=1), pytest.approx(box[3] - 1, abs=1))

    def test_orientation__is_applied(self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        Image.fromarray(photo).save(tmp_path / "a.png", exif=exif)
        assert processor.overlay(tmp_path / "a.png", one_cell((4, 4), (0, 0))).size == (74, 148)

    @pytest.mark.parametrize("shape", [(15, 3), (2, 16, 3)])
    def test_other_grid__is_named(
        self, photo: np.ndarray, processor: StellarImageProcessor, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match=r"n = 16, .*\(4, 4\)"):
            processor.overlay(photo, torch.zeros(shape))

    def test_encoding__is_taken_whole(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        maps, sparse = one_cell((4, 4), (0, 0)), torch.zeros(1, 3, 48)
        maps = maps if maps.ndim == 3 else maps[None]
        expected = processor.overlay(photo, maps)
        assert processor.overlay(photo, StellarEncoding(sparse, maps, (4, 4))) == expected
        with pytest.raises(ValueError, match=r"the grid \(2, 8\), .*\(4, 4\)"):
            processor.overlay(photo, StellarEncoding(sparse, maps, (2, 8)))
        sizes, boxes = torch.tensor([[8, 16]]), torch.tensor([[0.0, 0.0, 8.0, 16.0]])
        for found, known in zip(
            processor.post_process_localization(StellarEncoding(sparse, maps, (2, 8)), sizes, boxes),
            processor.post_process_localization(maps, sizes, boxes, (2, 8)),
            strict=True,
        ):
            torch.testing.assert_close(found, known)

    def test_missing_token__is_named(self, photo: np.ndarray, processor: StellarImageProcessor) -> None:
        with pytest.raises(ValueError, match="0 to 2, got 3"):
            processor.overlay(photo, one_cell((4, 4), (0, 0)), token=3)


class TestFiles:
    @pytest.fixture
    def changed(self) -> StellarImageProcessor:
        return StellarImageProcessor(
            size={"shortest_edge": 55},
            crop_size={"height": 48, "width": 40},
            patch_size=8,
            fit="pad",
            fill_value=0.25,
            return_geometry=True,
        )

    def test_save__refuses_a_keyword_that_does_not_exist(self, tmp_path: Path, changed: StellarImageProcessor) -> None:
        with pytest.raises(TypeError, match="image_size"):
            changed.save_pretrained(tmp_path / "saved", image_size=96)
        assert not (tmp_path / "saved").exists()
        changed.save_pretrained(tmp_path / "saved", max_shard_size="1GB")  # as a pipeline passes it
        assert StellarImageProcessor.from_pretrained(tmp_path / "saved").to_dict() == changed.to_dict()

    def test_save_and_load__keeps_every_option(
        self, tmp_path: Path, photo: np.ndarray, changed: StellarImageProcessor
    ) -> None:
        changed.save_pretrained(tmp_path)
        loaded = StellarImageProcessor.from_pretrained(tmp_path)
        assert loaded.to_dict() == changed.to_dict()
        expected = changed(photo)
        result = loaded(photo)
        assert set(result) == {"pixel_values", "original_sizes", "crop_boxes"}
        for name, value in expected.items():
            torch.testing.assert_close(result[name], value, rtol=0, atol=0)

    def test_json__says_what_was_changed(self, tmp_path: Path, changed: StellarImageProcessor) -> None:
        changed.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "preprocessor_config.json").read_text())
        kept = {name: content[name] for name in ("fit", "patch_size", "fill_value", "return_geometry", "size")}
        assert kept == {
            "fit": "pad",
            "patch_size": 8,
            "fill_value": 0.25,
            "return_geometry": True,
            "size": {"shortest_edge": 55},
        }
        assert content["image_processor_type"] == "StellarImageProcessor"

    def test_keywords__override_the_file(self, tmp_path: Path, changed: StellarImageProcessor) -> None:
        changed.save_pretrained(tmp_path)
        assert StellarImageProcessor.from_pretrained(tmp_path, fit="aspect").fit == "aspect"

    def test_missing_folder__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"no such file or folder: .*nowhere"):
            StellarImageProcessor.from_pretrained(tmp_path / "nowhere")

    def test_auto_classes__load_a_folder_with_model_and_processor(
        self, tmp_path: Path, photo: np.ndarray, processor: StellarImageProcessor, pixel_model: StellarModel
    ) -> None:
        pixel_model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is StellarConfig
        loaded = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(loaded) is StellarImageProcessor
        model = AutoModel.from_pretrained(tmp_path)
        assert type(model) is StellarModel
        batch = loaded(photo, return_tensors="pt")
        with torch.no_grad():
            result, expected = model.encode(**batch), pixel_model.encode(**processor(photo, return_tensors="pt"))
        torch.testing.assert_close(result.semantics, expected.semantics, rtol=0, atol=0)


class TestFromConfig:
    @pytest.mark.parametrize(("image_size", "patch_size", "edge"), [(224, 14, 256), (32, 8, 37)])
    def test_sizes__follow_from_the_model(self, image_size: int, patch_size: int, edge: int) -> None:
        config = StellarConfig(image_size=image_size, patch_size=patch_size)
        processor = StellarImageProcessor.from_config(config)
        assert SizeDict(**dict(processor.size)) == SizeDict(shortest_edge=edge)
        assert SizeDict(**dict(processor.crop_size)) == SizeDict(height=image_size, width=image_size)
        assert processor.patch_size == patch_size

    def test_keywords__override(self) -> None:
        assert StellarImageProcessor.from_config(StellarConfig(), fit="pad").fit == "pad"
