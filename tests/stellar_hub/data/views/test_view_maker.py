import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from stellar_hub.data.random_numbers import sample_generator
from stellar_hub.data.scenes import draw_scene
from stellar_hub.data.sources import EncodedImage, read_image
from stellar_hub.data.sources.image_source import encoded_and_name
from stellar_hub.data.views import MultiCropDataset, View, ViewMaker, ViewSettings, cut_views, plan_views, view_maker
from stellar_hub.data.views.view_maker import ImagesOfManySizes, reduction_factor, to_uint8
from stellar_hub.modeling import image_loading
from stellar_hub.modeling.image_loading import load_reduced

VIEWS = ViewSettings(32, 16, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5)


@cache
def photo(height: int = 600, width: int = 800, kind: str = "JPEG", orientation: int | None = None) -> EncodedImage:
    buffer = io.BytesIO()
    image = Image.fromarray(draw_scene(3, max(height, width)).image[:height, :width])
    exif = image.getexif()
    if orientation:
        exif[0x0112] = orientation
    image.save(buffer, format=kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return EncodedImage("photo", buffer.getvalue())


def read_for_views(
    image: EncodedImage | Path, plan: Callable[[int, int], list[View]]
) -> tuple[Tensor, tuple[int, int]]:
    source, name = encoded_and_name(image)
    return load_reduced(source, lambda height, width: reduction_factor(plan(height, width)), name)


def entire_image(height: int, width: int, size: int) -> list[View]:
    return [View((0, 0, height, width), False, size)]


@pytest.mark.parametrize(("size", "factor"), [(900, 1), (301, 1), (300, 2), (151, 2), (75, 8)])
def test_factor__leaves_every_view_enough_pixels(size: int, factor: int) -> None:
    image, (height, width) = read_for_views(photo(), lambda height, width: entire_image(height, width, size))
    assert (height, width) == (600, 800)
    assert image.shape == (3, 600 // factor, 800 // factor)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500), st.integers(1, 100)), min_size=1, max_size=5))
def test_reduction__never_makes_a_view_smaller_than_shown(sides: list[tuple[int, int, int]]) -> None:
    views = [View((0, 0, height, width), False, size) for height, width, size in sides]
    factor = reduction_factor(views)
    assert factor in (1, 2, 4, 8)
    assert factor == 1 or all(min(height, width) >= factor * size for height, width, size in sides)
    assert factor == 8 or any(min(height, width) < 2 * factor * size for height, width, size in sides)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_formats__are_read_at_full_size(kind: str) -> None:
    encoded = photo(kind=kind)
    image, _ = read_for_views(encoded, lambda height, width: entire_image(height, width, 10))
    torch.testing.assert_close(image, read_image(encoded), rtol=0, atol=0)


@pytest.mark.parametrize("orientation", [3, 6])
def test_plan__is_made_for_the_upright_image(orientation: int) -> None:
    sizes = []

    def plan(height: int, width: int) -> list[View]:
        sizes.append((height, width))
        return entire_image(height, width, 100)

    image, size = read_for_views(photo(orientation=orientation), plan)
    upright = (600, 800) if orientation in (1, 3) else (800, 600)
    assert sizes == [upright]
    assert size == upright
    assert image.shape[1:] == (upright[0] // 4, upright[1] // 4)


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([1, 2, 4, 8]), st.integers(0, 99))
def test_scaled_views__lie_inside_the_smaller_image(height: int, width: int, factor: int, seed: int) -> None:
    plans = plan_views(height, width, VIEWS, torch.Generator().manual_seed(seed))
    small_height, small_width = -(-height // factor), -(-width // factor)  # libjpeg rounds up
    for view in [*plans[0], *plans[1]]:
        top, left, box_height, box_width = view.scaled(
            small_height / height, small_width / width, small_height, small_width
        ).box
        assert box_height >= 1
        assert box_width >= 1
        assert 0 <= top <= small_height - box_height
        assert 0 <= left <= small_width - box_width


def views_of(image: EncodedImage, reduced: bool, index: int = 0) -> dict[str, Tensor]:
    settings = ViewSettings(32, 16, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5, reduced_decoding=reduced)
    return MultiCropDataset([image] * 3, settings, None, seed=0)[0, index]


class TestViews:
    def test_reduced__shows_the_same_parts_of_large_photographs(self) -> None:
        reduced, full = (views_of(photo(), flag) for flag in (True, False))
        for name in ("global_views", "local_views"):
            difference = (reduced[name].float() - full[name].float()).abs()
            other = (full[name].float() - full[name].flip(0).float()).abs()
            assert 0 < difference.mean() < 0.25 * other.mean()

    def test_reduced__is_the_same_where_all_pixels_are_needed(self) -> None:
        small = photo(40, 50)
        reduced, full = (views_of(small, flag) for flag in (True, False))
        for name in ("global_views", "local_views", "photometric"):
            torch.testing.assert_close(reduced[name], full[name], rtol=0, atol=0)

    def test_draws_after_the_views__do_not_depend_on_it(self) -> None:
        settings = [
            ViewSettings(32, 16, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5, reduced_decoding=flag) for flag in (True, False)
        ]
        found = [
            MultiCropDataset([photo()], views, None, 0, lambda generator: torch.rand(3, generator=generator))[0, 0]
            for views in settings
        ]
        torch.testing.assert_close(found[0]["kept_patches"], found[1]["kept_patches"], rtol=0, atol=0)
        assert not torch.equal(found[0]["kept_patches"], torch.rand(3, generator=sample_generator(0, 0, 0)))

    @pytest.mark.parametrize("data", [b"", photo().data[:5000]])
    def test_damaged__is_replaced_and_named(self, data: bytes) -> None:
        settings = ViewSettings(32, 16, 2, 3, (0.36, 1.0), (0.06, 0.36), 0.5, reduced_decoding=True)
        good, bad = photo(), EncodedImage("bad", data)
        sample = MultiCropDataset([bad, good], settings, None, seed=0)[0, 0]
        assert sample["path"] == "photo"
        assert len(sample["skipped"]) == 1
        assert sample["skipped"][0].startswith("bad: ")
        # What is drawn is as if the bad one had never been tried.
        again = MultiCropDataset([good, good], settings, None, seed=0)[0, 0]
        torch.testing.assert_close(sample["global_views"], again["global_views"], rtol=0, atol=0)

    def test_device_crops__show_what_workers_cut(self) -> None:
        image = photo(40, 50)
        maker = ViewMaker(replace(VIEWS, device_crops=True), None)
        sample = maker(image, sample_generator(0, 0, 0))
        assert sorted(sample) == ["global_boxes", "image", "local_boxes", "photometric"]
        expected = views_of(image, reduced=False)
        for kind, size in (("global", 32), ("local", 16)):
            cut = cut_views(sample["image"], sample[f"{kind}_boxes"], size)
            torch.testing.assert_close(cut.int(), expected[f"{kind}_views"].int(), rtol=0, atol=3)

    def test_exif_that_cannot_be_read__does_not_cost_the_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def damaged(self: Image.Image) -> None:
            raise SyntaxError("EXIF is damaged")

        encoded = photo(40, 50)
        monkeypatch.setattr(Image.Image, "getexif", damaged)
        assert read_for_views(encoded, lambda height, width: entire_image(height, width, 8))[1] == (40, 50)

    def test_missing_file__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
            read_for_views(tmp_path / "gone.jpg", lambda height, width: entire_image(height, width, 8))


def test_bytes__are_rounded() -> None:
    assert to_uint8(torch.tensor([0.0, 0.499 / 255, 1.6 / 255, 1.0])).tolist() == [0, 0, 2, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_huge_image__is_read_at_a_size_that_is_enough(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(view_maker, "HUGE_PIXELS", 1000)
    monkeypatch.setattr(image_loading, "HUGE_PIXELS", 1000)
    settings = replace(VIEWS, num_local_views=0, global_area=(1.0, 1.0), device_crops=True)
    sample = ViewMaker(settings, None)(photo(kind=kind), sample_generator(0, 0, 0))
    assert sample["image"].shape[1] < 600
    boxes = sample["global_boxes"]
    assert (boxes[:, 2] <= sample["image"].shape[1]).all()
    assert (boxes[:, 2] >= settings.image_size).all()


def test_images_of_many_sizes__travel_as_one_tensor() -> None:
    images = ImagesOfManySizes(torch.randint(256, (3, side, 7), dtype=torch.uint8) for side in (5, 1, 4))
    sent = bytes(ForkingPickler.dumps(images))
    assert sent.count(b"rebuild_storage_fd") == 1
    received = pickle.loads(pickle.dumps(images))
    assert all(torch.equal(one, other) for one, other in zip(received, images, strict=True))
    assert pickle.loads(pickle.dumps(ImagesOfManySizes())) == []
