"""Blocks of the pages that are no sessions run as well: Python on tiny models, and commands as far as their options.

Python runs in a folder where the files have the names that the pages use: a model, a checkpoint, a repository.
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import torch
import typer
from torch import Tensor

from stellar_hub import serving
from stellar_hub.app import serve
from stellar_hub.cli.main import app
from stellar_hub.modeling import StellarConfig, StellarForImageClassification, StellarImageProcessor, StellarModel
from tests.stellar_hub.training.finetuning.conftest import draw_squares

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
HEADS = {"num_attention_heads": 3, "decoder_num_attention_heads": 4}  # of the tiny checkpoints
OTHER_PROGRAMS = ("hf", "bash", ".", "curl")


def blocks_of(kind: str) -> Iterator[Any]:
    """The blocks of a language, with the page and the number of each."""
    for page in PAGES:
        found = [text for language, text in BLOCK.findall(page.read_text(encoding="utf-8")) if language == kind]
        for number, text in enumerate(found):
            if not text.startswith(">>> "):
                yield pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}-{number}")


def lines_of(text: str) -> list[str]:
    """The commands of a block, each on one line."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#") and " | " not in line]


@pytest.fixture
def world(
    tmp_path: Path,
    golden_dir: Path,
    pixel_model: StellarModel,
    vq_model: StellarModel,
    views: dict[str, Tensor],
    tiny_options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """A folder with what the pages name, and the variables that they take as given."""
    monkeypatch.chdir(tmp_path)
    for name, model in {"user/my-model": pixel_model, "runs/mine/model": pixel_model, "stellar-b16": vq_model}.items():
        model.save_pretrained(tmp_path / name)
        StellarImageProcessor.from_config(model.config).save_pretrained(tmp_path / name)
    StellarForImageClassification.from_pretrained("runs/mine/model", num_labels=3).save_pretrained(
        tmp_path / "runs" / "classifier" / "model"
    )
    for split, count in (("train", 4), ("test", 2)):
        draw_squares(tmp_path / "photos" / split, {"blue": count, "red": count})
    shutil.copy(golden_dir / "original-vq.safetensors", "stellar-b16.safetensors")
    shutil.copy(golden_dir / "vqgan.bin", "maskgit-vqgan-imagenet-f16-256.bin")
    shutil.copy(ROOT / "examples" / "images" / "cat.jpg", "photo.jpg")
    for function in ("convert_original", "load_original"):  # widths do not tell the heads of tiny models
        module = __import__("stellar_hub.conversion", fromlist=[function])
        monkeypatch.setattr(module, function, partial(getattr(module, function), **HEADS))
    monkeypatch.setattr("stellar_hub.StellarConfig", partial(StellarConfig, **tiny_options), raising=False)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    for module, function in (("app", serve), ("serving", serving.serve)):  # they would serve until somebody stops them
        monkeypatch.setattr(f"stellar_hub.{module}.serve", create_autospec(function))
    return {name: views[name] for name in ("pixel_values", "global_views", "local_views")}


@pytest.mark.parametrize("text", list(blocks_of("python")))
def test_python__runs(text: str, world: dict[str, Any]) -> None:
    torch.manual_seed(0)
    exec(compile(text, "<page>", "exec"), world)


@pytest.mark.parametrize("text", list(blocks_of("sh")))
def test_commands__have_options_and_files_that_exist(text: str) -> None:
    commands = lines_of(text)
    for line in commands:
        words = shlex.split(line, comments=True)
        check_command(words)


def check_command(words: list[str]) -> None:
    """Checks one command: those of stellar-hub are parsed, and of others the files and the options are looked for."""
    if "stellar_hub" in words and "-m" in words:  # python -m, accelerate launch -m
        words = ["stellar-hub", *words[words.index("stellar_hub") + 1 :]]
    if words[0] == "stellar-hub":
        parse(words[1:])
    elif words[0] == "python" and words[1].endswith(".py"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        missing = [word for word in words[2:] if word.startswith("--") and f'"{word.split("=")[0]}"' not in source]
        assert not missing, f"{words[1]} does not know {missing}"
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["pip", "install"]:
        check_extras(" ".join(words[2:]))
    else:
        assert words[0] in OTHER_PROGRAMS or words[:3] == ["python", "-m", "http.server"], words


def parse(words: list[str]) -> None:
    """Parses a command as `stellar-hub` does, and runs nothing."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def check_extras(text: str) -> None:
    """Checks the extras of an installation."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r"(?:stellar_hub|\.)\[([a-z,]+)\]", text):
        assert set(found.split(",")) <= set(extras)
