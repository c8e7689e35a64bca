"""Images whose colour tells their class, images with masks, and a tiny model as a backbone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.evaluation.cached_features import RunSettings
from stellar_hub.evaluation.splits import Splits, prepare_splits
from stellar_hub.features.backbones import PixelBackbone
from stellar_hub.features.backbones.backbone import BackboneFacts, preprocessing_of
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.identity import weights_hash
from stellar_hub.modeling import StellarImageProcessor, StellarModel

COLORS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (200, 50, 40)}


def paint_classes(folder: Path, counts: dict[str, int], seed: int) -> Path:
    """Writes noisy images of 24 x 20 pixels; each class has a colour."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            values = np.array(COLORS[name]) + rng.normal(0, 40, (20, 24, 3))
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(folder / name / f"{seed}-{number}.png")
    return folder


def paint_masks(folder: Path, count: int, seed: int) -> Path:
    """Writes images of 32 x 32 pixels whose left part has one of two colours, and their masks of three classes."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "classes.txt").write_text("background\nred\nblue\n")
    for number in range(count):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:, : int(rng.integers(8, 25))] = 1 + number % 2
        color = np.array([(120, 120, 120), COLORS["red"], COLORS["blue"]])[mask]
        values = (color + rng.normal(0, 20, (32, 32, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    return folder


@pytest.fixture
def run() -> RunSettings:
    """One process, small batches, no bars."""
    return RunSettings(batch_size=4, num_workers=0, show_progress=False)


@pytest.fixture(scope="session")
def image_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders `train` with 13 images and `test` with 7 images of three classes; tests must not change them."""
    root = tmp_path_factory.mktemp("classes")
    train = paint_classes(root / "train", {"blue": 5, "green": 4, "red": 4}, 1)
    return train, paint_classes(root / "test", {"blue": 3, "green": 2, "red": 2}, 2)


@pytest.fixture(scope="session")
def mask_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with images and masks: 9 to learn from, 5 to measure on; tests must not change them."""
    root = tmp_path_factory.mktemp("masks")
    return paint_masks(root / "train", 9, 1), paint_masks(root / "test", 5, 2)


@pytest.fixture
def train(image_folders: tuple[Path, Path]) -> LabelledImages:
    """The 13 images to learn from."""
    return open_labelled(image_folders[0])


@pytest.fixture
def test(image_folders: tuple[Path, Path]) -> LabelledImages:
    """The 7 images to measure on."""
    return open_labelled(image_folders[1])


@pytest.fixture
def splits(train: LabelledImages, test: LabelledImages, run: RunSettings) -> Splits:
    """The images to learn from and to measure on."""
    return prepare_splits(train, test, run)


@pytest.fixture
def pixels() -> PixelBackbone:
    """Raw pixels."""
    return PixelBackbone.load()


@pytest.fixture
def tiny(pixel_model: StellarModel) -> StellarBackbone:
    """The tiny STELLAR model as a backbone: 4 tokens, a grid of 4 x 4 at 32 pixels."""
    processor = StellarImageProcessor.from_config(pixel_model.config)
    facts = BackboneFacts(
        "tiny", "stellar", "of a test", None, weights_hash(pixel_model), 1, preprocessing_of(processor)
    )
    return StellarBackbone(facts, pixel_model, processor)
