import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from stellar_hub.data.views import View, ViewSettings, crops, cut_views, draw_views, plan_views, render_views
from stellar_hub.data.views.crops import boxes_of_views, draw_crop_box, resampling_weights

SETTINGS = ViewSettings(16, 8, 3, 2, (0.36, 1.0), (0.06, 0.36), 0.5)
RATIO = (3 / 4, 4 / 3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=seeded(0)).to(torch.uint8)


class TestDrawCropBox:
    @given(st.integers(1, 3000), st.integers(1, 3000), st.floats(1e-4, 1), st.floats(0, 1), st.integers(0, 99))
    def test_box__lies_inside_any_image(self, height: int, width: int, low: float, part: float, seed: int) -> None:
        area = (low, low + part * (1 - low))
        top, left, box_height, box_width = draw_crop_box(height, width, area, RATIO, seeded(seed))
        assert box_height >= 1
        assert box_width >= 1
        assert 0 <= top <= height - box_height
        assert 0 <= left <= width - box_width

    @given(st.integers(32, 1000), st.floats(0.7, 1.4), st.floats(0.05, 0.5), st.floats(0, 1), st.integers(0, 99))
    def test_box__area_and_shape_are_in_range_where_they_fit(
        self, height: int, shape: float, low: float, part: float, seed: int
    ) -> None:
        width = round(height * shape)
        area = (low, low + part * (0.5 - low))
        _, _, box_height, box_width = draw_crop_box(height, width, area, RATIO, seeded(seed))
        rounding = (box_height + box_width) / 2 + 1
        assert area[0] * height * width - rounding <= box_height * box_width <= area[1] * height * width + rounding
        assert (box_width - 0.5) / (box_height + 0.5) <= RATIO[1]
        assert (box_width + 0.5) / (box_height - 0.5) >= RATIO[0]

    @pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 90)])
    def test_box__is_distributed_as_torchvision_draws_it(self, height: int, width: int) -> None:
        area = (0.36, 1.0)
        image = torch.empty(3, height, width)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            theirs = [RandomResizedCrop.get_params(image, list(area), list(RATIO)) for _ in range(3000)]
        generator = seeded(1)
        ours = [draw_crop_box(height, width, area, RATIO, generator) for _ in range(3000)]
        for index, side in enumerate((height, width, height, width)):
            first, second = (torch.tensor([box[index] / side for box in boxes]) for boxes in (ours, theirs))
            torch.testing.assert_close(first.mean(), second.mean(), rtol=0, atol=0.02)
            torch.testing.assert_close(first.std(), second.std(), rtol=0, atol=0.02)

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [(30, 1000, (0, 480, 30, 40)), (1000, 30, (480, 0, 40, 30)), (1, 1, (0, 0, 1, 1)), (1, 9, (0, 4, 1, 1))],
    )
    def test_box__is_the_middle_where_nothing_fits(
        self, height: int, width: int, expected: tuple[int, int, int, int]
    ) -> None:
        assert draw_crop_box(height, width, (1.0, 1.0), RATIO, seeded(0)) == expected

    def test_box__is_the_whole_image_where_that_is_the_range(self) -> None:
        assert draw_crop_box(20, 20, (1.0, 1.0), (1.0, 1.0), seeded(0)) == (0, 0, 20, 20)

    def test_box__reaches_every_position(self) -> None:
        generator = seeded(0)
        boxes = [draw_crop_box(4, 4, (0.25, 0.25), (1.0, 1.0), generator) for _ in range(300)]
        assert {box[:2] for box in boxes} == {(top, left) for top in range(3) for left in range(3)}


