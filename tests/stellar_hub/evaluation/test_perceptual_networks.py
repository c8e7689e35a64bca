"""Networks behind LPIPS and rFID."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from stellar_hub.evaluation import perceptual_networks
from stellar_hub.evaluation.perceptual_networks import (
    INCEPTION_URL,
    LPIPS_URLS,
    MetricNetworks,
    fetch_weights,
    hub_folder,
    library_versions,
    load_inception,
    load_lpips,
    load_metric_networks,
)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be fetched."""

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as torch.hub's, with random weights of the smallest network; their name does not say their hash."""
    monkeypatch.setattr(perceptual_networks, "_DIGEST", re.compile("none"))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    name = LPIPS_URLS["squeeze"].rpartition("/")[2]
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "checkpoints" / name)
    return tmp_path


@pytest.mark.usefixtures("no_network")
def test_lpips__is_torchmetrics_with_the_weights_of_the_folder(hub: Path) -> None:
    before = torch.hub.get_dir()
    network = load_lpips("squeeze", hub)
    assert torch.hub.get_dir() == before
    with hub_folder(hub):
        metric = LearnedPerceptualImagePatchSimilarity(net_type="squeeze", normalize=True, reduction="sum")
    images, others = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = network(images, others, normalize=True).flatten()
        assert found.shape == (2,)
        assert found.sum().item() == pytest.approx(metric(images, others).item(), rel=1e-5)
        torch.testing.assert_close(network(images, images, normalize=True).flatten(), torch.zeros(2))


@pytest.mark.usefixtures("no_network")
def test_missing_weights__are_all_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch-fidelity need not be installed here.
    monkeypatch.setattr(perceptual_networks, "library_versions", lambda inception: {"torch-fidelity": "1"})
    with pytest.raises(OSError, match="--networks") as raised:
        load_metric_networks(("lpips", "rfid"), "alex", tmp_path)
    for part in (LPIPS_URLS["alex"], INCEPTION_URL, str(tmp_path / "checkpoints")):
        assert part in str(raised.value)
    assert load_metric_networks(("psnr",), "alex", tmp_path) == MetricNetworks(None, None, {})


def test_missing_weights__are_fetched_to_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(url: str, target: str, **_: Any) -> None:
        fetched.append(url)
        Path(target).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        (file,) = fetch_weights([INCEPTION_URL], tmp_path)
    assert fetched == [INCEPTION_URL]
    assert file.read_bytes() == b"weights"


def test_a_file_that_is_more_than_weights__is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(perceptual_networks, "_DIGEST", re.compile("none"))
    for url, load in ((INCEPTION_URL, load_inception), (LPIPS_URLS["squeeze"], partial(load_lpips, "squeeze"))):
        torch.save(Path, tmp_path / "checkpoints" / url.rpartition("/")[2])
        with pytest.raises(ValueError, match="more than weights"):
            load(tmp_path)


def test_a_file_that_is_not_the_published_one__is_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"SHA-256 begins with .* and must begin with b8a52dc0"):
        load_lpips("squeeze", hub)


@pytest.mark.slow
def test_inception__gives_2048_features_of_images_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual_networks, "_DIGEST", re.compile("none"))
    # Not in the extra "test": it installs a package of the name "tests", which would hide this folder.
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="of the extra eval")

    (tmp_path / "checkpoints").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # the network itself, before it has weights
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(extractor.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        network = extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "checkpoints" / INCEPTION_URL.rpartition("/")[2])
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    with torch.no_grad():
        features = load_inception(tmp_path)(images)
    assert features.shape == (2, 2048)
    assert features.isfinite().all()


def test_missing_libraries__are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert set(library_versions()) == {"torchmetrics"}
    with pytest.raises(ImportError, match=r"rFID.*stellar_hub\[eval\]"):
        library_versions(inception=True)
