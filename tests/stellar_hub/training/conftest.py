"""A tiny recipe and a folder of drawn images: a run with them takes a second or two on one core."""

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.data.scenes.scene import draw_scene
from stellar_hub.training.recipes.files import apply_overrides, from_dict, to_dict
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.train import train
from tests.stellar_hub.hub.conftest import cache, client, hub  # noqa: F401  # fixtures: a Hub, and a client of it

NUM_IMAGES = 6
STEP_2 = "checkpoints/step-000002"
STEP_4 = "checkpoints/step-000004"
# Overrides of the tiny recipe for SOP, with memories that wrap around within a few steps.
SOP = (
    *("token_objective=sop", "model.config.teacher_momentum=0.9"),
    *("sop_memory_size=18", "sop_num_anchors=8", "sop_num_supports=3"),
    *("sop_token_memory_size=14", "sop_num_token_anchors=6", "sop_num_token_supports=2"),
)
SOP_PATCHES = (*SOP, "token_objective=sop_patches", "koleo_weight=0", "reconstruction_weight=0")


def tiny_recipe_values() -> dict[str, dict[str, Any]]:
    """Values of a recipe of four steps for a tiny pixel model; a fresh copy. Folders are to be filled in."""
    return {
        "model": {
            "init": "random",
            "config": {
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": 32,
                "patch_size": 8,
                "num_sparse_tokens": 4,
                "decoder_hidden_size": 32,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 4,
                "reconstruction_head": "pixel",
                "use_tokenizer": False,
                "num_prototypes": 16,
                "prototype_dim": 16,
                "prototype_hidden_size": 32,
                "mask_ratio": 0.5,
            },
            "vqgan": None,
        },
        "data": {
            "sources": [],
            "repeats": [],
            "image_size": 32,
            "local_size": 16,
            "num_global_views": 2,
            "num_local_views": 2,
            "global_area": [0.36, 1.0],
            "local_area": [0.06, 0.36],
            "flip_probability": 0.5,
            "reduced_decoding": False,
            "device_crops": False,
            "num_workers": 0,
        },
        "augmentation": {
            "global_views": True,
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.2,
            "hue": 0.1,
            "jitter_probability": 0.8,
            "grayscale_probability": 0.2,
            "blur_probability": 0.5,
            "blur_sigma": [0.1, 2.0],
            "blur_kernel_size": 5,
        },
        "optimization": {
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "weight_decay": 0.04,
            "betas": [0.9, 0.999],
            "layer_decay": None,
            "clip_norm": 3.0,
            "batch_size": 4,
            "gradient_accumulation_steps": 1,
            "epochs": None,
            "steps": 4,
            "warmup_fraction": 0.0,
            "final_learning_rate": 1e-5,
            "prototype_precision": "fp32",
        },
        "run": {
            "seed": 0,
            "precision": "fp32",
            "gradient_checkpointing": False,
            "compile": False,
            "cuda_graphs": False,
            "log_every": 2,
            "save_every": 2,
            "keep_checkpoints": 2,
            "preview_every": 0,
            "export_every": 0,
            "trackers": [],
            "push_to_hub": None,
            "license": None,
        },
    }


def draw_images(folder: Path, count: int = NUM_IMAGES) -> Path:
    """Fill a folder with drawn scenes of 48 by 64 pixels, `image-0.png` and so on; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image = Image.fromarray(draw_scene(index, 64).image[:48])
        image.save(folder / f"image-{index}.png")
    return folder


def recipe_for(folder: Path, *overrides: str) -> Recipe:
    """The tiny recipe for the images of a folder, with some values replaced, as by `--set`."""
    values = tiny_recipe_values()
    values["data"]["sources"] = [str(folder)]
    return from_dict(apply_overrides(values, overrides))


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    """A recipe with some values replaced, as by `--set`."""
    return from_dict(apply_overrides(to_dict(recipe), overrides))


def journal_of(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's journal."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes meanwhile: writing fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with six small images."""
    return draw_images(tmp_path / "images")


@pytest.fixture
def tiny_recipe(image_folder: Path) -> Recipe:
    """The tiny recipe for `image_folder`: four steps, a checkpoint after two."""
    return recipe_for(image_folder)


@pytest.fixture
def group() -> Iterator[None]:
    """This process is a group of processes of its own."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Finished(NamedTuple):
    """A finished run, which tests share and do not change.

    Attributes:
        output: Its folder.
        recipe: Its recipe with previews and exports switched off, which take time.
        stderr: What it wrote to stderr.
    """

    output: Path
    recipe: Recipe
    stderr: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of four steps: previews at 2 and 4, exports at 3 and at the end."""
    base = tmp_path_factory.mktemp("finished")
    recipe, stderr = recipe_for(draw_images(base / "images")), io.StringIO()
    with redirect_stderr(stderr):
        train(changed(recipe, "preview_every=2", "export_every=3"), base / "run", cpu=True)
    return Finished(base / "run", recipe, stderr.getvalue())


def weights_of(output: Path) -> dict[str, Tensor]:
    """The weights of a run after four steps."""
    return load_file(output / STEP_4 / "model.safetensors")


def assert_same_weights(output: Path, other: Path) -> None:
    """After four steps, both runs have the same weights, bit for bit."""
    torch.testing.assert_close(weights_of(output), weights_of(other), rtol=0, atol=0)
