"""One vector or one set of tokens for each image: `embed_images`, and `model.embed`, which calls it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from stellar_hub.features import embed_images, extract_features, open_backbone
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.embeddings import compute_feature
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from tests.stellar_hub.data.conftest import jpeg

WITHOUT_ERRORS = 4  # images at the beginning of the folder


@pytest.fixture
def paths(image_folder: Path) -> list[Path]:
    """Images that can be read."""
    return [image_folder / f"{index:04d}.png" for index in range(WITHOUT_ERRORS)]


@pytest.mark.parametrize(("pooling", "feature"), [("mean", "pooled"), ("cls", "cls"), ("tokens", "S")])
def test_vectors__are_the_features_at_length_1(
    pixel_model: StellarModel, paths: list[Path], pooling: str, feature: str
) -> None:
    (batch,) = extract_features(pixel_model, paths, [feature], num_workers=0)
    raw = pixel_model.embed(paths, pooling, normalize=False)
    assert isinstance(raw, np.ndarray)
    assert raw.dtype == np.float32
    assert (raw == batch[feature].numpy()).all()
    unit = pixel_model.embed(paths, pooling, return_tensors="pt")
    torch.testing.assert_close(unit, F.normalize(batch[feature], dim=-1), rtol=0, atol=0)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1]), rtol=0, atol=1e-6)


def test_mean__is_the_mean_of_the_tokens(pixel_model: StellarModel, paths: list[Path]) -> None:
    tokens = pixel_model.embed(paths, "tokens", normalize=False)
    np.testing.assert_allclose(pixel_model.embed(paths, normalize=False), tokens.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_mix_of_kinds__gives_the_same_vector_in_its_place(pixel_model: StellarModel, paths: list[Path]) -> None:
    expected = pixel_model.embed(paths[:2])
    with Image.open(paths[0]) as image, paths[0].open("rb") as file:
        array = np.asarray(image)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        kinds: list[Any] = [str(paths[0]), image, array, tensor, file, paths[0].read_bytes(), paths[1]]
        kinds += [tensor.float().requires_grad_() / 255]
        found = pixel_model.embed(kinds, batch_size=3)
    order = [0, 0, 0, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(found, expected[order], rtol=0, atol=2e-3)  # floats are resized in floats
    np.testing.assert_allclose(found[:7], expected[order[:7]], rtol=0, atol=1e-6)


def test_one_image__gives_one_vector(pixel_model: StellarModel, paths: list[Path]) -> None:
    with Image.open(paths[0]) as image:
        array = np.asarray(image)
    (expected,) = pixel_model.embed(paths[:1])
    for one in (paths[0], str(paths[0]), array, Image.fromarray(array), paths[0].read_bytes()):
        np.testing.assert_allclose(pixel_model.embed(one), expected, rtol=0, atol=1e-6)
    assert pixel_model.embed(array, "tokens").shape == (4, 48)
    batch = np.stack([array, array])
    for several in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2), np.array([str(paths[0])] * 2)):
        assert pixel_model.embed(several).shape == (2, 48)


def test_no_images__give_no_vectors(pixel_model: StellarModel) -> None:
    assert pixel_model.embed([]).shape == (0, 48)
    assert pixel_model.embed(iter(()), "tokens").shape == (0, 4, 48)


@settings(max_examples=8)
@given(
    sizes=st.lists(st.sampled_from([(32, 32), (32, 64), (64, 32), (32, 96)]), min_size=1, max_size=10),
    batch_size=st.integers(1, 3),
)
def test_sizes__do_not_change_the_order(
    shared_pixel_model: StellarModel, sizes: list[tuple[int, int]], batch_size: int
) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    backbone = as_backbone(
        shared_pixel_model, StellarImageProcessor.from_config(shared_pixel_model.config, fit="aspect")
    )
    found = compute_feature(backbone, images, "pooled", batch_size=batch_size)
    with torch.no_grad():
        expected = [
            shared_pixel_model(torch.from_numpy(image).permute(2, 0, 1)[None]).pooler_output[0] for image in images
        ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_iterator__is_read_as_far_as_batches_need_it(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, seen = [], []
    forward = pixel_model.forward

    def watched(pixel_values: Tensor, **options: Any) -> Any:
        seen.append((len(taken), len(pixel_values)))
        return forward(pixel_values, **options)

    def images() -> Any:
        for number in range(10):
            taken.append(number)
            yield np.full((32, 32, 3), 20 * number, dtype=np.uint8)

    monkeypatch.setattr(pixel_model, "forward", watched)
    assert pixel_model.embed(images(), batch_size=4, num_workers=0).shape == (10, 48)
    assert seen == [(4, 4), (8, 4), (10, 2)]


@pytest.mark.parametrize("num_workers", [0, 1, 3, None])
def test_threads__change_nothing(pixel_model: StellarModel, tmp_path: Path, num_workers: int | None) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(7)]
    for number, file in enumerate(files):
        file.write_bytes(jpeg(quality=40 + 5 * number))
    found = pixel_model.embed(files, batch_size=2, num_workers=num_workers)
    expected = [pixel_model.embed(file) for file in files]
    np.testing.assert_allclose(found, np.stack(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_image_that_cannot_be_read__is_named_with_its_place(
    pixel_model: StellarModel, image_folder: Path, num_workers: int
) -> None:
    images: list[Any] = [image_folder / f"{index:04d}.png" for index in range(6)]  # 4 is no image
    with pytest.raises(ValueError, match=r"image 4: .*0004\.png"):
        pixel_model.embed(images, num_workers=num_workers)
    images[2:4] = [np.zeros((8, 8, 3), dtype=np.int64), image_folder / "gone.png"]
    with pytest.raises(TypeError, match=r"image 2: .*got int64: .*uint8"):
        pixel_model.embed(images, num_workers=num_workers)
    with pytest.raises(FileNotFoundError, match=r"image 1: .*gone\.png"):
        pixel_model.embed([images[0], images[3]], num_workers=num_workers)


@pytest.mark.parametrize("image", [None, 7, {"pixel_values": 1}, ("a.jpg", 3)])
def test_item_that_is_no_image__is_refused(pixel_model: StellarModel, image: Any) -> None:
    with pytest.raises(TypeError, match=f"image 0: .*got {type(image).__name__}"):
        pixel_model.embed([image])


def test_what_is_no_list_of_images__is_refused(pixel_model: StellarModel, image_folder: Path) -> None:
    for images in (3, None, {"pixel_values": torch.zeros(1, 3, 32, 32)}):
        with pytest.raises(TypeError, match=f"images must be .*got {type(images).__name__}"):
            pixel_model.embed(images)
    with pytest.raises(ValueError, match=r"is a folder: .*model\.extract"):
        pixel_model.embed(image_folder)


def test_features_that_are_not_finite__are_an_error(pixel_model: StellarModel, paths: list[Path]) -> None:
    with torch.no_grad():
        pixel_model.encoder.cls_token.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"image 0: .*0000\.png: .*not finite"):
        pixel_model.embed(paths, num_workers=0)


def test_modes_and_gradients__stay_as_they_were(pixel_model: StellarModel, paths: list[Path]) -> None:
    pixel_model.train()
    pixel_model.encoder.blocks[0].eval()
    before = [module.training for module in pixel_model.modules()]
    during = []
    hook = pixel_model.encoder.register_forward_hook(lambda module, *_: during.append(module.training))
    vector = pixel_model.embed(paths[0], return_tensors="pt")
    hook.remove()
    assert during == [False]
    assert not vector.requires_grad
    assert [module.training for module in pixel_model.modules()] == before
    with pytest.raises(FileNotFoundError):
        pixel_model.embed("gone.png")
    assert [module.training for module in pixel_model.modules()] == before
    torch.testing.assert_close(pixel_model.eval().embed(paths[0], return_tensors="pt"), vector, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision__is_near(pixel_model: StellarModel, paths: list[Path], dtype: torch.dtype) -> None:
    expected = pixel_model.embed(paths)
    found = pixel_model.to(dtype).embed(paths)
    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.98


def test_image_size__is_what_the_model_sees(pixel_model: StellarModel, paths: list[Path]) -> None:
    processor = StellarImageProcessor.from_config(pixel_model.config, image_size=64)
    larger = pixel_model.embed(paths, image_size=64)
    np.testing.assert_array_equal(larger, pixel_model.embed(paths, processor=processor))
    assert not np.allclose(larger, pixel_model.embed(paths), atol=1e-3)
    with pytest.raises(ValueError, match="either image_size or processor"):
        pixel_model.embed(paths, image_size=64, processor=processor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "pooled"}, "did you mean 'mean'"),
        ({"pooling": "S"}, "did you mean 'tokens'"),
        ({"pooling": "meen"}, "did you mean 'mean'"),
        ({"pooling": "patches"}, r"got 'patches'; model\.extract"),
        ({"pooling": None}, "got None"),
        ({"return_tensors": "tf"}, "got 'tf'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"precision": "int8"}, "precision must be .*got 'int8'"),
    ],
)
def test_values__are_checked(
    pixel_model: StellarModel, paths: list[Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_model.embed(paths, **options)


@pytest.mark.parametrize(
    ("spec", "pooling", "feature"),
    [("pixels", "mean", "pixels"), ("test_vit:random", "mean", "patches_mean"), ("test_vit:random", "cls", "cls")],
)
def test_other_backbones__have_vectors_too(paths: list[Path], spec: str, pooling: str, feature: str) -> None:
    backbone = open_backbone(spec)
    (batch,) = extract_features(backbone, paths, [feature], num_workers=0)
    found = embed_images(backbone, paths, pooling, normalize=False)
    assert (found == batch[feature].numpy()).all()
    with pytest.raises(ValueError, match="has no 'tokens': its poolings are mean"):
        embed_images(backbone, paths, "tokens")
    with pytest.raises(ValueError, match="image_size must be None"):
        embed_images(backbone, paths, image_size=64)


def test_progress__is_shown_if_asked(
    pixel_model: StellarModel, paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stellar_hub.progress.SECONDS_BETWEEN_LINES", 0)
    pixel_model.embed(paths)
    assert capsys.readouterr().err == ""
    pixel_model.embed(paths, show_progress=True)
    assert "embedding: 4/4 images" in capsys.readouterr().err


@pytest.mark.gpu
def test_gpu__gives_what_the_cpu_gives(pixel_model: StellarModel, paths: list[Path]) -> None:
    expected = pixel_model.embed(paths, batch_size=2)
    found = pixel_model.cuda().embed(paths, batch_size=2, precision="float32", return_tensors="pt")
    assert found.device.type == "cpu"
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)
