"""The examples of README and docs run, and print what they say; links lead to files and headings that exist."""

import doctest
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = ("reference",)  # mkdocstrings writes their headings; `.ci/docs/check_site.py` checks links to them
WITH_EXAMPLES = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as sites and repositories make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", heading)).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", each) for each in words}


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples__print_what_the_page_says(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    failed, _ = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tour.md"])
def test_first_pages__have_examples_that_run(page: str) -> None:
    examples = doctest.DocTestParser().get_examples((ROOT / page).read_text(encoding="utf-8"))
    assert len(examples) > 5


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links__lead_to_files_and_headings_that_exist(page: Path, script: Script) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{name_of(page)} links to {target}"
        if anchor and place.exists() and place.suffix == ".md" and place.parent.name not in GENERATED:
            assert anchor in anchors_of(place), f"{name_of(page)} links to {target}#{anchor}"
