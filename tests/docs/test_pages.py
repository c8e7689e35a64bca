"""Every page is in the navigation of the site, and lists in the pages are complete."""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ruamel.yaml import YAML

Script = Callable[[str], ModuleType]
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages_of(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    else:
        for entry in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from pages_of(entry)


def test_navigation__has_every_page_once(script: Script) -> None:
    listed = sorted(pages_of(YAML(typ="safe").load(ROOT / "mkdocs.yml")["nav"]))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    notebooks = [path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.py")]
    staging = script("staging")
    assert listed == sorted([*pages, *notebooks, *staging.ELSEWHERE.values()])


def test_install__lists_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (DOCS / "install.md").read_text(encoding="utf-8")
    assert {name for name in extras if f"| `{name}` |" not in text} == {"test", "dev"}


def test_results__name_every_benchmark_that_writes_into_a_page() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "results").glob("*.md"))
    for script in (ROOT / "benchmarks").glob("*.py"):
        for page in re.findall(r"--update-docs (docs/\S+\.md)", script.read_text()):
            assert (ROOT / page).is_file(), f"{script.name} names {page}"
            assert f"benchmarks/{script.name}" in text


def test_reference__shows_every_room_with_public_names() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    rooms = {path.parent.name for path in (ROOT / "stellar_hub").glob("*/__init__.py") if "__all__" in path.read_text()}
    shown = {name for name in rooms if re.search(rf"^::: stellar_hub\.{name}\b", text, flags=re.MULTILINE)}
    assert rooms - shown == {"modeling"}  # its public names are those of stellar_hub itself
