from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stellar_hub.modeling import localization_maps
from stellar_hub.modeling.localization_maps import (
    as_float,
    overlay_assignment,
    overlay_token,
    resample_maps,
    to_pil,
    token_colors,
)

FULL = (0.0, 0.0, 40.0, 80.0)
# Of the first pixel inside of a cell and the last outside, 10 x 20 pixels: 0.525 x 0.95 and 0.475 x 0.95.
EDGE = 0.475
SQUARE = (0.0, 0.0, 40.0, 40.0)


def rectangle(mask: Tensor) -> tuple[int, int, int, int]:
    """`(top, left, bottom, right)` around the True pixels."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1


class TestTokenColors:
    @pytest.mark.parametrize("count", [1, 2, 4, 16, 24])
    def test_colours__are_in_range_and_tell_tokens_apart(self, count: int) -> None:
        colors = token_colors(count)
        assert colors.shape == (count, 3)
        assert colors.min() >= 0
        assert colors.max() <= 1
        distance = torch.cdist(colors, colors) + torch.eye(count)
        assert distance.min() > 0.1


class TestResampleMaps:
    def test_one_cell__lands_on_its_rectangle(self, grid_of_four: Tensor) -> None:
        maps = resample_maps(grid_of_four, (40, 80), FULL)
        assert maps.shape == (4, 40, 80)
        # Cell (1, 2) of 4 x 4 over 40 x 80: rows 10..20, columns 40..60; bilinear, about half way at its edges.
        assert rectangle(maps[1] > EDGE) == (10, 40, 20, 60)
        assert maps[1, 14:16, 49:51].min() > 0.9
        assert rectangle(maps[1] > 0) == (5, 30, 25, 70)

    def test_crop_box__is_where_the_maps_are(self, grid_of_four: Tensor) -> None:
        maps = resample_maps(grid_of_four, (60, 100), (10.0, 20.0, 50.0, 100.0))
        assert rectangle(maps.sum(dim=0) > 0) == (10, 20, 50, 100)
        assert rectangle(maps[1] > EDGE) == (20, 60, 30, 80)
        torch.testing.assert_close(maps[:, 10:50, 20:], resample_maps(grid_of_four, (40, 80), FULL), rtol=0, atol=1e-5)

    def test_box_beyond_the_image__shows_the_inner_part(self, grid_of_four: Tensor) -> None:
        # As for a padded image: 20 rows of bar above and below 40 x 80.
        maps = resample_maps(grid_of_four, (40, 80), (-20.0, 0.0, 60.0, 80.0))
        assert rectangle(maps.sum(dim=0) > 0) == (0, 0, 40, 80)
        assert rectangle(maps[1] > EDGE) == (0, 40, 20, 60)

    def test_fractional_box__stays_exact(self, grid_of_four: Tensor) -> None:
        box = (2.5, 0.0, 42.5, 80.0)
        maps = resample_maps(grid_of_four, (50, 80), box)
        assert rectangle(maps.sum(dim=0) > 0) == (2, 0, 43, 80)  # rows whose centre, row + 0.5, lies in the box
        centre_of_cell = 2.5 + 15
        weights = maps[1, :, 50]
        rows = torch.arange(50) + 0.5
        assert (weights * rows).sum() / weights.sum() == pytest.approx(centre_of_cell, abs=1e-4)

    def test_grid_size__is_needed_where_not_square(self) -> None:
        localization = torch.eye(6)
        with pytest.raises(ValueError, match=r"6 patches .*grid_size"):
            resample_maps(localization, (20, 30), (0, 0, 20, 30))
        maps = resample_maps(localization, (20, 30), (0, 0, 20, 30), grid_size=(2, 3))
        assert rectangle(maps[4] > EDGE) == (10, 10, 20, 20)

    def test_rows__are_a_part_of_the_whole(self, grid_of_four: Tensor) -> None:
        whole = resample_maps(grid_of_four, (40, 80), FULL)
        part = resample_maps(grid_of_four, (40, 80), FULL, rows=slice(7, 19))
        torch.testing.assert_close(part, whole[:, 7:19], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_result__is_float32_without_graph(self, grid_of_four: Tensor, dtype: torch.dtype) -> None:
        maps = resample_maps(grid_of_four.to(dtype).requires_grad_(), (40, 80), FULL)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad


class TestOverlay:
    @pytest.fixture
    def photo(self) -> Tensor:
        return torch.full((3, 40, 40), 128, dtype=torch.uint8)

    def test_assignment__paints_each_pixel_in_its_strongest_token(self, photo: Tensor, grid_of_four: Tensor) -> None:
        image = overlay_assignment(photo, grid_of_four, SQUARE, (4, 4))
        assert image.size == (40, 40)
        pixels = torch.from_numpy(np.array(image)).long()
        colors = {token: pixels[15, 25] if token == 1 else pixels[35, 5] for token in (0, 1)}
        inside = (pixels == colors[1]).all(dim=-1)
        assert rectangle(inside) == (10, 20, 20, 30)
        assert (pixels[~inside] == colors[0]).all()
        for token, color in colors.items():  # hue of the token over the grey of the photo
            expected = token_colors(4)[token] * 255
            assert torch.corrcoef(torch.stack([color.float(), expected]))[0, 1] > 0.99

    def test_assignment__in_bands_is_the_same(
        self, photo: Tensor, grid_of_four: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = np.array(overlay_assignment(photo, grid_of_four, SQUARE, (4, 4)))
        monkeypatch.setattr(localization_maps, "ROWS_AT_A_TIME", 7)
        assert (np.array(overlay_assignment(photo, grid_of_four, SQUARE, (4, 4))) == expected).all()

    def test_assignment__outside_of_the_box_is_dim_grey(self, photo: Tensor, grid_of_four: Tensor) -> None:
        pixels = np.array(overlay_assignment(photo, grid_of_four, (0.0, 10.0, 40.0, 30.0), (4, 4))).astype(int)
        outside = np.concatenate([pixels[:, :10], pixels[:, 30:]], axis=1)
        assert (outside == outside[0, 0, 0]).all()
        assert 0 < outside[0, 0, 0] < 128
        assert (pixels[:, 10:30].max(axis=-1) > outside.max()).all()

    def test_token__is_bright_where_it_is(self, photo: Tensor, grid_of_four: Tensor) -> None:
        pixels = np.array(overlay_token(photo, grid_of_four, 1, SQUARE, (4, 4))).astype(int)
        away = pixels[:, :15].reshape(-1, 3)
        assert (away == away[0]).all()
        assert np.ptp(away[0]) == 0
        centre = pixels[15, 25]
        assert centre.sum() > 1.5 * away[0].sum()
        assert np.ptp(centre) > 20

    def test_value_range__is_the_scale_of_the_brightness(self, photo: Tensor, grid_of_four: Tensor) -> None:
        box = (0.0, 0.0, float(photo.shape[1]), float(photo.shape[2]))
        low, high = float(grid_of_four[:, 1].min()), float(grid_of_four[:, 1].max())
        own = overlay_token(photo, grid_of_four, 1, box, (4, 4))
        assert own == overlay_token(photo, grid_of_four, 1, box, (4, 4), (low, high))
        weak = overlay_token(photo, grid_of_four, 1, box, (4, 4), (low, 10 * high))
        assert weak.convert("L").getextrema()[1] < own.convert("L").getextrema()[1]

    def test_negative_token__counts_from_the_end(self, photo: Tensor, grid_of_four: Tensor) -> None:
        last = np.array(overlay_token(photo, grid_of_four.flip(1), -1, SQUARE, (4, 4)))
        assert (last == np.array(overlay_token(photo, grid_of_four.flip(1), 3, SQUARE, (4, 4)))).all()

    @pytest.mark.parametrize("token", [1.5, "1", torch.tensor(1.0)])
    def test_number_that_is_not_whole__is_refused(self, photo: Tensor, grid_of_four: Tensor, token: Any) -> None:
        with pytest.raises(TypeError, match=r"whole number from 0 to 3, got "):
            overlay_token(photo, grid_of_four, token, SQUARE, (4, 4))

    @pytest.mark.parametrize("token", [np.int64(1), torch.tensor(1)])
    def test_number_of_a_search__is_a_token(self, photo: Tensor, grid_of_four: Tensor, token: Any) -> None:
        expected = overlay_token(photo, grid_of_four, 1, SQUARE, (4, 4))
        assert overlay_token(photo, grid_of_four, token, SQUARE, (4, 4)) == expected

    @pytest.mark.parametrize("token", [4, -5, 100])
    def test_missing_token__is_named(self, photo: Tensor, grid_of_four: Tensor, token: int) -> None:
        with pytest.raises(ValueError, match=f"0 to 3, got {token}"):
            overlay_token(photo, grid_of_four, token, SQUARE, (4, 4))

    def test_image__is_not_changed(self, photo: Tensor, grid_of_four: Tensor) -> None:
        before = photo.clone()
        overlay_token(photo, grid_of_four, 0, SQUARE, (4, 4))
        overlay_assignment(photo, grid_of_four, SQUARE, (4, 4))
        torch.testing.assert_close(photo, before, rtol=0, atol=0)


class TestConversions:
    def test_pil_and_back__is_exact_for_uint8(self) -> None:
        photo = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
        image = to_pil(as_float(photo))
        torch.testing.assert_close(torch.from_numpy(np.array(image)).permute(2, 0, 1), photo, rtol=0, atol=0)

    def test_floats__are_clamped(self) -> None:
        assert as_float(torch.tensor([-0.04, 0.5, 1.04])).tolist() == [0, 0.5, 1]
        assert np.array(to_pil(torch.tensor([-1.0, 2.0, 0.5]).view(3, 1, 1))).tolist() == [[[0, 255, 128]]]
