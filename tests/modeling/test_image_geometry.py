from typing import Any

import pytest

from stellar_hub.modeling.image_geometry import ImageGeometry, aspect_size, fit_geometry, margin, shortest_edge_size


class TestCrop:
    def test_landscape__by_hand(self) -> None:
        # 74 x 148, shortest side to 37 (half), 32 x 32 out of the middle of 37 x 74.
        plan = fit_geometry((74, 148), "crop", 37, (32, 32), 8)
        assert plan == ImageGeometry((74, 148), (37, 74), (2, 21), (32, 32))
        assert plan.crop_box == (4, 42, 68, 106)

    def test_portrait__by_hand(self) -> None:
        plan = fit_geometry((400, 300), "crop", 256, (224, 224), 16)
        assert plan == ImageGeometry((400, 300), (341, 256), (58, 16), (224, 224))
        top, left, bottom, right = plan.crop_box
        assert (top, bottom) == (pytest.approx(58 * 400 / 341), pytest.approx(282 * 400 / 341))
        assert (left, right) == (pytest.approx(18.75), pytest.approx(281.25))

    def test_small_image__is_enlarged(self) -> None:
        plan = fit_geometry((10, 20), "crop", 37, (32, 32), 8)
        assert (plan.resized_size, plan.offset) == ((37, 74), (2, 21))

    def test_without_resizing__is_the_middle_of_the_original(self) -> None:
        plan = fit_geometry((50, 70), "crop", None, (32, 32), 8)
        assert (plan.resized_size, plan.offset) == ((50, 70), (9, 19))
        assert plan.crop_box == (9, 19, 41, 51)

    def test_non_square_output__is_height_first(self) -> None:
        plan = fit_geometry((64, 128), "crop", 64, (32, 64), 8)
        assert (plan.offset, plan.output_size) == ((16, 32), (32, 64))

    @pytest.mark.parametrize(("size", "edge"), [((50, 70), None), ((74, 148), 37)])
    def test_crop_larger_than_the_image__says_what_to_do(self, size: tuple[int, int], edge: int | None) -> None:
        with pytest.raises(ValueError, match=r"cannot crop \(64, 64\)"):
            fit_geometry(size, "crop", edge, (64, 64), 8)


class TestPad:
    def test_landscape__has_bars_above_and_below(self) -> None:
        # 20 x 40 scaled by 0.8 to 16 x 32; bars of 8 rows, each 1.25 rows of the original.
        plan = fit_geometry((20, 40), "pad", 37, (32, 32), 8)
        assert plan == ImageGeometry((20, 40), (16, 32), (-8, 0), (32, 32))
        assert plan.crop_box == (-10, 0, 30, 40)

    def test_portrait__has_bars_beside_the_smaller_first(self) -> None:
        plan = fit_geometry((64, 30), "pad", 37, (32, 32), 8)
        assert plan == ImageGeometry((64, 30), (32, 15), (0, -8), (32, 32))
        assert plan.crop_box == (0, -16, 64, 48)

    def test_extreme_strip__keeps_a_pixel(self) -> None:
        plan = fit_geometry((1, 4000), "pad", 37, (32, 32), 8)
        assert (plan.resized_size, plan.offset) == ((1, 32), (-15, 0))


class TestAspect:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((20, 50), (32, 80)),  # scale 1.6: 32 x 80
            ((50, 20), (80, 32)),
            ((32, 32), (32, 32)),
            ((30, 100), (32, 104)),  # 32 x 106.7
            ((100, 103), (32, 32)),  # 32 x 32.96
            ((1, 1), (32, 32)),
        ],
    )
    def test_sides__are_rounded_to_the_patch(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        plan = fit_geometry(size, "aspect", 37, (32, 32), 8)
        assert plan == ImageGeometry(size, expected, (0, 0), expected)
        assert plan.crop_box == (0, 0, *size)

    def test_shorter_side_of_the_output__is_the_scale(self) -> None:
        assert fit_geometry((20, 50), "aspect", None, (64, 32), 8).output_size == (32, 80)

    def test_side__is_one_patch_at_least(self) -> None:
        assert aspect_size((10, 10), 3, 8) == (8, 8)


class TestParts:
    @pytest.mark.parametrize(
        ("resized", "output", "expected"),
        [(37, 32, 2), (38, 32, 3), (32, 32, 0), (31, 32, 0), (30, 32, -1), (15, 32, -8), (16, 32, -8)],
    )
    def test_margin__gives_the_earlier_middle(self, resized: int, output: int, expected: int) -> None:
        assert margin(resized, output) == expected

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((300, 400), (256, 341)),  # 341.3
            ((400, 300), (341, 256)),
            ((300, 500), (256, 426)),  # 426.7
            ((500, 300), (426, 256)),
            ((7, 7), (256, 256)),
            ((256, 999), (256, 999)),
        ],
    )
    def test_longer_side__is_rounded_down(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert shortest_edge_size(size, 256) == expected

    @pytest.mark.parametrize("fit", ["stretch", "", "Crop", None])
    def test_unknown_fit__names_the_known(self, fit: Any) -> None:
        with pytest.raises(ValueError, match=rf"fit must be 'crop', 'aspect' or 'pad', got {fit!r}"):
            fit_geometry((10, 10), fit, 37, (32, 32), 8)
