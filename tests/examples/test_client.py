"""The example that calls a server."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.serving import Service
from tests.stellar_hub.serving.running import running

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_client__encodes_compares_and_decodes(
    pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("client", EXAMPLES / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images = [EXAMPLES / "images" / name for name in ("cat.jpg", "coffee.jpg")]
    processor = StellarImageProcessor.from_config(pixel_model.config)
    with running(Service([pixel_model], processor), key="k") as address:
        with pytest.raises(SystemExit, match="401"):
            module.Client(address).embed(images)
        monkeypatch.setenv("STELLAR_HUB_API_KEY", "k")
        module.main([*map(str, images), "--url", address, "--output", str(tmp_path / "out.png")])
        codes = module.Client(address, "k").encode(images)
    expected = pixel_model.encode(processor([str(path) for path in images], return_tensors="pt")["pixel_values"])
    np.testing.assert_allclose(codes["semantics"], expected.semantics.detach().numpy(), atol=1e-6)
    assert Image.open(tmp_path / "out.png").size == (32, 32)
    assert "coffee.jpg: cosine similarity with cat.jpg" in capsys.readouterr().out
