"""docs/cli.md is what the commands say: `python .ci/docs/cli_page.py` writes it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Script = Callable[[str], ModuleType]


def test_page__is_that_of_the_commands(script: Script) -> None:
    module = script("cli_page")
    assert module.PAGE.read_text(encoding="utf-8") == module.page_text()


def test_page__has_every_command_with_its_options(script: Script, data_dir: Path) -> None:
    sections = dict(
        re.findall(r"^## (stellar-hub [^\n]+)\n(.*?)(?=^## |\Z)", script("cli_page").page_text(), re.M | re.S)
    )
    contract = json.loads((data_dir / "public_contract.json").read_text())["command_line"]
    del contract["eval"]  # it holds commands and is none
    for command, names in contract.items():
        for option in (name for name in names if name.startswith("-")):
            assert re.search(rf"^\| `[^`]*(?<![\w-]){option}(?![\w-])", sections[f"stellar-hub {command}"], re.M), (
                option
            )
