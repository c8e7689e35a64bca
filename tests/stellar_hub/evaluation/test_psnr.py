"""PSNR."""

import math

import pytest
import torch

from stellar_hub.evaluation.psnr import psnr


def test_psnr__of_a_known_error() -> None:
    assert psnr(torch.full((2, 3), 0.6), torch.full((2, 3), 0.5)) == pytest.approx(20.0, abs=1e-4)


def test_psnr__of_equal_images_is_infinite() -> None:
    image = torch.rand(3, 4, 4)
    assert psnr(image, image) == math.inf


def test_psnr__refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(3, 4\) and \(3, 5\)"):
        psnr(torch.zeros(3, 4), torch.zeros(3, 5))
