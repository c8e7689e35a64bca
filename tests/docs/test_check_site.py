"""The checks of the site find what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of two pages, with links between them."""
    (tmp_path / "other").mkdir()
    (tmp_path / "style.css").write_text("a { color: red }")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css"><a href="other/#here">a</a><a href="https://host/page">b</a>'
    )
    (tmp_path / "other" / "index.html").write_text('<h2 id="here">x</h2><a href="../">c</a><a href="/#">d</a>')
    return tmp_path


def test_broken_links__are_none_in_a_whole_site(script: Script, site: Path) -> None:
    module = script("check_site")
    pages = module.read_site(site)
    assert list(module.broken_links(site, pages)) == []
    assert list(module.loaded_from_elsewhere(site, pages)) == []


@pytest.mark.parametrize("link", ["missing.html", "other/#away", "#nowhere", "/missing/", "../outside.html"])
def test_broken_links__names_page_and_link(script: Script, site: Path, link: str) -> None:
    (site / "index.html").write_text(f'<a href="{link}">a</a>')
    module = script("check_site")
    (line,) = module.broken_links(site, module.read_site(site))
    assert line.startswith(f"index.html: {link} ")


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://host/a.js">',
        '<link rel="preconnect" href="//fonts.host">',
        '<img src="http://host/a.png">',
    ],
)
def test_loaded_from_elsewhere__names_what_a_browser_would_fetch(script: Script, site: Path, tag: str) -> None:
    (site / "index.html").write_text(tag)
    module = script("check_site")
    assert len(list(module.loaded_from_elsewhere(site, module.read_site(site)))) == 1


def test_loaded_from_elsewhere__reads_styles(script: Script, site: Path) -> None:
    (site / "style.css").write_text("@font-face { src: url('https://host/font.woff') }")
    module = script("check_site")
    assert list(module.loaded_from_elsewhere(site, module.read_site(site))) == [
        "style.css: loads https://host/font.woff"
    ]


def test_missing_names__are_those_without_an_anchor(script: Script, site: Path, data_dir: Path) -> None:
    module = script("check_site")
    names = module.public_names()
    contract = json.loads((data_dir / "public_contract.json").read_text())
    assert {f"stellar_hub.{name}" for name in contract["public_names"]} < set(names)
    assert {"stellar_hub.editing.drop_tokens", "stellar_hub.StellarModel.encode", "stellar-hub-eval-knn"} < set(names)
    anchors = "".join(f'<a id="{name}"></a>' for name in names if name != "stellar_hub.StellarModel")
    (site / "index.html").write_text(anchors)
    assert list(module.missing_names(module.read_site(site))) == ["stellar_hub.StellarModel has no entry"]
