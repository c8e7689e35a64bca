"""Squares of three colours, a tiny model, and a way to train a classifier: a run takes a second or two."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.modeling import StellarModel
from stellar_hub.training.finetuning import FinetuneReport, FinetuneSettings, finetune

COLORS = {"blue": (30, 40, 200), "green": (30, 180, 60), "red": (210, 40, 30)}
Train = Callable[..., FinetuneReport]


def draw_squares(folder: Path, counts: dict[str, int]) -> Path:
    """A square of the class's colour somewhere on noise, 40 x 48 pixels, as many images of each class as said."""
    rng = np.random.default_rng(len(str(folder.name)))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(90, 160, (40, 48, 3), dtype=np.uint8)
            top, left = rng.integers(0, 12, 2)
            pixels[top : top + 26, left : left + 32] = COLORS[name]
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and test folder; red is the majority of the training images, and 3 of 11 test images."""
    root = tmp_path_factory.mktemp("squares")
    train = draw_squares(root / "train", {"blue": 8, "green": 8, "red": 12})
    return train, draw_squares(root / "test", {"blue": 4, "green": 4, "red": 3})


@pytest.fixture(scope="session")
def labelled_train(squares: tuple[Path, Path]) -> LabelledImages:
    """The training images with their labels."""
    return open_labelled(squares[0])


@pytest.fixture(scope="session")
def labelled_test(squares: tuple[Path, Path]) -> LabelledImages:
    """The test images with their labels."""
    return open_labelled(squares[1])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, shared_pixel_model: StellarModel) -> Path:
    """A saved tiny model, decoder included."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    copy.deepcopy(shared_pixel_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings_of(model_folder: Path) -> Callable[..., FinetuneSettings]:
    """Settings for the tiny model, with some values replaced."""

    def make(**changes: Any) -> FinetuneSettings:
        return FinetuneSettings(
            **{"model": str(model_folder), "epochs": 1, "batch_size": 8, "num_workers": 0} | changes
        )

    return make


@pytest.fixture(scope="session")
def trained(
    settings_of: Callable[..., FinetuneSettings], labelled_train: LabelledImages, labelled_test: LabelledImages
) -> Train:
    """Trains on the squares: `trained(output, mode="lora", resume="auto")`."""

    def run(output: Path, resume: Any = None, **changes: Any) -> FinetuneReport:
        return finetune(labelled_train, labelled_test, settings_of(**changes), output, resume=resume, cpu=True)

    return run


@pytest.fixture(scope="session")
def finished(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneReport]:
    """A run of twelve epochs and its report; not to be changed."""
    output = tmp_path_factory.mktemp("finished") / "squares"
    return output, trained(output, epochs=12, learning_rate=2e-3, log_every=5)