class TestDrawViews:
    def test_views__have_the_settings_shapes(self) -> None:
        global_views, local_views = draw_views(noise(40, 50), SETTINGS, seeded(0))
        assert local_views is not None
        assert global_views.shape == (3, 3, 16, 16)
        assert local_views.shape == (2, 3, 8, 8)
        assert global_views.dtype == local_views.dtype == torch.uint8
        assert global_views.is_contiguous()

    def test_views__without_local_ones(self) -> None:
        global_views, local_views = draw_views(noise(40, 50), replace(SETTINGS, num_local_views=0), seeded(0))
        assert global_views.shape[0] == 3
        assert local_views is None

    @pytest.mark.parametrize("flip_probability", [0.0, 1.0])
    def test_views__are_torchvisions_bicubic_crops(self, flip_probability: float) -> None:
        image = noise(40, 50)
        drawn = replace(SETTINGS, flip_probability=flip_probability)
        global_views, local_views = draw_views(image, drawn, seeded(5))
        assert local_views is not None
        generator = seeded(5)
        for views, area in ((global_views, drawn.global_area), (local_views, drawn.local_area)):
            for view in views:
                box = draw_crop_box(40, 50, area, drawn.aspect_ratio, generator)
                torch.rand((), generator=generator)
                expected = F.resized_crop(
                    image, *box, list(view.shape[1:]), interpolation=InterpolationMode.BICUBIC, antialias=True
                )
                expected = expected.flip(-1) if flip_probability else expected
                torch.testing.assert_close(view, expected, rtol=0, atol=0)

    def test_views__global_ones_do_not_depend_on_local_ones(self) -> None:
        image = noise(30, 30)
        first, _ = draw_views(image, SETTINGS, seeded(1))
        second, _ = draw_views(image, replace(SETTINGS, num_local_views=0), seeded(1))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_views__differ_from_each_other_and_between_generators(self) -> None:
        image = noise(40, 50)
        views = [view for seed in range(4) for view in draw_views(image, SETTINGS, seeded(seed))[0]]
        assert len({view.numpy().tobytes() for view in views}) == len(views)

    def test_views__do_not_depend_on_memory_layout(self) -> None:
        image = noise(40, 50)
        channels_last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        first, second = (draw_views(layout, SETTINGS, seeded(2))[0] for layout in (image, channels_last))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_views__leave_the_global_generator_and_the_image_alone(self) -> None:
        image = noise(20, 20)
        before, copied = torch.get_rng_state(), image.clone()
        draw_views(image, SETTINGS, seeded(0))
        assert torch.equal(torch.get_rng_state(), before)
        torch.testing.assert_close(image, copied, rtol=0, atol=0)

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (500, 1), (3, 4000)])
    def test_views__of_a_plain_image_of_any_shape_are_plain(self, height: int, width: int) -> None:
        image = torch.tensor([10, 128, 250], dtype=torch.uint8)[:, None, None].expand(3, height, width)
        for views in draw_views(image, SETTINGS, seeded(0)):
            assert views is not None
            torch.testing.assert_close(views, image[:, :1, :1].expand_as(views), rtol=0, atol=0)

    @pytest.mark.parametrize(
        "image",
        [torch.zeros(3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 0, 4, dtype=torch.uint8)],
    )
    def test_views__refuse_other_tensors(self, image: Tensor) -> None:
        with pytest.raises(ValueError, match=r"uint8 .*\(3, H, W\), got torch"):
            draw_views(image, SETTINGS, seeded(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local_size": 0}, "local_size .* 1, got 0"),
        ({"num_local_views": -1}, "num_local_views .* 0, got -1"),
        ({"global_area": (0.0, 1.0)}, r"global_area .*\(0, 1\], got \(0.0, 1.0\)"),
        ({"local_area": (0.5, 0.4)}, "local_area"),
        ({"local_area": (0.5,)}, "local_area"),
        ({"local_area": (math.nan, 1.0)}, "local_area"),
        ({"aspect_ratio": (2.0, 1.0)}, r"aspect_ratio .*\(2.0, 1.0\)"),
        ({"flip_probability": 1.5}, r"flip_probability .*\[0, 1\], got 1.5"),
    ],
)
def test_settings__refuse_values_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def soft_noise(height: int, width: int) -> Tensor:
    """Noise without extremes, because workers clip overshoot between the two axes as well."""
    return torch.randint(60, 196, (3, height, width), dtype=torch.uint8, generator=seeded(0))


class TestCutViews:
    @given(height=st.integers(4, 90), width=st.integers(4, 90), size=st.integers(1, 40), seed=st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def test_views__are_those_of_the_workers_up_to_two_levels(
        self, height: int, width: int, size: int, seed: int
    ) -> None:
        drawn = ViewSettings(size, 1, 3, 0, (0.06, 1.0), (0.5, 1.0), 0.5)
        views, _ = plan_views(height, width, drawn, seeded(seed))
        image = soft_noise(height, width)
        difference = cut_views(image, boxes_of_views(views), size).int() - render_views(image, views).int()
        assert difference.abs().max() <= 2

    @pytest.mark.parametrize("size", [8, 24, 60])
    def test_entire_image__is_torchvisions_resize(self, size: int) -> None:
        image = soft_noise(30, 24)
        expected = F.resize(image.float(), [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
        found = cut_views(image, boxes_of_views([View((0, 0, 30, 24), False, size)]), size)[0]
        torch.testing.assert_close(found.float(), expected.clamp(0, 255), rtol=0, atol=0.51)

    def test_size_kept__is_the_part_itself(self) -> None:
        image = soft_noise(20, 20)
        views = [View((3, 5, 8, 8), False, 8), View((3, 5, 8, 8), True, 8)]
        plain, mirrored = cut_views(image, boxes_of_views(views), 8)
        assert torch.equal(plain, image[:, 3:11, 5:13])
        assert torch.equal(mirrored, plain.flip(-1))

    @given(start=st.integers(0, 20), length=st.integers(1, 30), size=st.integers(1, 50))
    @settings(max_examples=50, deadline=None)
    def test_weights__sum_to_one_and_stay_within_the_part(self, start: int, length: int, size: int) -> None:
        weights = resampling_weights(torch.tensor([start]), torch.tensor([length]), size, extent=55)[0]
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(size), rtol=0, atol=1e-5)
        outside = torch.cat([weights[:, :start], weights[:, start + length :]], dim=1)
        assert outside.count_nonzero() == 0

    def test_boxes_of_no_views__are_none(self) -> None:
        assert boxes_of_views([]).shape == (0, 5)


@pytest.mark.parametrize("size", [(40, 60), (900, 3)])
def test_views_cut_one_by_one__are_those_cut_together(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, *size, 0], [3, 1, 20, 2, 1]])
    together = cut_views(image, boxes, 8)
    monkeypatch.setattr(crops, "_MOST_WEIGHTS", 1)
    assert (cut_views(image, boxes, 8).int() - together.int()).abs().max() <= 1


def test_views_of_a_very_long_image__cost_little() -> None:
    boxes = torch.tensor([[500_000, 0, 1, 1, 0]] * 10)
    assert cut_views(torch.full((3, 1_000_000, 1), 7, dtype=torch.uint8), boxes, 224).unique().tolist() == [7]
