"""PSNR, SSIM and Fréchet distance."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from stellar_hub.measures import MAX_PSNR, frechet_distance, image_psnr, image_ssim, psnr, resize_like


def test_psnr__of_a_known_error() -> None:
    assert psnr(torch.full((2, 3), 0.6), torch.full((2, 3), 0.5)) == pytest.approx(20.0, abs=1e-4)


def test_psnr__of_equal_images_is_infinite() -> None:
    image = torch.rand(3, 4, 4)
    assert psnr(image, image) == math.inf


def test_psnr__keeps_the_precision_of_its_input() -> None:
    one, other = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    error = (one.double() - other.double()).square().mean().item()
    assert psnr(one.double(), other.double()) == -10 * math.log10(error)
    assert psnr(one, other) == -10 * math.log10((one - other).square().mean().item())
    assert psnr(one.bfloat16(), other) == pytest.approx(psnr(one, other), abs=0.1)


@pytest.mark.parametrize(("batch", "side"), [((), 32), ((2,), 24)])
def test_psnr__compares_in_the_size_of_the_image(batch: tuple[int, ...], side: int) -> None:
    image = torch.rand(*batch, 3, 28, 20, generator=torch.Generator().manual_seed(0))
    reconstruction = torch.rand(*batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    resized = resize(reconstruction, [28, 20], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    torch.testing.assert_close(resize_like(reconstruction, image), resized, rtol=1e-5, atol=1e-6)
    assert psnr(reconstruction, image) == pytest.approx(psnr(resized, image), abs=1e-4)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((1, 4, 4), (3, 8, 8))])
def test_psnr__refuses_shapes_that_differ_in_more_than_the_size(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"got {shapes[0]} and {shapes[1]}")):
        psnr(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


@pytest.mark.parametrize(("first", "second", "width"), [(50, 60, 6), (7, 9, 20), (300, 5, 12)])
def test_distance__is_the_formula(first: int, second: int, width: int) -> None:
    rng = np.random.default_rng(first)
    x, y = rng.normal(size=(first, width)), 0.5 + 2 * rng.normal(size=(second, width))
    covariances = [np.cov(rows, rowvar=False) for rows in (x, y)]
    root = sqrtm(covariances[0] @ covariances[1] + 1e-13 * np.eye(width)).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    found = frechet_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_distance__is_that_of_torchmetrics() -> None:
    class Features(nn.Module):
        num_features = 12

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.double().flatten(1)[:, :12]

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(low, 256, (40, 3, 2, 2), generator=generator, dtype=torch.uint8) for low in (0, 60))
    metric = FrechetInceptionDistance(feature=Features()).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert frechet_distance(x.flatten(1), y.flatten(1)) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_distance__of_features_from_themselves_is_0() -> None:
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("shapes", [((1, 3), (4, 3)), ((4, 3), (4, 2))])
def test_distance__refuses_what_does_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"\(N, d\) and \(M, d\)"):
        frechet_distance(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_measures__of_each_image_are_those_of_torchmetrics() -> None:
    references = torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    images = (references + 0.1 * torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    decibels, ssim = image_psnr(images, references), image_ssim(images, references)
    for index in range(3):
        one, other = images[index : index + 1], references[index : index + 1]
        reference = PeakSignalNoiseRatio(data_range=1.0)(one, other).item()
        assert decibels[index].item() == pytest.approx(reference, rel=1e-5)
        expected = StructuralSimilarityIndexMeasure(data_range=1.0)(one, other).item()
        assert ssim[index].item() == pytest.approx(expected, abs=1e-5)
    assert image_psnr(images, images).tolist() == [MAX_PSNR] * 3
    assert image_ssim(images[:1], images[:1]).shape == (1,)
