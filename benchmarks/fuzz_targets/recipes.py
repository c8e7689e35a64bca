"""Recipes, and lists of `--set`: YAML that is damaged, hostile or wrong is refused in one line, or has the right types.

The first line of a file may name overrides, as `# --set KEY=VALUE` lines: a case is one file.
"""

import dataclasses
import itertools
import random
import warnings
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from fuzz_targets import SilentDifference, refusal

MARK = b"# --set "
KEYS = (
    *("optimization.learning_rate", "optimization.batch_size", "optimization.betas", "optimization.epochs", "steps"),
    *("model.config.hidden_size", "model.config.num_hidden_layers", "model.config.mask_ratio", "model.init", "model"),
    *("data.sources", "data.repeats", "data.global_area", "data.num_workers", "data.root", "augmentation.blur_sigma"),
    *("run.seed", "run.precision", "run.trackers", "run.license", "run.push_to_hub", "run.save_every", "run"),
    *("optimization.lr", "nothing.at.all", "model.config.nothing", "\x1b[31mred", "", "a\nb", "model.config"),
)
VALUES = (
    *("", "~", "null", "true", "yes", "-1", "0", "1", "3.5", "1e-4", "1e999", "-.inf", ".nan", "9" * 30, "9" * 4290),
    *("9" * 5000, "-" + "9" * 60, "0x10", "0o17", "1_000", "08", "1:30", "2024-01-01", "2024-01-01T00:00:00Z"),
    *("!!timestamp 2024-01-01", "!!python/object/apply:os.system [id]", "!!binary aGk=", "!!set {a, b}", "!!int 3"),
    *("!!float .nan", "!!python/name:os.system", "&a [*a]", "*nobody", "<<: *a", "{<<: {a: 1}}", "[1, [2, [3]]]"),
    *("[" * 60 + "]" * 60, "[" * 5000, "{a: " * 60 + "}" * 60, "{a: {b: {c: 1}}}", "[]", "{}", "[~]", "[true]"),
    *("'\x1b[2J'", '"\\e[31m"', '"\\u202e"', '"a\\nb"', "\t1", "a: b: c", "[1", "'", "|\n  text", ">-\n  text", "%TAG"),
    *("https://me:secret@host/a.tar?sig=1", "stream:https://me:secret@host/a.tar", "? a", "- 1\n- 2", "@x", "`x`"),
    *(
        "[0.9, 0.95]",
        "[0.9]",
        "[a, b]",
        "[1, 2, 3]",
        "auto",
        "fp32",
        "adamw",
        "tensorboard",
        "[tensorboard]",
        "\ufeff1",
    ),
)


