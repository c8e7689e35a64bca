"""A local Hub that holds the original files, laid out as on the real one, and clients of it: here and in a process."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import transformers
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from stellar_hub.modeling import StellarConfig
from stellar_hub.registry import MODELS, TOKENIZER
from tests.hub_server import HubServer

Run = Callable[..., subprocess.CompletedProcess[str]]

HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}

# Before a script's own lines: the client's pauses between attempts are left out, and its files arrive in small pieces.
IMPATIENT = """\
import time, types
import huggingface_hub.constants, huggingface_hub.file_download, huggingface_hub.utils._http
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
clock = types.SimpleNamespace(**(vars(time) | {"sleep": lambda seconds: None}))
huggingface_hub.file_download.time = huggingface_hub.utils._http.time = clock
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """An empty Hub; the token "hf_writer" may write to "user/...", "hf_reader" nowhere."""
    with HubServer() as server:
        yield server


@pytest.fixture
def original_files(golden_dir: Path) -> dict[str, bytes]:
    """The tiny original checkpoint and the tiny tokenizer, by their published names."""
    return {
        "stellar-b16.safetensors": (golden_dir / "original-vq.safetensors").read_bytes(),
        TOKENIZER.name: (golden_dir / "vqgan.bin").read_bytes(),
    }


def listing(name: str) -> dict[str, object]:
    """What the original repository's config.json says of a model; it is no configuration of transformers."""
    config = StellarConfig.from_pretrained(name)
    return {
        "weights": f"{name}.safetensors",
        "embed_dim": config.hidden_size,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
        "num_sparse_tokens": config.num_sparse_tokens,
        "num_decoder_layers": config.decoder_num_hidden_layers,
        "spatial_temp": config.spatial_temp,
        "num_clusters": config.num_prototypes,
        "do_cls": True,
        "recon_type": "vq",
    }


@pytest.fixture
def published(hub: HubServer, original_files: dict[str, bytes]) -> HubServer:
    """The Hub with both original repositories at their pinned commits; each model is the tiny one."""
    source = MODELS["stellar-b16"].file
    assert source is not None
    names = [name for name, model in MODELS.items() if model.file is not None]
    files = {f"{name}.safetensors": original_files["stellar-b16.safetensors"] for name in names}
    files["config.json"] = json.dumps({"models": {name: listing(name) for name in names}}).encode()
    files["README.md"] = b"---\nlicense: mit\n---\n"
    hub.add(source.repository, files, source.revision)
    hub.add(TOKENIZER.repository, {TOKENIZER.name: original_files[TOKENIZER.name]}, TOKENIZER.revision)
    return hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where the clients keep what they fetched."""
    return tmp_path / "home" / "hub"


@pytest.fixture
def client(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Hub client of this process talks to `hub`, with an empty cache and without pauses."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(cache.parent / "token"),
        "DOWNLOAD_CHUNK_SIZE": 1 << 16,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cache.parent / "harnesses"), raising=False)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # knows the endpoint it was made for
    clock = SimpleNamespace(**(vars(time) | {"sleep": lambda seconds: None}))
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", clock)
    yield
    huggingface_hub.close_session()


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """Runs scripts, one after the other, in one new process whose Hub is `hub`; they must succeed.

    Environment variables are given by keyword; `paths` become globals of the scripts.
    """

    def run_script(
        *scripts: str, paths: dict[str, Path] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        variables |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        given = "\n".join(f"{name} = {str(path)!r}" for name, path in (paths or {}).items())
        done = subprocess.run(
            [sys.executable, "-c", "\n".join((IMPATIENT, given, *map(textwrap.dedent, scripts)))],
            env=variables | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run_script
