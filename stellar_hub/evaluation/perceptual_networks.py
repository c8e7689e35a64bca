"""The networks of LPIPS and rFID, from torchmetrics, with weights from their own sources or from a local folder."""

import hashlib
import importlib.metadata
import pickle
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stellar_hub.extras import require
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.progress import Progress

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
LPIPS_URLS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
CHECKPOINTS = "checkpoints"  # the folder of weights inside torch.hub's folder
_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth$")  # a published name ends with the first digits of the file's SHA-256


@dataclass(frozen=True)
class MetricNetworks:
    """The networks that metrics of reconstruction need; `load_metric_networks` makes it.

    Attributes:
        lpips: Network of LPIPS, or None.
        inception: Network of rFID, or None.
        backends: Versions of the libraries that compute metrics.
    """

    lpips: Any
    inception: Any
    backends: dict[str, str]


def load_metric_networks(
    metrics: Collection[str], lpips_net: str = "alex", folder: Path | None = None
) -> MetricNetworks:
    """Loads the networks of some metrics.

    Args:
        metrics: Metrics to compute: "psnr", "ssim", "lpips", "rfid".
        lpips_net: Network of LPIPS: "alex", "vgg" or "squeeze".
        folder: Folder with weights in its `checkpoints/`, as torch.hub has it. None means torch.hub's own folder,
            where missing weights are downloaded to.

    Raises:
        ImportError: if a library is not installed.
        OSError: if weights are missing and cannot be downloaded; all missing files are named.
        ValueError: if a file is damaged, or is not the published one.
    """
    needed = set(metrics) - {"psnr"}
    backends = library_versions(inception="rfid" in needed) if needed else {}
    urls = {"lpips": LPIPS_URLS[lpips_net], "rfid": INCEPTION_URL}
    fetch_weights([urls[each] for each in urls if each in needed], folder)  # one error names all that is missing
    lpips = load_lpips(lpips_net, folder) if "lpips" in needed else None
    inception = load_inception(folder) if "rfid" in needed else None
    return MetricNetworks(lpips, inception, backends)


def library_versions(inception: bool = False) -> dict[str, str]:
    """Returns the versions of the libraries that compute metrics.

    Args:
        inception: Whether rFID is among the metrics.

    Raises:
        ImportError: if a library is not installed.
    """
    names = ["torchmetrics"]
    if inception:
        require("torch_fidelity", "eval", "rFID")
        names.append("torch-fidelity")
    return {name: importlib.metadata.version(name) for name in names}


def fetch_weights(urls: Sequence[str], folder: Path | None) -> list[Path]:
    """Returns files of weights, and downloads those that are not there.

    Args:
        urls: Addresses of the files.
        folder: Folder whose `checkpoints/` has the files; None means torch.hub's own.

    Raises:
        OSError: if a file is missing and cannot be downloaded; all missing files are named.
    """
    root = Path(torch.hub.get_dir()) if folder is None else folder
    found, missing = [], []
    for url in urls:
        name = url.rpartition("/")[2]
        path = root / CHECKPOINTS / name
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with Progress(1, "file", f"downloading {name}", leave=False) as progress, progress.keep_showing():
                    torch.hub.download_url_to_file(url, str(path), progress=False)
            except OSError as error:
                missing.append(f"{name} ({url}: {' '.join(str(error).split())})")
        found.append(path)
    if missing:
        raise OSError(
            f"weights of metrics are missing and cannot be downloaded: {'; '.join(missing)}. Put them into "
            f"{root / CHECKPOINTS}, name their folder with --networks, or leave out --metric lpips and rfid"
        )
    return found


def check_weights(file: Path) -> None:
    """Checks a file of weights before libraries load it, which would run code that it holds.

    Raises:
        ValueError: if it is not the published file, is damaged, or holds more than weights.
    """
    published = _DIGEST.search(file.name)
    with open(file, "rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if published and not digest.startswith(published[1]):
        raise ValueError(
            f"{file} is damaged or another file: its SHA-256 begins with {digest[:8]} and must begin with "
            f"{published[1]}, as its name says. Delete it, so that it is downloaded again"
        )
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise ValueError(f"{file} holds no weights, or more than weights: {one_line(error)}") from error


def load_lpips(net: str, folder: Path | None = None) -> Any:
    """Loads LPIPS from torchmetrics: it maps pairs of images `(B, 3, H, W)` in [-1, 1] to distances.

    Raises:
        OSError: if weights are missing and cannot be downloaded.
        ValueError: if the file is damaged, or is not the published one.
    """
    (file,) = fetch_weights([LPIPS_URLS[net]], folder)
    check_weights(file)
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with hub_folder(folder):
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net  # type: ignore[arg-type]


def load_inception(folder: Path | None = None) -> Any:
    """Loads Inception-v3 from torch-fidelity, as rFID uses it: uint8 images `(B, 3, H, W)` to features `(B, 2048)`.

    Raises:
        OSError: if weights are missing and cannot be downloaded.
        ValueError: if the file is damaged, or is not the published one.
    """
    (file,) = fetch_weights([INCEPTION_URL], folder)
    check_weights(file)
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file))


@contextmanager
def hub_folder(folder: Path | None) -> Iterator[None]:
    """Makes torch.hub use another folder inside the block; None changes nothing."""
    before = torch.hub.get_dir()
    try:
        if folder is not None:
            torch.hub.set_dir(str(folder))
        yield
    finally:
        torch.hub.set_dir(before)
