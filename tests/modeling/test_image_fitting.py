import dataclasses
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.modeling import image_fitting, image_loading
from stellar_hub.modeling.image_fitting import FitSettings, apply_geometry, read_fitted
from stellar_hub.modeling.image_geometry import MAX_ASPECT

CROP = FitSettings("crop", 37, (32, 32), 8, 0.5, True)


def noise(height: int, width: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else pixels.float() / 255


@pytest.mark.parametrize("size", [(400, 20), (20, 400), (340, 17), (1, 60), (3000, 61)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_long_image__gives_what_resizing_all_of_it_gives(
    size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(*size, dtype)
    cut_first = apply_geometry(image, CROP.plan(*size), 0.5)
    monkeypatch.setattr(image_fitting, "MAX_ASPECT", 10**9)
    whole = apply_geometry(image, CROP.plan(*size), 0.5)
    assert cut_first.shape == whole.shape == (3, 32, 32)
    assert cut_first.dtype == dtype
    # Pillow's and torchvision's fixed-point weights differ a little; see test_pixels__are_those_of_pillow.
    tolerance = 2 if dtype == torch.uint8 else 2 / 255
    assert (cut_first.float() - whole.float()).abs().max() <= tolerance


def test_usual_image__is_resized_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("cut first")

    monkeypatch.setattr(image_fitting, "_resize_part", fail)
    apply_geometry(noise(20, 20 * MAX_ASPECT), CROP.plan(20, 20 * MAX_ASPECT), 0.5)


@pytest.mark.parametrize("height", [65500, 1_000_000])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_very_long_image__costs_little(tmp_path: Path, height: int, fit: str) -> None:
    Image.linear_gradient("L").resize((1, height)).save(tmp_path / "a.png")
    settings = dataclasses.replace(CROP, fit=fit, shortest_edge=256, output_size=(224, 224))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels, plan = read_fitted(tmp_path / "a.png", settings)
    assert pixels.shape == (3, 224, 224)
    assert plan.original_size == (height, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


@pytest.mark.parametrize(("height", "width", "factor"), [(296, 296, 4), (295, 400, 2), (592, 800, 8), (100, 999, 1)])
def test_reduction__leaves_two_pixels_for_each(
    height: int, width: int, factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CROP.reduction(height, width) == 1
    monkeypatch.setattr(image_fitting, "HUGE_PIXELS", 1000)
    assert CROP.reduction(height, width) == factor


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_huge_image__is_fitted_nearly_as_from_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    image = Image.effect_noise((30, 20), 90).convert("RGB").resize((896, 640), Image.Resampling.BICUBIC)
    image.save(tmp_path / "a", kind, **({"quality": 95} if kind == "JPEG" else {}))
    exact, plan = read_fitted(tmp_path / "a", CROP)
    monkeypatch.setattr(image_fitting, "HUGE_PIXELS", 1000)
    monkeypatch.setattr(image_loading, "HUGE_PIXELS", 1000)
    reduced, same_plan = read_fitted(tmp_path / "a", CROP)
    assert plan == same_plan
    assert not torch.equal(exact, reduced)
    assert (exact.float() - reduced.float()).abs().mean() < 4


def test_image_that_does_not_fit__is_named(tmp_path: Path) -> None:
    Image.new("RGB", (1, 100)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match=r"long\.png: .*too long for fit='aspect'"):
        read_fitted(tmp_path / "long.png", dataclasses.replace(CROP, fit="aspect"))
    with pytest.raises(ValueError, match=r"shard/a\.png: .*empty"):
        read_fitted(np.zeros((0, 3, 3)), CROP, "shard/a.png")
