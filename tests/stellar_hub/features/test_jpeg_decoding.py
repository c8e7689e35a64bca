import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stellar_hub.features.encoded_jpegs import JpegFacts
from stellar_hub.features.jpeg_decoding import JpegDecoder, decode_jpegs, decoder_on, in_pieces, work_ahead
from stellar_hub.features.preparation import PreparedBatch, PreparedBatches
from stellar_hub.modeling import StellarImageProcessor
from tests.stellar_hub.data.conftest import exif, jpeg

PROCESSOR = StellarImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"},
    "turned": {"exif": exif(6)},
    "mirrored": {"exif": exif(7)},
    "progressive": {"progressive": True},
    "again": {"quality": 60},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """JPEGs of each kind, one that is cut short, one of another size and a PNG."""
    for name, options in KINDS.items():
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(**options))
    (tmp_path / "short.jpg").write_bytes(jpeg()[:-80])
    values = np.random.default_rng(1).integers(0, 256, (50, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "large.jpg")
    Image.fromarray(values).save(tmp_path / "other.png")
    return tmp_path


def prepared(folder: Path, keep_jpegs: bool, processor: StellarImageProcessor = PROCESSOR) -> PreparedBatch:
    """All images of a folder in one batch."""
    source = sorted(folder.iterdir())
    return PreparedBatches(source, processor, [range(len(source))], keep_jpegs=keep_jpegs)[0]


def refusing(refused: list[bytes], calls: list[int]) -> Any:
    """A decoder that fails for a batch with one of these images, and counts the sizes of its batches."""

    def decode(encoded: list[Tensor]) -> list[Tensor]:
        calls.append(len(encoded))
        if any(data.numpy().tobytes() in refused for data in encoded):
            raise RuntimeError("nvjpegDecode failed: 3")
        return decode_jpegs(encoded, CPU)

    return decode


def near(found: PreparedBatch, expected: PreparedBatch) -> None:
    assert found.records == expected.records
    assert found.encoded is None
    assert found.pixel_values is not None
    assert expected.pixel_values is not None
    assert (found.pixel_values.int() - expected.pixel_values.int()).abs().max() <= 2


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_decoded_batch__is_pillows_but_for_a_level(folder: Path, fit: str) -> None:
    processor = StellarImageProcessor(**{**PROCESSOR.to_dict(), "fit": fit})
    batch = prepared(folder, True, processor)
    assert batch.encoded is not None
    assert [facts.name.rpartition("/")[2] for facts in batch.encoded.facts] == [
        f"{name}.jpg" for name in ("again", "grey", "large", "mirrored", "plain", "turned")
    ]
    near(JpegDecoder("libjpeg-turbo", processor, CPU).complete(batch), prepared(folder, False, processor))


def test_refused_image__goes_to_pillow_alone(folder: Path) -> None:
    calls: list[int] = []
    decoder = JpegDecoder("libjpeg-turbo", PROCESSOR, CPU, refusing([jpeg()], calls))
    near(decoder.complete(prepared(folder, True)), prepared(folder, False))
    assert calls == [1, 6, 1, 1, 1, 1, 1, 1]  # the example, the batch, and one by one


def test_image_that_pillow_refuses_too__is_an_error_of_its_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = prepared(folder, True)

    def refuse(content: bytes, name: str) -> None:
        raise ValueError(f"{name} cannot be read as an image: broken")

    monkeypatch.setattr(PROCESSOR, "fit_image", refuse)
    found = JpegDecoder("libjpeg-turbo", PROCESSOR, CPU, refusing([jpeg()], [])).complete(batch)
    failed = [record for record in found.records if record.error is not None]
    assert [record.image.rpartition("/")[2] for record in failed] == ["plain.jpg", "short.jpg"]
    assert failed[0].error == f"{folder / 'plain.jpg'} cannot be read as an image: broken"
    assert (failed[0].original_size, failed[0].crop_box) == (None, None)
    assert found.pixel_values is not None
    assert len(found.pixel_values) == len(found.records) - 2


def test_image_of_another_size_than_its_header__goes_to_pillow(folder: Path) -> None:
    decoder = JpegDecoder("libjpeg-turbo", PROCESSOR, CPU, lambda encoded: [torch.zeros(3, 8, 8)] * len(encoded))
    found, expected = decoder.complete(prepared(folder, True)), prepared(folder, False)
    assert found.pixel_values is not None
    assert expected.pixel_values is not None
    assert torch.equal(found.pixel_values, expected.pixel_values)


def test_full_memory__is_not_the_images_fault(folder: Path) -> None:
    example = True

    def decode(encoded: list[Tensor]) -> list[Tensor]:
        nonlocal example
        if not example:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        example = False
        return []

    with pytest.raises(torch.OutOfMemoryError):
        JpegDecoder("libjpeg-turbo", PROCESSOR, CPU, decode).complete(prepared(folder, True))


def test_full_memory_when_images_are_fitted__decodes_fewer_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain", "turned"):  # more images that are fitted together
        (folder / f"{name}-2.jpg").write_bytes((folder / f"{name}.jpg").read_bytes())
    decoder = JpegDecoder("libjpeg-turbo", PROCESSOR, CPU)
    fit = decoder._fit

    def fit_one(images: Tensor, geometry: Any) -> Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return fit(images, geometry)

    monkeypatch.setattr(decoder, "_fit", fit_one)
    near(decoder.complete(prepared(folder, True)), prepared(folder, False))


def test_floats_in_a_batch__make_all_of_it_floats(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    Image.fromarray(np.full((40, 40), 0.25, dtype=np.float32)).save(tmp_path / "b.tif")
    found = JpegDecoder("libjpeg-turbo", PROCESSOR, CPU).complete(prepared(tmp_path, True)).pixel_values
    expected = prepared(tmp_path, False).pixel_values
    assert found is not None
    torch.testing.assert_close(found, expected, atol=2 / 255, rtol=0)


def test_decoder_that_does_not_work__is_said() -> None:
    def missing(encoded: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("not compiled with nvJPEG")

    with pytest.raises(ValueError, match=r"libjpeg-turbo does not work on cpu .*nvJPEG.*--decoder pillow"):
        JpegDecoder("libjpeg-turbo", PROCESSOR, CPU, missing)


def test_torchvision__is_another_decoder_on_each_device() -> None:
    assert decoder_on("torchvision", CPU) == "libjpeg-turbo"
    assert decoder_on("torchvision", torch.device("cuda", 1)) == "nvjpeg"
    assert decoder_on("libjpeg-turbo", torch.device("cuda")) == "libjpeg-turbo"
    with pytest.raises(ValueError, match="nvjpeg needs a CUDA GPU"):
        decoder_on("nvjpeg", CPU)
    with pytest.raises(ValueError, match=r"decoder must be one of .*got 'turbo'"):
        decoder_on("turbo", CPU)


def test_pieces__have_bounded_pixels() -> None:
    geometry = PROCESSOR.geometry_of_shape(torch.Size((3, 40, 40)))
    parts = [
        (place, JpegFacts("", (10, side), 1, geometry), torch.zeros(0)) for place, side in enumerate((4, 5, 2, 90, 1))
    ]
    assert [[part[0] for part in piece] for piece in in_pieces(parts, 100)] == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize("ahead", [0, 2])
def test_work_ahead__keeps_the_order_and_raises_in_its_place(ahead: int) -> None:
    threads = set()

    def work(batch: PreparedBatch) -> PreparedBatch:
        threads.add(threading.get_ident())
        if batch.records == ["bad"]:
            raise ValueError("bad")
        return batch

    batches: Any = [PreparedBatch([name], None) for name in ("a", "b", "c", "bad", "d")]
    found = work_ahead(batches, work, ahead)
    assert [next(found).records for _ in range(3)] == [["a"], ["b"], ["c"]]
    with pytest.raises(ValueError, match="bad"):
        next(found)
    assert (threading.get_ident() in threads) is (ahead == 0)


@pytest.mark.gpu
def test_nvjpeg__is_near_pillow(folder: Path) -> None:
    found = JpegDecoder("nvjpeg", PROCESSOR, torch.device("cuda")).complete(prepared(folder, True))
    expected = prepared(folder, False)
    assert found.records == expected.records
    assert found.pixel_values is not None
    assert expected.pixel_values is not None
    assert (found.pixel_values.cpu().float() - expected.pixel_values.float()).abs().mean() < 20  # of noise