def make(rng: random.Random, folder: Path) -> Path:
    """Writes a mutated recipe."""
    shipped = resources.files("stellar_hub.training") / "recipes" / f"{rng.choice(SHIPPED)}.yaml"
    text = shipped.read_text(encoding="utf-8")
    data = text.encode()
    overrides = b""
    kind = rng.random()
    if kind < 0.45:
        for _ in range(rng.randint(1, 3)):
            text = rng.choice(MUTATIONS)(rng, text)
        data = text.encode(errors="surrogateescape")
    elif kind < 0.65:
        data = damaged(rng, data)
    else:
        pairs = [f"{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.randint(1, 3))]
        overrides = b"".join(MARK + pair.encode().replace(b"\n", b"\\n") + b"\n" for pair in pairs)
    path = folder / "recipe.yaml"
    path.write_bytes(overrides + data)
    return path


def prepare() -> None:
    """Loads a shipped recipe once: importing the trainer takes seconds, which are no part of a case."""
    from stellar_hub.training.recipes.files import load_recipe

    load_recipe(SHIPPED[0])


def attempt(path: Path) -> str:
    """Loads the recipe with its overrides and checks the types of all values."""
    from stellar_hub.training.recipes.files import from_dict, load_recipe, to_dict

    lines = [line for line in path.read_bytes().split(b"\n") if line.startswith(MARK)]
    overrides = [line.removeprefix(MARK).decode(errors="replace").replace("\\n", "\n") for line in lines]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            recipe = load_recipe(path, overrides)
    except (ValueError, OSError) as error:
        if "secret" in str(error):
            raise SilentDifference(f"the message has a password: {error}") from error
        return refusal(error, path.name)
    check_types(recipe)
    if from_dict(to_dict(recipe)) != recipe:
        raise SilentDifference("the recipe does not come back from its own values")
    return "ok"


def check_types(recipe: Any) -> None:
    """Raises SilentDifference if a value of an accepted recipe has another type than its annotation says."""
    for section in ("model", "data", "augmentation", "optimization", "run"):
        settings = getattr(recipe, section)
        for field in dataclasses.fields(settings):
            value, annotation = getattr(settings, field.name), str(field.type)
            words = {"NoneType": "None", "tuple": "tuple", "dict": "dict", "str": "str"}
            name = type(value).__name__
            if "typing.Literal" in annotation:
                continue
            expected = annotation if not isinstance(field.type, type) else field.type.__name__
            if words.get(name, name) not in expected and not (name == "str" and "Literal" in expected):
                raise SilentDifference(f"{section}.{field.name} has the type {name}, not {expected}")


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Returns bytes that are cut, changed, or begin with something else."""
    choice = rng.randrange(8)
    if choice == 0:
        return data[: rng.randrange(len(data))]
    if choice == 1:
        return rng.choice([b"", b"\xef\xbb\xbf", b"\n", b"\x00", b"---\n...\n", b"[]", b"3"])
    if choice == 2:
        return (
            rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"%YAML 1.1\n---\n", b"--- \n", b"\t", b"\xef\xbb\xbf" * 2])
            + data
        )
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed))
        changed[place] = rng.choice([rng.randrange(256), 0x1B, 0x09, 0x80, 0x00, 0x0D])
    return bytes(changed)


def _other_value(rng: random.Random, text: str) -> str:
    """Gives one key another value."""
    lines = text.splitlines()
    place = rng.choice([number for number, line in enumerate(lines) if ":" in line])
    lines[place] = lines[place].partition(":")[0] + ": " + rng.choice(VALUES)
    return "\n".join(lines) + "\n"


def _line_twice(rng: random.Random, text: str) -> str:
    """Writes one line, or a section, twice."""
    lines = text.splitlines()
    first = rng.randrange(len(lines))
    return "\n".join([*lines, *lines[first : first + rng.randint(1, 20)]]) + "\n"


def _line_left_out(rng: random.Random, text: str) -> str:
    """Leaves a line out."""
    lines = text.splitlines()
    del lines[rng.randrange(len(lines))]
    return "\n".join(lines) + "\n"


def _unknown_key(rng: random.Random, text: str) -> str:
    """Adds a key that no recipe has."""
    lines = text.splitlines()
    key = rng.choice(
        ["lr", "nothing", '"\\e[31m"', "? [a]", "3", "~", "<<", "!!python/name:os.system x", "\x1b", "a" * 900]
    )
    lines.insert(rng.randrange(len(lines)), f"  {key}: {rng.choice(VALUES)}")
    return "\n".join(lines) + "\n"


def _aliases(rng: random.Random, text: str) -> str:
    """Adds aliases of aliases, which stand for gigabytes."""
    names = "abcdefgh"
    bomb = [f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x]"]
    for before, name in itertools.pairwise(names):
        bomb.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(bomb) + "\n" + text if rng.random() < 0.5 else text + "\n".join(bomb) + "\n"


def _tabs(rng: random.Random, text: str) -> str:
    """Indents some lines by tabs."""
    return "\n".join(line.replace("  ", "\t", 1) if rng.random() < 0.1 else line for line in text.splitlines())


SHIPPED = ("b16", "finetune", "stellar-tiny", "scratch-stage1")
Mutation = Callable[[random.Random, str], str]
MUTATIONS: tuple[Mutation, ...] = (
    *(_other_value, _other_value, _other_value, _line_twice, _line_left_out, _unknown_key, _aliases, _tabs),
)
