"""Writes docs/recipes.md, a page about the recipes that come with the package, from their YAML files.

    python .ci/docs/recipes_page.py

`tests/docs/test_recipes_page.py` fails while the page differs from the files.
"""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stellar_hub.training.recipes.overrides import described_keys

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "stellar_hub" / "training" / "recipes"
PAGE = ROOT / "docs" / "recipes.md"
HEAD = """<!-- python .ci/docs/recipes_page.py writes this page from the YAML files. Do not edit it. -->

# Recipes

A recipe states every value of a training run: the model, the images and their views, the augmentation, the optimizer
and the run itself. There are no hidden defaults. `--set KEY=VALUE` changes a value, and `--recipe` also takes your own
YAML file. [Train](training.md) explains how a run uses one."""
COLUMNS = (
    "recipe",
    "starts from",
    "image size",
    "length",
    "batch size",
    "learning rate",
    "mask ratio",
    "teacher",
    "objective",
)
KEYS = """## Keys

`stellar-hub train --list-keys` prints this table. `--set` also takes the last part of a key alone, as in
`--set learning_rate=1e-4`, where one section has it. The fields of `model.config` replace those of the model that a run
starts from."""
OPEN = "you choose"
OF_MODEL = "as in the model"


def page_text() -> str:
    """Returns the whole page as Markdown."""
    files = sorted(RECIPES.glob("*.yaml"))
    header = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    rows = ["| " + " | ".join(cells(path)) + " |" for path in files]
    sections = (section_of(path) for path in files)
    return "\n\n".join([HEAD, "\n".join([*header, *rows]), *sections, table_of_keys()]) + "\n"


def table_of_keys() -> str:
    """Returns the keys of a recipe with what each means, from the docstrings of the library."""
    rows = [f"| `{key}` | {words.replace('|', chr(92) + '|')} |" for key, words in described_keys().items()]
    return "\n".join([KEYS, "", "| key | meaning |", "|---|---|", *rows])


def cells(path: Path) -> list[str]:
    """Returns the row of a recipe: its values that people compare."""
    recipe = YAML(typ="safe").load(path)
    config, data, steps = recipe["model"]["config"], recipe["data"], recipe["optimization"]
    length = f"{steps['steps']} steps" if steps["epochs"] is None else f"{steps['epochs']} epochs"
    momentum = config.get("teacher_momentum", OF_MODEL) if config else OF_MODEL
    return [
        f"[`{path.stem}`](#{path.stem})",
        OPEN if recipe["model"]["init"] is None else f"`{recipe['model']['init']}`",
        f"{data['image_size']} pixels" if data["image_size"] else OF_MODEL,
        length,
        str(steps["batch_size"]),
        f"{float(steps['learning_rate']):g}",
        value(config, "mask_ratio"),
        "none" if momentum is None else str(momentum),
        value(config, "token_objective"),
    ]


def value(config: dict[str, Any], name: str) -> str:
    """Returns a value of the configuration as text; a recipe that keeps the model's own value says so."""
    found = config.get(name, OF_MODEL)
    return "none" if found is None else str(found)


def section_of(path: Path) -> str:
    """Returns what the head of a file says, a command that uses it, and a link to the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [line.removeprefix("#").strip() for line in lines[: lines.index("")] if line.startswith("#")]
    model = YAML(typ="safe").load(path)["model"]
    chosen = "runs/stage1/checkpoints/step-N" if model["config"] else "stellar-b16"  # a second stage, or fine-tuning
    start = f" --init {chosen}" if model["init"] is None else ""
    command = f"stellar-hub train --data photos --recipe {path.stem}{start} --output runs/mine"
    link = f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"
    return f"## {path.stem}\n\n{chr(10).join(words)}\n\n```sh\n{command}\n```\n\n{link}"


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
