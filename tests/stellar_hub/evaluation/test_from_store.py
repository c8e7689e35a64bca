"""Features out of a store."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.cli.main import app
from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.data.sources import open_sources
from stellar_hub.evaluation import cached_features
from stellar_hub.evaluation.from_store import check_stores, features_of_labelled, open_stores, stored_features
from stellar_hub.evaluation.left_out import UnreadableImagesError
from stellar_hub.features.backbones import open_backbone
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.store.plan import ExtractionOptions
from stellar_hub.store.to_store import extract_to_store
from tests.stellar_hub.data.sources.conftest import png

NAMES = ["a.png", "b.png", "c.png"]
LABELLED = LabelledImages("mine", [Path(name) for name in NAMES], (0, 1, 0), ("x", "y"))


class Store:
    """Rows in memory, in an order of its own."""

    def __init__(self, names: Sequence[str], outputs: tuple[str, ...] = ("S", "L", "pooled"), failed: str = ""):
        self.names = names
        self.outputs = outputs
        self.failed = failed

    def __len__(self) -> int:
        return len(self.names)

    def read(self, output: str, rows: Sequence[int]) -> Tensor:
        shape = {"S": (2, 3), "L": (4, 2), "pooled": (3,)}[output]
        return torch.stack([torch.full(shape, float(ord(self.names[row][0]))) for row in rows]).half()

    def records(self, rows: Sequence[int]) -> list[SimpleNamespace]:
        errors = ["it is broken" if self.names[row] == self.failed else None for row in rows]
        return [SimpleNamespace(image=self.names[row], error=error) for row, error in zip(rows, errors, strict=True)]


def test_store__is_read_in_the_order_of_the_images() -> None:
    found = features_of_labelled(Store(["c.png", "a.png", "d.png", "b.png"]), LABELLED, ["pooled", "S", "Z"])
    letters = torch.tensor([float(ord(letter)) for letter in "abc"])
    assert torch.equal(found.features["pooled"], letters[:, None].expand(-1, 3))
    assert found.features["S"].shape == (3, 2, 3)
    torch.testing.assert_close(found.features["Z"], (2 * letters**2)[:, None, None].expand(-1, 4, 3))
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 0]


def test_what_a_store_lacks__is_named() -> None:
    with pytest.raises(ValueError, match="cls, patches; it has S, L, pooled"):
        features_of_labelled(Store(NAMES), LABELLED, ["cls", "patches_mean"])
    with pytest.raises(ValueError, match=r"1 of the 3 images of mine.*c\.png"):
        features_of_labelled(Store(NAMES[:2]), LABELLED, ["pooled"])
    with pytest.raises(UnreadableImagesError) as raised:
        features_of_labelled(Store(NAMES, failed="b.png"), LABELLED, ["pooled"])
    assert raised.value.reasons == {1: "it is broken"}
    assert raised.value.complete


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of grey images to learn from and to measure on, a tiny model, and its stores."""
    base = tmp_path_factory.mktemp("stores")
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
    model = StellarModel(StellarConfig(**sizes, num_sparse_tokens=4, use_decoder=False)).eval()
    model.save_pretrained(base / "model")
    model = StellarModel.from_pretrained(base / "model")
    color = 0
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            for name, start in (("dark", 0), ("light", 200)):
                path = base / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                color += 1
                path.write_bytes(png(start + color, side=40))
        options = ExtractionOptions(outputs=("S", "pooled", "cls"), dtype="float32")
        source = open_sources([base / split])
        extract_to_store(model, source, base / f"{split}-store", options, show_progress=False)
    return base


def evaluate(base: Path, output: Path, *options: str) -> Any:
    data = ["--train", str(base / "train"), "--test", str(base / "test"), "--model", str(base / "model")]
    fixed = ["--k", "3", "--pooling", "pooled", "--pooling", "cls", "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        app(["eval", "knn", *data, *fixed, *options], standalone_mode=True)
    assert ended.value.code in (0, None)
    (file,) = output.glob("*.json")
    return json.loads(file.read_text())


def test_report__has_the_numbers_of_the_images(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(base, tmp_path / "images")
    monkeypatch.setattr(cached_features, "BatchEncoder", None)  # nothing may be computed
    stores = [f"--store={base / split}-store" for split in ("train", "test")]
    found = evaluate(base, tmp_path / "stores", *stores)
    assert found["measurements"] == expected["measurements"]
    assert any("train-store" in note and "float32" in note for note in found["notes"])


def test_store_of_other_weights__is_refused(base: Path) -> None:
    stores = open_stores([base / "train-store"])
    with pytest.raises(ValueError, match="other weights"):
        check_stores(stores, [open_backbone(f"{base / 'model'}:random", seed=1)])
    with pytest.raises(ValueError, match=r"pixels: .*other weights"):
        check_stores(stores, [open_backbone("pixels")])


def test_store_without_the_images__is_named(base: Path) -> None:
    backbone = open_backbone(str(base / "model"))
    with pytest.raises(ValueError, match="6 of the 6 images"):
        stored_features(open_stores([base / "train-store"]), backbone, open_labelled(base / "test"), ["cls"])


def test_store_of_exchanged_or_damaged_files__is_refused(base: Path, tmp_path: Path) -> None:
    backbone = open_backbone(str(base / "model"))
    shutil.copytree(base / "test", tmp_path / "test")
    options = ExtractionOptions(outputs=("cls",), dtype="float32")
    model = StellarModel.from_pretrained(base / "model")
    extract_to_store(model, open_sources([tmp_path / "test"]), tmp_path / "store", options, show_progress=False)
    labelled = open_labelled(tmp_path / "test")
    assert stored_features(open_stores([tmp_path / "store"]), backbone, labelled, ["cls"]) is not None
    image = tmp_path / "test" / "dark" / "0.png"
    times = image.stat()
    os.utime(image, (1, 1))
    with pytest.raises(ValueError, match=r"rows 0 to 5 .*changed since"):
        stored_features(open_stores([tmp_path / "store"]), backbone, labelled, ["cls"])
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    shard = tmp_path / "store" / "shards" / "000000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-500] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="rows 0 to 5 cannot be trusted"):
        stored_features(open_stores([tmp_path / "store"]), backbone, labelled, ["cls"])


def test_other_models__are_computed(base: Path) -> None:
    stores = open_stores([base / "train-store"])
    assert stored_features(stores, open_backbone("pixels"), open_labelled(base / "train"), ["pixels"]) is None


def test_features__are_those_the_model_computes(base: Path) -> None:
    backbone, labelled = open_backbone(str(base / "model")), open_labelled(base / "test")
    names = ["cls", "S"]
    stored = stored_features(open_stores([base / "train-store", base / "test-store"]), backbone, labelled, names)
    computed = cached_features.all_features(backbone, labelled.images, names, cached_features.RunSettings())
    assert stored is not None
    for name in names:
        torch.testing.assert_close(stored.features[name], computed[name], rtol=1e-5, atol=1e-5)
    assert stored.labels is not None
    assert stored.labels.tolist() == list(labelled.labels)
