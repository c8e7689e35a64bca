"""docs/recipes.md is what the YAML files say: `python .ci/docs/recipes_page.py` writes it."""

from collections.abc import Callable
from types import ModuleType

from stellar_hub.training.recipes import recipe_names

Script = Callable[[str], ModuleType]


def test_page__is_that_of_the_files(script: Script) -> None:
    module = script("recipes_page")
    assert module.PAGE.read_text(encoding="utf-8") == module.page_text()


def test_page__has_each_recipe_with_its_file(script: Script) -> None:
    text = script("recipes_page").page_text()
    for name in recipe_names():
        assert f"\n## {name}\n" in text
        assert f"/recipes/{name}.yaml)" in text
