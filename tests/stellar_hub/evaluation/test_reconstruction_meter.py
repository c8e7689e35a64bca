"""Measures of reconstructed images."""

import pytest
import torch
from torch import Tensor

from stellar_hub.evaluation.perceptual_networks import MetricNetworks
from stellar_hub.evaluation.protocols.reconstruction import ReconstructionProtocol
from stellar_hub.evaluation.reconstruction_meter import (
    MeanColor,
    ReconstructionMeter,
    reconstruct,
)
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.measures import image_psnr
from stellar_hub.modeling import StellarModel


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_reconstruction__is_the_models_own(tiny: StellarBackbone) -> None:
    images = draw(2, 3, 32, 32)
    with torch.no_grad():
        expected = tiny.network.decode(*tiny.network.encode(images))
        torch.testing.assert_close(reconstruct(tiny, images), expected)


def test_larger_decoded_images__are_brought_to_the_size_of_the_originals(
    tiny: StellarBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = draw(2, 3, 32, 32)
    large = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    monkeypatch.setattr(StellarModel, "reconstruct", lambda self, pixel_values, num_tokens: large)
    found = reconstruct(tiny, images)
    assert found.shape == images.shape
    assert image_psnr(found, images).min() > 20


def test_mean_colour__is_one_colour(tiny: StellarBackbone) -> None:
    images = draw(2, 3, 4, 4)
    found = reconstruct(MeanColor(tiny), images)
    assert found.shape == images.shape
    torch.testing.assert_close(found[:, :, 1, 2], images.mean(dim=(2, 3)))


def test_shapes__are_those_of_the_measures(tiny: StellarBackbone) -> None:
    protocol = ReconstructionProtocol(metrics=("psnr", "ssim", "rfid"))
    inception = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
    inception.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    meter = ReconstructionMeter(tiny, protocol, MetricNetworks(None, inception, {}))
    with torch.no_grad():
        features = meter.features(draw(2, 3, 32, 32), meter.names())
    shapes = {name: tuple(feature.shape[1:]) for name, feature in features.items()}
    assert meter.feature_shapes(meter.names()) == shapes
