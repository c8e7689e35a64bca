import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from stellar_hub.data.views import PhotometricSettings, apply_photometric, draw_photometric
from stellar_hub.data.views.photometric import identity_parameters

SETTINGS = PhotometricSettings(
    global_views=True,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    jitter_probability=0.8,
    grayscale_probability=0.2,
    blur_probability=0.5,
    blur_sigma=(0.1, 2.0),
    blur_kernel_size=9,
)
STRONG = replace(SETTINGS, brightness=0.9, contrast=0.9, saturation=1.5, hue=0.5, jitter_probability=1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    """Noise, with some pure black, white and grey pixels and saturated colours among it."""
    images = torch.rand(count, 3, height, width, generator=seeded(seed))
    images[:, :, :2] = images[:, :, :2].round()
    images[:, :, 2:3] = images[:, :1, 2:3]
    return images


def by_torchvision(image: Tensor, row: Tensor, kernel_size: int) -> Tensor:
    """One image, one operation after the other."""
    brightness, contrast, saturation, hue, grey, sigma = row.tolist()
    image = F.adjust_brightness(image, brightness)
    image = F.adjust_contrast(image, contrast)
    image = F.adjust_saturation(image, saturation)
    image = F.adjust_hue(image, hue) if hue else image
    image = F.rgb_to_grayscale(image, num_output_channels=3) if grey else image
    return F.gaussian_blur(image, [kernel_size] * 2, [sigma] * 2) if sigma else image


class TestApplyPhotometric:
    @pytest.mark.parametrize(("settings", "kernel_size"), [(SETTINGS, 9), (STRONG, 3), (STRONG, 1)])
    def test_apply__equals_torchvision_image_by_image(self, settings: PhotometricSettings, kernel_size: int) -> None:
        images, parameters = photos(24), draw_photometric(24, settings, seeded())
        expected = torch.stack([by_torchvision(*pair, kernel_size) for pair in zip(images, parameters, strict=True)])
        torch.testing.assert_close(apply_photometric(images, parameters, kernel_size), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            (0, (0.0, 1.6)),
            (1, (0.0, 1.9)),
            (2, (0.0, 3.0)),
            (3, (0.5, -0.5, 1 / 3)),
            (4, (1.0,)),
            (5, (0.1, 2.0, 50.0)),
        ],
        ids=["brightness", "contrast", "saturation", "hue", "grayscale", "blur"],
    )
    def test_apply__each_operation_alone_equals_torchvision(self, column: int, values: tuple[float, ...]) -> None:
        images, parameters = photos(len(values)), identity_parameters(len(values))
        parameters[:, column] = torch.tensor(values)
        expected = torch.stack([by_torchvision(*pair, 9) for pair in zip(images, parameters, strict=True)])
        torch.testing.assert_close(apply_photometric(images, parameters), expected, rtol=0, atol=1e-5)

    @given(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14), st.sampled_from([1, 3, 9, 31]), st.integers(0, 9))
    def test_apply__keeps_shape_and_range_for_views_of_any_size(
        self, count: int, height: int, width: int, kernel_size: int, seed: int
    ) -> None:
        parameters = draw_photometric(count, replace(STRONG, blur_probability=0.9), seeded(seed))
        changed = apply_photometric(photos(count, height, width, seed), parameters, kernel_size)
        assert changed.shape == (count, 3, height, width)
        assert changed.dtype == torch.float32
        assert changed.min() >= 0
        assert changed.max() <= 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_apply__identity_gives_the_same_bits(self, dtype: torch.dtype) -> None:
        images = photos(3).to(dtype)
        changed = apply_photometric(images, identity_parameters(3))
        torch.testing.assert_close(changed, images, rtol=0, atol=0)
        assert changed.data_ptr() != images.data_ptr()

    def test_apply__a_batch_equals_its_images_one_by_one(self) -> None:
        images, parameters = photos(8), draw_photometric(8, SETTINGS, seeded(1))
        singly = [apply_photometric(images[i : i + 1], parameters[i : i + 1]) for i in range(8)]
        torch.testing.assert_close(apply_photometric(images, parameters), torch.cat(singly), rtol=0, atol=1e-6)

    def test_apply__changes_neither_images_nor_parameters(self) -> None:
        images, parameters = photos(4), draw_photometric(4, STRONG, seeded())
        copies = images.clone(), parameters.clone()
        apply_photometric(images, parameters)
        torch.testing.assert_close((images, parameters), copies, rtol=0, atol=0)

    @pytest.mark.parametrize(("height", "width"), [(1, 20), (3, 2)])
    def test_apply__blur_leaves_plain_views_smaller_than_the_kernel_plain(self, height: int, width: int) -> None:
        parameters = identity_parameters(2)
        parameters[:, 5] = torch.tensor([0.3, 2.0])
        images = torch.full((2, 3, height, width), 0.3)
        torch.testing.assert_close(apply_photometric(images, parameters), images, rtol=0, atol=1e-6)

    def test_apply__autocast_does_not_round(self) -> None:
        images, parameters = photos(4), draw_photometric(4, STRONG, seeded())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            changed = apply_photometric(images, parameters)
        torch.testing.assert_close(changed, apply_photometric(images, parameters), rtol=0, atol=0)

    def test_apply__never_reads_a_value_on_the_host(self) -> None:
        # Tensors on "meta" have no values: reading one raises.
        images, parameters = photos(4).to("meta"), draw_photometric(4, STRONG, seeded()).to("meta")
        assert apply_photometric(images, parameters).shape == images.shape

    @pytest.mark.gpu
    def test_apply__on_a_gpu_never_waits_and_equals_the_cpu(self) -> None:
        images, parameters = photos(16), draw_photometric(16, STRONG, seeded())
        on_device = images.cuda(), parameters.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            changed = apply_photometric(*on_device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(changed.cpu(), apply_photometric(images, parameters), rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("images", "parameters", "kernel_size", "message"),
        [
            (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 6), 9, "torch.uint8"),
            (torch.zeros(3, 4, 4), torch.zeros(1, 6), 9, r"\(N, 3, H, W\), got .*\(3, 4, 4\)"),
            (torch.zeros(2, 3, 4, 4), torch.zeros(3, 6), 9, r"\(2, 6\) .* got \(3, 6\)"),
            (torch.zeros(2, 3, 4, 4), torch.zeros(2, 6), 4, "kernel_size .* got 4"),
        ],
    )
    def test_apply__refuses_what_does_not_fit(
        self, images: Tensor, parameters: Tensor, kernel_size: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            apply_photometric(images, parameters, kernel_size)


class TestDrawPhotometric:
    def test_draw__values_are_in_range_and_uniform(self) -> None:
        settings = replace(SETTINGS, jitter_probability=1.0, blur_probability=1.0)
        drawn = draw_photometric(4000, settings, seeded())
        assert drawn.dtype == torch.float32
        for column, low, high in ((0, 0.6, 1.4), (1, 0.6, 1.4), (2, 0.8, 1.2), (3, -0.1, 0.1), (5, 0.1, 2.0)):
            values = (drawn[:, column] - low) / (high - low)
            assert values.min() > -1e-5
            assert values.max() < 1 + 1e-5
            torch.testing.assert_close(values.mean().item(), 0.5, rtol=0, atol=0.02)
            torch.testing.assert_close(values.std().item(), math.sqrt(1 / 12), rtol=0, atol=0.01)

    def test_draw__follows_the_probabilities_and_jitters_all_four_together(self) -> None:
        drawn = draw_photometric(5000, SETTINGS, seeded())
        jittered = drawn[:, :4] != identity_parameters(5000)[:, :4]
        torch.testing.assert_close(jittered.any(dim=1), jittered.all(dim=1), rtol=0, atol=0)
        for happened, probability in ((jittered[:, 0], 0.8), (drawn[:, 4] == 1, 0.2), (drawn[:, 5] > 0, 0.5)):
            torch.testing.assert_close(happened.float().mean().item(), probability, rtol=0, atol=0.025)

    def test_draw__nothing_happens_with_probability_zero(self) -> None:
        settings = replace(SETTINGS, jitter_probability=0.0, grayscale_probability=0.0, blur_probability=0.0)
        torch.testing.assert_close(draw_photometric(50, settings, seeded()), identity_parameters(50), rtol=0, atol=0)

    def test_draw__factors_are_never_negative(self) -> None:
        settings = replace(SETTINGS, brightness=3.0, contrast=3.0, saturation=3.0, jitter_probability=1.0)
        assert draw_photometric(500, settings, seeded())[:, :3].min() >= 0

    def test_draw__follows_the_generator_alone(self) -> None:
        before = torch.get_rng_state()
        first, second, other = (draw_photometric(5, SETTINGS, seeded(seed)) for seed in (1, 1, 2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("brightness", -0.1, "at least 0"),
        ("saturation", math.nan, "finite"),
        ("hue", 0.6, "0.5"),
        ("hue", False, "number"),
        ("jitter_probability", 1.2, "0, 1"),
        ("blur_sigma", (2.0, 1.0), "ascending"),
        ("blur_sigma", (2.0,), "2"),
        ("blur_kernel_size", 8, "odd"),
        ("blur_kernel_size", -1, "odd"),
    ],
)
def test_settings__refuse_other_types_and_values_out_of_range(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key} must be .*{allowed}.*, got "):
        replace(SETTINGS, **{key: value})
