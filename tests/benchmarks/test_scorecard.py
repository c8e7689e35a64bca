"""The benchmark that makes the scorecard of the docs: its data, and where its tables go."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from stellar_hub.data.labelled import open_labelled, read_segmentation_folder
from stellar_hub.data.scenes import SCENE_CLASSES

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scorecard.py"


@pytest.fixture(scope="module")
def scorecard() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("scorecard", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits__are_all_there_once_with_their_class(scorecard: ModuleType, tmp_path: Path) -> None:
    scorecard.write_digits(tmp_path)
    train, test = (open_labelled(tmp_path / "classes" / split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == test.classes == tuple("0123456789")
    digits = load_digits()
    number = 1234
    found = np.array(Image.open(tmp_path / "classes" / "train" / str(digits.target[number]) / f"{number}.png"))
    np.testing.assert_allclose(found / 255 * 16, digits.images[number], atol=0.04)


def test_scenes__are_of_seeds_that_training_never_draws_with_masks_that_fit(
    scorecard: ModuleType, tmp_path: Path
) -> None:
    scorecard.write_scenes(tmp_path, {"train": 6, "test": 3})
    scorecard.write_scenes(tmp_path, {"train": 6, "test": 3})  # what is there stays
    for split, count in (("train", 6), ("test", 3)):
        labelled = open_labelled(tmp_path / "classes" / split)
        masked = read_segmentation_folder(tmp_path / "masks" / split)
        assert len(labelled) == len(masked) == count
        assert masked.classes == ("background", *SCENE_CLASSES)
        seeds = {int(path.stem) for path in masked.images}
        assert min(seeds) >= scorecard.FIRST_SEED[split]
        largest = {}
        for index, path in enumerate(masked.images):
            counts = masked.mask(index).flatten().bincount(minlength=9)
            assert counts[1:].sum() > 0
            largest[path.stem] = counts
        for index in range(count):
            name = labelled.classes[labelled.labels[index]]
            assert largest[Path(str(labelled.images[index])).stem][1 + SCENE_CLASSES.index(name)] > 0


def test_tables__go_into_their_section(scorecard: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- scorecard digits -->\nold\n<!-- /scorecard digits -->\n\nb\n")
    scorecard.update_docs(page, "digits", [])
    text = page.read_text()
    assert text == "a\n\n<!-- scorecard digits -->\n## scikit-learn's digits\n<!-- /scorecard digits -->\n\nb\n"
