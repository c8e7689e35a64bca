"""The pages of the site: links of the repository lead to pages, and files become pages."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a page, a notebook, a recipe, a changelog and a card with an image."""
    files = {
        "docs/index.md": "[a](notebooks/look.py) [b](../CHANGELOG.md#one) [c](../setup.cfg) [d](https://host/x.py)\n",
        "docs/notebooks/look.py": "# %%\n",
        "docs/recipes.md": "see\n\n[r.yaml](../r.yaml)\n",
        "r.yaml": "a: 1  # [no](../CHANGELOG.md)\n",
        "setup.cfg": "",
        "CHANGELOG.md": "# Changes\n\n[page](docs/index.md)\n",
        "CONTRIBUTING.md": "# Working\n",
        "stellar_hub/checkpoints/stellar-tiny/README.md": "---\nlicense: mit\n---\n# Card\n\n![c](curves.png)\n",
        "stellar_hub/checkpoints/stellar-tiny/curves.png": "image",
        "docs/results/page.md": "[card](../../stellar_hub/checkpoints/stellar-tiny/README.md)\n",
    }
    for name, text in files.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "repository"


def test_links__lead_to_pages(script: Script, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "staged"
    script("staging").stage_pages(target, root)
    page = "[a](notebooks/look.md) [b](changelog.md#one) c [d](https://host/x.py)\n"
    assert (target / "index.md").read_text() == page
    assert (target / "changelog.md").read_text() == "# Changes\n\n[page](index.md)\n"
    assert (target / "results" / "page.md").read_text() == "[card](../stellar-tiny.md)\n"


def test_card__comes_without_metadata_and_with_its_image(script: Script, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "staged"
    script("staging").stage_pages(target, root)
    assert (target / "stellar-tiny.md").read_text() == "# Card\n\n![c](images/curves.png)\n"
    assert (target / "images" / "curves.png").read_text() == "image"


def test_recipe__is_shown_where_a_line_links_to_it(script: Script, root: Path, tmp_path: Path) -> None:
    script("staging").stage_pages(tmp_path / "staged", root)
    shown = "see\n\n```yaml\na: 1  # [no](../CHANGELOG.md)\n```\n"
    assert (tmp_path / "staged" / "recipes.md").read_text() == shown


def test_blocks_with_prompts__are_sessions(script: Script) -> None:
    text = "```python\n>>> 1\n1\n\n```\n\n```python\na = 1\n```"
    assert script("staging").as_sessions(text) == "```pycon\n>>> 1\n1\n```\n\n```python\na = 1\n```"
