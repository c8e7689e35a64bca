"""What was saved or pushed loads through transformers: with this library, and where it cannot be imported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

from stellar_hub.modeling import StellarConfig, StellarForImageClassification, StellarImageProcessor, StellarModel
from tests.hub_server import HubServer

from .conftest import Run

WITHOUT_LIBRARY = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "stellar_hub":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

# `source` is a folder or a repository, `expected` what this process computes with the same model.
COMPARE = """
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

expected = load_file(expected)
options = {"trust_remote_code": True}
assert AutoConfig.from_pretrained(source, **options).model_type == "stellar"
processor = AutoImageProcessor.from_pretrained(source, **options)
model = AutoModel.from_pretrained(source, **options)
pixel_values = processor(image, return_tensors="pt")["pixel_values"]
with torch.inference_mode():
    encoding = model.encode(pixel_values)
    S, L = encoding
    found = {"pixel_values": pixel_values, "S": S, "L": L, "decoded": model.decode(encoding)}
torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)

extract = pipeline("image-feature-extraction", model=source, image_processor=source, **options)
torch.testing.assert_close(torch.tensor(extract(image)), expected["S"], rtol=1e-6, atol=1e-6)
torch.testing.assert_close(torch.tensor(extract(image, pool=True)), expected["S"].mean(1), rtol=1e-6, atol=1e-6)
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph's stand-in, neither square nor of the model's size."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def compute(model: StellarModel, photo: Path) -> dict[str, Tensor]:
    """All of what another process must find again."""
    pixel_values = StellarImageProcessor.from_config(model.config)(photo)["pixel_values"]
    with torch.inference_mode():
        S, L = model.encode(pixel_values)
        results = {"pixel_values": pixel_values, "S": S, "L": L, "decoded": model.decode(S, L)}
    return {name: tensor.contiguous() for name, tensor in results.items()}


class TestWithoutTheLibrary:
    def test_saved_folder__gives_equal_outputs(
        self, run: Run, vq_model: StellarModel, photo: Path, tmp_path: Path
    ) -> None:
        expected = compute(vq_model, photo)
        save_file(expected, tmp_path / "expected")
        vq_model.save_pretrained(tmp_path / "model")
        check = """
            assert not any(name.split(".")[0] == "stellar_hub" for name in sys.modules)
            assert type(model).__module__.startswith("transformers_modules."), type(model)
            half = AutoModel.from_pretrained(source, decoder=False, dtype=torch.bfloat16, **options)
            assert half.decoder is None and half.dtype == torch.bfloat16
            try:
                model.push_to_hub("user/repo", license="mit")
            except ImportError as error:
                assert "pip install stellar_hub" in str(error), error
            else:
                raise AssertionError("pushed")
            model.save_pretrained(again)
            processor.save_pretrained(again)
            """
        paths = {"source": tmp_path / "model", "expected": tmp_path / "expected", "again": tmp_path / "again"}
        run(WITHOUT_LIBRARY + COMPARE, check, paths=paths | {"image": photo}, HF_HUB_OFFLINE="1")
        # What was saved there is complete as well: code, processor, card.
        assert {path.name for path in (tmp_path / "again").iterdir()} == {
            path.name for path in (tmp_path / "model").iterdir()
        }
        torch.testing.assert_close(
            compute(StellarModel.from_pretrained(tmp_path / "again"), photo), expected, rtol=0, atol=0
        )

    @pytest.mark.slow
    def test_saved_classifier__gives_equal_logits(
        self, run: Run, pixel_model: StellarModel, photo: Path, tmp_path: Path
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "base")
        classifier = StellarForImageClassification.from_pretrained(tmp_path / "base", num_labels=3)
        classifier.save_pretrained(tmp_path / "classifier")
        pixel_values = StellarImageProcessor.from_config(pixel_model.config)(photo)["pixel_values"]
        with torch.inference_mode():
            save_file({"logits": classifier(pixel_values).logits}, tmp_path / "expected")
        check = """
            import torch
            from safetensors.torch import load_file
            from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

            options = {"trust_remote_code": True}
            processor = AutoImageProcessor.from_pretrained(source, **options)
            model = AutoModelForImageClassification.from_pretrained(source, **options)
            assert type(model).__module__.startswith("transformers_modules."), type(model)
            with torch.inference_mode():
                logits = model(**processor(image, return_tensors="pt")).logits
            torch.testing.assert_close(logits, load_file(expected)["logits"], rtol=1e-6, atol=1e-6)
            answers = pipeline("image-classification", model=source, **options)(image, top_k=1)
            assert answers[0]["label"] == model.config.id2label[int(logits.argmax())]
            assert AutoModel.from_pretrained(source, **options).decoder is None
            """
        paths = {"source": tmp_path / "classifier", "expected": tmp_path / "expected", "image": photo}
        run(WITHOUT_LIBRARY, check, paths=paths, HF_HUB_OFFLINE="1")

    @pytest.mark.usefixtures("client")
    def test_pushed_repository__gives_equal_outputs(
        self, hub: HubServer, run: Run, pixel_model: StellarModel, photo: Path, tmp_path: Path
    ) -> None:
        save_file(compute(pixel_model, photo), tmp_path / "expected")
        pixel_model.push_to_hub("user/repo", license="mit", token="hf_writer")
        hub.requests.clear()
        # The card's own example, word for word.
        Image.open(photo).save(tmp_path / "photo.jpg")
        snippet = hub.files("user/repo")["README.md"].decode().split("```python\n")[1].split("```")[0]
        check = "assert S.shape == (1, 4, 48) and L.shape == (1, 16, 4)"
        paths = {"expected": tmp_path / "expected", "image": photo, "source": Path("user/repo")}
        run(WITHOUT_LIBRARY + COMPARE, snippet, check, paths=paths)
        assert hub.count("/modeling_stellar.py") == hub.count("/model.safetensors") == 1


