"""The calls on the page about the server, made with curl against a server that runs."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarEncoding, StellarImageProcessor, StellarModel
from stellar_hub.serving import Service
from tests.stellar_hub.serving.running import running

ROOT = Path(__file__).parents[2]
CALL = re.compile(r"^curl .*http://127\.0\.0\.1:8000.*$", flags=re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_calls__do_what_the_page_says(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STELLAR_HUB_API_KEY", raising=False)
    shutil.copy(ROOT / "examples" / "images" / "cat.jpg", tmp_path / "photo.jpg")
    calls = CALL.findall((ROOT / "docs" / "serving.md").read_text(encoding="utf-8"))
    assert len(calls) > 5
    service = Service([pixel_model], StellarImageProcessor.from_config(pixel_model.config), name="stellar-tiny")
    with running(service) as address:
        for call in calls:
            local = call.replace("http://127.0.0.1:8000", address).replace("curl ", "curl -sS --fail-with-body ", 1)
            done = subprocess.run(["bash", "-c", local], cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, (call, done.stdout[:500], done.stderr)
    assert StellarEncoding.load(tmp_path / "photo.safetensors").grid_size == (4, 4)
    assert (tmp_path / "decoded.png").read_bytes().startswith(b"\x89PNG")
