"""Recipes of training runs: their sections and checks, the YAML files, and what may change when a run is resumed.

The shipped recipes are here too. What a run does with a recipe belongs to `stellar_hub.training`.
"""

from stellar_hub.training.recipes.differences import differences, refuse_other_recipe
from stellar_hub.training.recipes.files import (
    apply_overrides,
    from_dict,
    load_recipe,
    recipe_names,
    save_recipe,
    to_dict,
    write_yaml,
)
from stellar_hub.training.recipes.sections import (
    DataRecipe,
    ModelRecipe,
    OptimizationRecipe,
    Recipe,
    RunRecipe,
    config_fields,
)

__all__ = [
    "DataRecipe",
    "ModelRecipe",
    "OptimizationRecipe",
    "Recipe",
    "RunRecipe",
    "apply_overrides",
    "config_fields",
    "differences",
    "from_dict",
    "load_recipe",
    "recipe_names",
    "refuse_other_recipe",
    "save_recipe",
    "to_dict",
    "write_yaml",
]
