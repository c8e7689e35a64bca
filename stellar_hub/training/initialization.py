"""What a run begins from: random weights, another ViT's, or a checkpoint."""

import logging

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training.modeling_pretraining import OPTIONAL_PARTS, StellarForPreTraining
from stellar_hub.training.recipe import ModelRecipe
from stellar_hub.training.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

TIMM_PREFIX = "timm:"


def initialize(recipe: ModelRecipe) -> StellarForPreTraining:
    """Build the model a recipe begins with, in float32, in training mode.

    A checkpoint that was made for inference has no clustering heads and no teacher: heads begin anew, the teacher as a
    copy. So do heads that the recipe's configuration gives another size.

    Raises:
        OSError: if a checkpoint, or the tokenizer, cannot be had.
        ValueError: if `init` is not given, or weights do not fit the configuration; each that does not is named.
    """
    if recipe.init is None:
        raise ValueError(
            "this recipe does not say what to begin from: pass --init with a checkpoint's name or path, "
            "timm:NAME, or random"
        )
    if recipe.init == "random":
        model, new = StellarForPreTraining(StellarConfig(**recipe.config)), [*OPTIONAL_PARTS, "stellar.tokenizer"]
    elif recipe.init.startswith(TIMM_PREFIX):
        model, new = from_timm(recipe)
    else:
        model, new = from_checkpoint(recipe)
    if model.tokenizer_encoder is not None and "tokenizer_encoder" in new:
        load_tokenizer(model, recipe.vqgan, keep_decoder="stellar.tokenizer" not in new)
    return model.float().train()


def from_timm(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """A plain ViT's weights in the encoder, everything else new."""
    assert recipe.init is not None
    name = recipe.init.removeprefix(TIMM_PREFIX)
    base = StellarModel.from_backbone(name, **{"use_tokenizer": True, **recipe.config})
    model = StellarForPreTraining(base.config)
    model.stellar.load_state_dict(base.state_dict())
    model.copy_to_teacher()
    return model, [*OPTIONAL_PARTS, "stellar.tokenizer"]


def from_checkpoint(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """A checkpoint under the recipe's configuration, and the parts that had to begin anew."""
    assert recipe.init is not None
    source = StellarForPreTraining.from_pretrained(recipe.init)
    new = list(source.newly_initialized)
    if not recipe.config:
        return source, new
    model = StellarForPreTraining(type(source.config).from_dict({**source.config.to_dict(), **recipe.config}))
    found, wanted = source.state_dict(), model.state_dict()
    for part in OPTIONAL_PARTS:
        names = [name for name in wanted if name.startswith(f"{part}.")]
        if part not in new and any(name not in found or found[name].shape != wanted[name].shape for name in names):
            new.append(part)
    new_prefixes = tuple(f"{part}." for part in new)
    taken = {name: tensor for name, tensor in found.items() if name in wanted and not name.startswith(new_prefixes)}
    problems = [
        f"{name}: {tuple(found[name].shape) if name in found else 'missing'} in {recipe.init}, "
        f"{tuple(tensor.shape)} by model.config"
        for name, tensor in wanted.items()
        if not name.startswith(new_prefixes) and (name not in taken or taken[name].shape != tensor.shape)
    ]
    if problems:
        raise ValueError("the checkpoint does not fit model.config:\n  " + "\n  ".join(problems))
    model.load_state_dict(taken, strict=False)
    if "teacher" in new and model.teacher is not None:
        model.copy_to_teacher()
    heads = [part for part in new if any(name.startswith(f"{part}.") for name in wanted)]
    if heads:
        logger.warning("%s: %s begin anew under model.config", recipe.init, ", ".join(heads))
    return model, new