class TestBesideTheLibrary:
    def test_saved_folder__loads_through_its_own_code_before_the_library_is_imported(
        self, run: Run, pixel_model: StellarModel, photo: Path, tmp_path: Path
    ) -> None:
        save_file(compute(pixel_model, photo), tmp_path / "expected")
        pixel_model.save_pretrained(tmp_path / "model")
        check = """
            assert type(model).__module__.startswith("transformers_modules."), type(model)
            import stellar_hub.modeling

            assert type(AutoModel.from_pretrained(source, **options)) is stellar_hub.modeling.StellarModel
            assert type(model).from_pretrained("stellar-tiny").config.patch_size == 8
            """
        paths = {"source": tmp_path / "model", "expected": tmp_path / "expected", "image": photo}
        run(COMPARE, check, paths=paths, HF_HUB_OFFLINE="1")


class TestWithTheLibrary:
    @pytest.fixture(params=["pixel", "vq"])
    def model(self, request: pytest.FixtureRequest) -> StellarModel:
        return request.getfixturevalue(f"{request.param}_model")

    def test_auto_classes__load_a_folder_without_its_code(
        self, model: StellarModel, photo: Path, tmp_path: Path
    ) -> None:
        model.save_pretrained(tmp_path / "model")
        assert type(AutoConfig.from_pretrained(tmp_path / "model")) is StellarConfig
        assert type(AutoImageProcessor.from_pretrained(tmp_path / "model")) is StellarImageProcessor
        loaded = AutoModel.from_pretrained(tmp_path / "model")
        assert type(loaded) is StellarModel
        torch.testing.assert_close(compute(loaded, photo), compute(model, photo), rtol=0, atol=0)

    def test_auto_model__takes_the_librarys_options(self, vq_model: StellarModel, tmp_path: Path) -> None:
        vq_model.save_pretrained(tmp_path / "model")
        loaded, info = AutoModel.from_pretrained(
            tmp_path / "model", decoder=False, dtype=torch.float16, device_map="cpu", output_loading_info=True
        )
        assert loaded.decoder is None
        assert loaded.dtype == torch.float16
        assert not info["missing_keys"] | info["unexpected_keys"]

    def test_pipeline__takes_a_folder(self, model: StellarModel, photo: Path, tmp_path: Path) -> None:
        folder = str(tmp_path / "model")
        model.save_pretrained(folder)
        extract = pipeline("image-feature-extraction", model=folder, image_processor=folder)
        S = compute(model, photo)["S"]
        torch.testing.assert_close(torch.tensor(extract(str(photo))), S, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.tensor(extract(str(photo), pool=True)), S.mean(1), rtol=1e-6, atol=1e-6)

    def test_pipeline__takes_model_and_processor(self, pixel_model: StellarModel, photo: Path) -> None:
        processor = StellarImageProcessor.from_config(pixel_model.config)
        extract = pipeline("image-feature-extraction", model=pixel_model, image_processor=processor)
        expected = compute(pixel_model, photo)["S"]
        torch.testing.assert_close(torch.tensor(extract(str(photo))), expected, rtol=1e-6, atol=1e-6)

    @pytest.mark.usefixtures("client")
    def test_auto_classes__load_a_pushed_repository_without_its_code(
        self, hub: HubServer, pixel_model: StellarModel, photo: Path
    ) -> None:
        pixel_model.push_to_hub("user/repo", license="mit", token="hf_writer")
        hub.requests.clear()
        assert type(AutoImageProcessor.from_pretrained("user/repo")) is StellarImageProcessor
        loaded = AutoModel.from_pretrained("user/repo")
        torch.testing.assert_close(compute(loaded, photo), compute(pixel_model, photo), rtol=0, atol=0)
        assert not any(request.path.endswith(".py") for request in hub.requests)
