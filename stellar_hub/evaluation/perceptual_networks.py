"""The networks behind LPIPS and rFID: torchmetrics', with weights from their own sources or a local folder."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

INSTALL = "SSIM, LPIPS and rFID are torchmetrics': pip install 'stellar_hub[eval]'"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
LPIPS_URLS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
CHECKPOINTS = "checkpoints"  # the folder of files in torch.hub's


def check_torchmetrics(image: bool = False) -> dict[str, str]:
    """Versions of what metrics of images need.

    Args:
        image: Whether rFID's network is needed too.

    Raises:
        ImportError: if something is not installed.
    """
    names = ["torchmetrics", *(["torch_fidelity"] if image else [])]
    if any(importlib.util.find_spec(name) is None for name in names):
        raise ImportError(INSTALL)
    from importlib.metadata import version

    return {name.replace("_", "-"): version(name) for name in names}


def fetch_weights(urls: Sequence[str], folder: Path | None) -> list[Path]:
    """Files of weights, fetched where they are not there.

    Args:
        urls: Where each comes from.
        folder: As torch.hub lays it out, files being in its `checkpoints`; None takes torch's own.

    Raises:
        OSError: if one is not there and cannot be fetched: all that are missing are named.
    """
    root = Path(torch.hub.get_dir()) if folder is None else folder
    found, missing = [], []
    for url in urls:
        name = url.rpartition("/")[2]
        place = root / CHECKPOINTS / name
        if not place.is_file():
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(place), progress=False)
            except OSError as error:
                missing.append(f"{name} ({url}: {' '.join(str(error).split())})")
        found.append(place)
    if missing:
        raise OSError(
            f"weights of metrics are missing and could not be fetched: {'; '.join(missing)}. Put them into "
            f"{root / CHECKPOINTS}, name their folder with --networks, or leave out --metric lpips and rfid"
        )
    return found


def load_lpips(net: str, folder: Path | None = None) -> Any:
    """LPIPS by torchmetrics: pairs of images `(B, 3, H, W)` in [-1, 1] to distances.

    Raises:
        OSError: if weights are missing and cannot be fetched.
    """
    fetch_weights([LPIPS_URLS[net]], folder)
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    with hub_folder(folder):
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net  # type: ignore[arg-type]


def load_inception(folder: Path | None = None) -> Any:
    """Inception-v3 by torch-fidelity, as rFID uses it: uint8 images `(B, 3, H, W)` to features `(B, 2048)`.

    Raises:
        OSError: if weights are missing and cannot be fetched.
    """
    (file,) = fetch_weights([INCEPTION_URL], folder)
    torch.load(file, map_location="cpu", weights_only=True)  # refuses a file that is more than weights
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file))


@contextmanager
def hub_folder(folder: Path | None) -> Iterator[None]:
    """Inside, torch.hub's folder is another one."""
    before = torch.hub.get_dir()
    try:
        if folder is not None:
            torch.hub.set_dir(str(folder))
        yield
    finally:
        torch.hub.set_dir(before)
