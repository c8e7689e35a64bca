"""Gathers the pages of the site in one folder: those of `docs/`, and those that other files of the repository give.

`docs/` reads well in the repository, where links lead to files. In the site, the same links lead to pages: the
changelog, the card of stellar-tiny and the notebooks have one each, and a link to a recipe shows the recipe.
"""

import re
import shutil
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Files outside of docs/ that have a page of their own in the site.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "stellar_hub/checkpoints/stellar-tiny/README.md": "stellar-tiny.md",
}
IMAGES = (".png", ".jpg", ".svg")
LINK = re.compile(r"\[([^\]\[]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
SHOWN = re.compile(r"\[[^\]]*\]\(([^)\s]+\.yaml)\)")


def stage_pages(target: Path, root: Path = ROOT) -> list[Path]:
    """Writes all pages but the notebooks' to an empty folder, with the images that they show, and returns the pages."""
    docs = root / "docs"
    for path in sorted(docs.rglob("*")):
        if path.is_file() and path.suffix in (".css", *IMAGES):
            copy(path, target / path.relative_to(docs))
    pages = {path: target / path.relative_to(docs) for path in sorted(docs.rglob("*.md"))}
    pages |= {root / name: target / page for name, page in ELSEWHERE.items()}
    for source, page in pages.items():
        page.parent.mkdir(parents=True, exist_ok=True)
        text = without_metadata(source.read_text(encoding="utf-8")) if source.parent != docs else source.read_text()
        page.write_text(page_text(text, source, page, target, root), encoding="utf-8")
    return list(pages.values())


def without_metadata(text: str) -> str:
    """Drops the metadata of a model card."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def page_text(text: str, source: Path, page: Path, target: Path, root: Path) -> str:
    """Returns a page as the site has it.

    Args:
        text: Page as the repository has it.
        source: File of the repository that it comes from.
        page: File in the staging folder that it goes to.
        target: Staging folder.
        root: Root of the repository.
    """

    def replace(found: re.Match[str]) -> str:
        words, link, anchor = found.groups()
        place = (source.parent / link).resolve()
        home = home_of(place, target, root)
        if home is None and place.suffix in IMAGES and place.is_file():
            home = copy(place, target / "images" / place.name)
        if home is None:
            return words if place.exists() else found[0]
        return f"[{words}]({relpath(home, page.parent)}{anchor or ''})"

    lines = [shown_file(line, source) if SHOWN.fullmatch(line) else line for line in text.splitlines()]
    parts = [part if is_code else LINK.sub(replace, part) for part, is_code in split_at_fences("\n".join(lines))]
    return as_sessions("".join(parts)) + "\n"


def home_of(place: Path, target: Path, root: Path) -> Path | None:
    """Returns the file in the staging folder that a file of the repository has become, or None if it has none."""
    if not place.is_relative_to(root):
        return None
    name = place.relative_to(root).as_posix()
    if name in ELSEWHERE:
        return target / ELSEWHERE[name]
    if not name.startswith("docs/"):
        return None
    page = target / name.removeprefix("docs/")
    return page.with_suffix(".md") if page.suffix == ".py" else page


def shown_file(line: str, source: Path) -> str:
    """Returns the file that a line links to as a block of YAML."""
    found = SHOWN.fullmatch(line)
    assert found is not None
    return f"```yaml\n{(source.parent / found[1]).read_text(encoding='utf-8').rstrip()}\n```"


def split_at_fences(text: str) -> Iterator[tuple[str, bool]]:
    """Yields the parts of a page, and whether each is a block of code."""
    end = 0
    for fence in re.finditer(r"^( *)(```+)[^\n`]*\n.*?^\1\2 *$", text, flags=re.DOTALL | re.MULTILINE):
        yield text[end : fence.start()], False
        yield fence[0], True
        end = fence.end()
    yield text[end:], False


def as_sessions(text: str) -> str:
    """Marks blocks of Python that begin with a prompt as sessions, and drops the empty line that doctest needs."""
    text = re.sub(r"^( *)```python\n(?=\s*>>> )", r"\1```pycon\n", text, flags=re.MULTILINE)
    return re.sub(r"\n\n( *```)$", r"\n\1", text, flags=re.MULTILINE)


def copy(source: Path, target: Path) -> Path:
    """Copies a file, and returns its new place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
