"""Checks the site that was built: links and their anchors, that nothing is loaded from elsewhere, and public names.

    python .ci/docs/check_site.py site

It prints a line for each problem, and exits with 1 if there are any.
"""

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "tests" / "data" / "public_contract.json"
REFERENCE = ROOT / "docs" / "reference"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
WORDS_OF_LINKS = ("stylesheet", "preload", "preconnect", "icon", "modulepreload", "dns-prefetch")


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has.

    Args:
        text: The page as HTML.
    """

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the attributes of a tag."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if LOADED.get(tag) in found and (tag != "link" or any(word in found["rel"] for word in WORDS_OF_LINKS)):
            self.loaded.append(found[LOADED[tag]])


def read_site(site: Path) -> dict[Path, Page]:
    """Returns the pages of a site by their files."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken_links(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Yields a line for each link within the site that leads nowhere, and each that leaves to a place it should not."""
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("#__"):
                continue
            base = site if parts.path.startswith("/") else path.parent
            place = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = place / "index.html" if place.is_dir() else place
            if not target.is_file():
                yield f"{path.relative_to(site)}: {link} leads to no file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} leads to no anchor"


def loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Yields a line for each script, font, style or image that a browser would fetch from another server."""
    for path, page in pages.items():
        for link in page.loaded:
            if urlsplit(link).netloc:
                yield f"{path.relative_to(site)}: loads {link}"
    for path in sorted(site.rglob("*.css")):
        for link in re.findall(r"url\(\s*['\"]?(https?:[^)'\"]+)|@import\s+['\"](https?:[^'\"]+)", path.read_text()):
            yield f"{path.relative_to(site)}: loads {link[0] or link[1]}"


def public_names() -> list[str]:
    """Returns the anchor of each public name: those of the contract, and `__all__` of each module in the reference."""
    contract = json.loads(CONTRACT.read_text(encoding="utf-8"))
    names = [f"stellar_hub.{name}" for name in contract["public_names"]]
    names += [f"stellar_hub.{owner}.{name}" for owner, members in contract["members"].items() for name in members]
    names += [f"stellar_hub.StellarConfig.{field}" for field in contract["config_fields"]]
    names += [f"stellar-hub-{command.replace(' ', '-')}" for command in contract["command_line"] if command != "eval"]
    for module in documented_modules():
        names += [f"{module}.{name}" for name in getattr(import_module(module), "__all__", ())]
    return names


def documented_modules() -> list[str]:
    """Returns the modules that pages of the reference show as a whole."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    found = re.findall(r"^::: (stellar_hub[\w.]*)$", text, flags=re.MULTILINE)
    return [name for name in found if is_module(name)]


def is_module(name: str) -> bool:
    """Whether a name is that of a module, and not of a class or a function."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


def missing_names(pages: dict[Path, Page]) -> Iterator[str]:
    """Yields a line for each public name without an entry."""
    anchors = set().union(*(page.anchors for page in pages.values()))
    for name in public_names():
        if name not in anchors:
            yield f"{name} has no entry"
    text = (ROOT / "docs" / "reference" / "tensors.md").read_text(encoding="utf-8")
    contract = json.loads(CONTRACT.read_text(encoding="utf-8"))
    keys = [key for kind in contract["state_dict_keys"].values() for key in kind]
    for key in dict.fromkeys([*keys, *contract["pretraining_state_dict_keys"]]):
        if f"`{re.sub(r'[.][0-9]+(?=[.])', '.N', key)}`" not in text:
            yield f"{key} has no line in docs/reference/tensors.md"


def problems_of(site: Path) -> list[str]:
    """Returns a line for each problem of a site."""
    pages = read_site(site)
    if not pages:
        return [f"{site} has no pages: make docs"]
    return [*broken_links(site, pages), *loaded_from_elsewhere(site, pages), *missing_names(pages)]


def main() -> int:
    """Prints the problems, and returns 1 if there are any."""
    problems = problems_of(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve())
    print("\n".join(problems) or "links, anchors and public names: all there")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
