from pathlib import Path

import pytest
import torch

from stellar_hub.features import decoder_choice
from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.decoder_choice import Speeds, choose_decoder, measure_speeds
from stellar_hub.features.encoding import BatchEncoder
from stellar_hub.features.jpeg_decoding import JpegDecoder
from stellar_hub.modeling import StellarModel
from tests.stellar_hub.data.conftest import jpeg

OPTIONS = {"batch_size": 4, "precision": "auto", "num_workers": 2}


@pytest.mark.parametrize(
    ("workers", "model", "decoder", "on_device"),
    [(900, 9000, 4000, True), (900, 9000, 800, False), (900, 800, 4000, False), (900, 850, 4000, True)],
)
def test_device_decodes__where_the_model_would_wait(workers: int, model: int, decoder: int, on_device: bool) -> None:
    assert Speeds(workers, model, decoder).device_is_faster is on_device


def test_cpu__takes_pillow_without_measuring(pixel_model: StellarModel) -> None:
    assert choose_decoder("auto", as_backbone(pixel_model), [], **OPTIONS) == ("pillow", [])  # type: ignore[arg-type]


def test_named_decoder__is_taken_and_checked(pixel_model: StellarModel) -> None:
    backbone = as_backbone(pixel_model)
    assert choose_decoder("torchvision", backbone, [], **OPTIONS) == ("libjpeg-turbo", [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs a CUDA GPU"):
        choose_decoder("nvjpeg", backbone, [], **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("decoder", "chosen"), [(4000, "nvjpeg"), (100, "pillow")])
def test_gpu__takes_the_faster_one_and_says_why(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch, decoder: int, chosen: str
) -> None:
    backbone = as_backbone(pixel_model)
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    monkeypatch.setattr(decoder_choice, "JpegDecoder", lambda *arguments: None)
    monkeypatch.setattr(decoder_choice, "choose_precision", lambda *arguments: "float32")
    monkeypatch.setattr(decoder_choice, "measure_speeds", lambda *arguments: Speeds(900, 9000, decoder))
    found, notes = choose_decoder("auto", backbone, [], **OPTIONS)  # type: ignore[arg-type]
    assert found == chosen
    assert f"900 images per second, nvjpeg {decoder}; the model takes 9000" in notes[0]
    alike, notes = choose_decoder("auto", backbone, [], **OPTIONS, num_processes=2)  # type: ignore[arg-type]
    assert (alike, notes) == ("nvjpeg", [])


def test_speeds__are_measured_on_plain_jpegs(pixel_model: StellarModel, tmp_path: Path) -> None:
    backbone = as_backbone(pixel_model)
    encoder, decoder = BatchEncoder(backbone, ("S",)), JpegDecoder("libjpeg-turbo", backbone.processor, backbone.device)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "b.jpg").write_bytes(jpeg(progressive=True))
    found = measure_speeds(encoder, decoder, [tmp_path / "gone.jpg", tmp_path / "a.jpg"], 4, 2)  # type: ignore[arg-type]
    assert found is not None
    assert min(found.workers, found.model, found.decoder) > 0
    assert measure_speeds(encoder, decoder, [tmp_path / "b.jpg"], 4, 2) is None  # type: ignore[arg-type]
