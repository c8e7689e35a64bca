import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from stellar_hub.data.views.crops import View, ViewSettings, plan_views, render_views
from stellar_hub.data.views.device_crops import as_boxes, cut_views, resampling_weights


def photo(height: int, width: int) -> torch.Tensor:
    """Noise, the hardest there is, but no extremes: workers cut overshoot between the two axes as well."""
    return torch.randint(60, 196, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestCutViews:
    @given(height=st.integers(4, 90), width=st.integers(4, 90), size=st.integers(1, 40), seed=st.integers(0, 99))
    @settings(max_examples=60, deadline=None)
    def test_views__are_those_of_the_workers_up_to_two_levels(
        self, height: int, width: int, size: int, seed: int
    ) -> None:
        drawn = ViewSettings(size, 1, 3, 0, (0.06, 1.0), (0.5, 1.0), 0.5)
        views, _ = plan_views(height, width, drawn, torch.Generator().manual_seed(seed))
        image = photo(height, width)
        difference = cut_views(image, as_boxes(views), size).int() - render_views(image, views).int()
        assert difference.abs().max() <= 2

    @pytest.mark.parametrize("size", [8, 24, 60])
    def test_whole_image__is_torchvisions_resize(self, size: int) -> None:
        image = photo(30, 24)
        expected = F.resize(image.float(), [size, size], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
        found = cut_views(image, as_boxes([View((0, 0, 30, 24), False, size)]), size)[0]
        torch.testing.assert_close(found.float(), expected.clamp(0, 255), rtol=0, atol=0.51)

    def test_size_kept__is_the_part_itself(self) -> None:
        image = photo(20, 20)
        views = [View((3, 5, 8, 8), False, 8), View((3, 5, 8, 8), True, 8)]
        plain, mirrored = cut_views(image, as_boxes(views), 8)
        assert torch.equal(plain, image[:, 3:11, 5:13])
        assert torch.equal(mirrored, plain.flip(-1))


@given(start=st.integers(0, 20), length=st.integers(1, 30), size=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_weights__sum_to_one_and_stay_within_the_part(start: int, length: int, size: int) -> None:
    weights = resampling_weights(torch.tensor([start]), torch.tensor([length]), size, extent=55)[0]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(size), rtol=0, atol=1e-5)
    assert weights[:, :start].abs().max() == 0 if start else True
    assert weights[:, start + length :].abs().max() == 0


def test_boxes_of_no_views__are_none() -> None:
    assert as_boxes([]).shape == (0, 5)
