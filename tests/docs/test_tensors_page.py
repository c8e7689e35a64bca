"""docs/reference/tensors.md has the names of all weights: `python .ci/docs/tensors_page.py` writes it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


def test_page__is_that_of_the_model(script: Script) -> None:
    module = script("tensors_page")
    assert module.PAGE.read_text(encoding="utf-8") == module.page_text()


@pytest.mark.parametrize("part", ["vq", "pixel", "training"])
def test_page__has_every_pinned_name(script: Script, data_dir: Path, part: str) -> None:
    contract = json.loads((data_dir / "public_contract.json").read_text())
    keys = contract["pretraining_state_dict_keys"] if part == "training" else contract["state_dict_keys"][part]
    text = script("tensors_page").PAGE.read_text(encoding="utf-8")
    names = {re.sub(r"[.][0-9]+(?=[.])", ".N", key) for key in keys}
    assert {name for name in names if f"| `{name}` |" not in text} == set()
