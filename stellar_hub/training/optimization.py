"""timm's optimizers, parameter groups and cosine schedule, as a recipe asks for them."""

import math
from typing import Any

from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.recipes.sections import OptimizationRecipe


def build_optimizer(model: StellarForPreTraining, recipe: OptimizationRecipe) -> Optimizer:
    """The optimizer over all trainable parameters.

    Norms, biases, tokens and position embeddings are not decayed. With `layer_decay` each encoder block learns slower
    than the one above it. The recipe's betas go to optimizers that have two.
    """
    info = get_optimizer_info(recipe.optimizer)
    options: dict[str, Any] = {"betas": tuple(recipe.betas)} if info.has_betas and info.num_betas == 2 else {}
    return create_optimizer_v2(
        model,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        **options,
    )


def count_steps(recipe: OptimizationRecipe, num_samples: int | None) -> int:
    """Optimizer steps of the whole run; `num_samples` is None where it is unknown, as for streams.

    Raises:
        ValueError: if epochs are asked for, and it is unknown how long one is.
    """
    if recipe.steps is not None:
        return recipe.steps
    if num_samples is None:
        raise ValueError(
            f"optimization.epochs is {recipe.epochs}, but how many images a stream has is unknown: set "
            "optimization.steps, and optimization.epochs=null"
        )
    assert recipe.epochs is not None, "a recipe has either"
    return math.ceil(recipe.epochs * num_samples / (recipe.batch_size * recipe.gradient_accumulation_steps))


def build_schedule(optimizer: Optimizer, recipe: OptimizationRecipe, num_steps: int) -> CosineLRScheduler:
    """Linear warm-up from 0, then a cosine to `final_learning_rate`; `step_update(step)` sets it.

    Step 0 is done with a learning rate of 0 where there is a warm-up; the final one is that of step `num_steps`, one
    past the last. It has no state of its own: the step says everything.
    """
    warmup = min(round(recipe.warmup_fraction * num_steps), num_steps - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=num_steps - warmup,
        lr_min=recipe.final_learning_rate,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )
