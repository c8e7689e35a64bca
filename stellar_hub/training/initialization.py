"""The model that a run starts with: random weights, those of a timm ViT, or a checkpoint; and the tokenizer."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import Tensor

from stellar_hub.conversion.read_checkpoint import read_checkpoint
from stellar_hub.conversion.vqgan_layout import DECODER_TARGET, ENCODER_TARGET, vqgan_sources
from stellar_hub.hub.download import fetch
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.weight_files import check_finite, check_types, headers_of
from stellar_hub.registry import TOKENIZER
from stellar_hub.training.model.modeling_pretraining import OPTIONAL_PARTS, StellarForPreTraining
from stellar_hub.training.recipes.sections import ModelRecipe

logger = logging.getLogger(__name__)

CODEBOOK = f"{DECODER_TARGET}.codebook.weight"
TIMM_PREFIX = "timm:"
TOKENIZER_PART = "stellar.tokenizer"
MAX_NAMED = 3  # tensors in an error


def initialize(recipe: ModelRecipe) -> StellarForPreTraining:
    """Builds the model that a recipe starts with, in float32 and training mode.

    A checkpoint for inference has no clustering heads and no teacher: the heads get new weights, and the teacher is a
    copy of the model. Heads that the recipe's configuration gives another size get new weights, too.

    Raises:
        OSError: if a checkpoint, or the tokenizer, cannot be fetched or read.
        ValueError: if the recipe has no `init`, or weights do not fit the configuration; it names each of them.
    """
    if recipe.init is None:
        raise ValueError(
            "model.init is null, so the run has nothing to start from: pass --init with a checkpoint's name or path, "
            "timm:NAME, or random"
        )
    try:
        if recipe.init == "random":
            model, new = StellarForPreTraining(StellarConfig(**recipe.config)), [*OPTIONAL_PARTS, TOKENIZER_PART]
        elif recipe.init.startswith(TIMM_PREFIX):
            model, new = initialize_from_timm(recipe)
        else:
            model, new = initialize_from_checkpoint(recipe)
    except StrictDataclassClassValidationError as error:
        raise ValueError(f"model.config does not fit {recipe.init}: {error.__cause__ or error}") from error
    if model.tokenizer_encoder is not None and "tokenizer_encoder" in new:
        load_tokenizer(model, recipe.vqgan, keep_decoder=TOKENIZER_PART not in new)
    return model.float().train()


def initialize_resumed(checkpoint: Path, recipe: ModelRecipe) -> StellarForPreTraining:
    """Builds the model of a run that is resumed; `load_run` loads the checkpoint's weights into it.

    Args:
        checkpoint: Folder of the checkpoint.
        recipe: The recipe of now, whose configuration may be partial; `check_same_run` refuses values that differ.

    Raises:
        ValueError: if the checkpoint has no readable configuration.
    """
    try:
        config = StellarConfig.from_pretrained(checkpoint)
    except (OSError, ValueError) as error:
        raise ValueError(f"{checkpoint} is damaged: {error}") from error
    try:
        return StellarForPreTraining(type(config).from_dict({**config.to_dict(), **recipe.config})).float().train()
    except StrictDataclassClassValidationError as error:
        raise ValueError(f"model.config does not fit {checkpoint}: {error.__cause__ or error}") from error


def initialize_from_timm(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """Builds a model with the weights of a plain ViT in the encoder, and returns it with its new parts."""
    assert recipe.init is not None
    name = recipe.init.removeprefix(TIMM_PREFIX)
    try:
        base = StellarModel.from_backbone(name, **{"use_tokenizer": True, **recipe.config})
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ValueError(f"the weights of {name} do not fit model.config: {error}") from error
    model = StellarForPreTraining(base.config)
    model.stellar.load_state_dict(base.state_dict())
    model.copy_to_teacher()
    return model, [*OPTIONAL_PARTS, TOKENIZER_PART]


def initialize_from_checkpoint(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """Loads a checkpoint into a model of the recipe's configuration, and returns it with its new parts."""
    assert recipe.init is not None
    source = StellarForPreTraining.from_pretrained(recipe.init)
    new = list(source.newly_initialized)
    if not recipe.config:
        return source, new
    model = StellarForPreTraining(type(source.config).from_dict({**source.config.to_dict(), **recipe.config}))
    found, wanted = source.state_dict(), model.state_dict()
    new += [part for part in OPTIONAL_PARTS if part not in new and not same_shapes(part, found, wanted)]
    if model.tokenizer_encoder is not None and not any(name.startswith(f"{TOKENIZER_PART}.") for name in found):
        new.append(TOKENIZER_PART)
    new_prefixes = tuple(f"{part}." for part in new)
    found = {name: tensor for name, tensor in found.items() if not name.startswith(new_prefixes)}
    check_fit(found, {name: wanted[name] for name in wanted if not name.startswith(new_prefixes)}, recipe.init)
    model.load_state_dict({name: found[name] for name in found if name in wanted}, strict=False)
    if "teacher" in new:
        model.copy_to_teacher()
    # The tokenizer's encoder gets its weights next.
    names = [part for part in OPTIONAL_PARTS if part in new and part != "tokenizer_encoder"]
    heads = [part for part in names if getattr(model, part) is not None and part not in source.newly_initialized]
    if heads:
        logger.warning("%s: %s do not fit model.config and start with new weights", recipe.init, ", ".join(heads))
    return model, new


def same_shapes(part: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Returns whether all wanted tensors of a part are found, with the same shapes."""
    names = [name for name in wanted if name.startswith(f"{part}.")]
    return all(name in found and found[name].shape == wanted[name].shape for name in names)


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Checks that every wanted tensor is found and fits, and that only parts that the model lacks are left over.

    Raises:
        ValueError: it names each tensor that does not fit, with both shapes.
    """
    parts = {part_name(name) for name in wanted}
    leftover = [name for name in found if name not in wanted and part_name(name) in parts]
    problems = [
        f"{name}: {describe_shape(name, found)} in {source}, {describe_shape(name, wanted)} by model.config"
        for name in [*wanted, *leftover]
        if describe_shape(name, found) != describe_shape(name, wanted)
    ]
    if problems:
        more = f", and {len(problems) - MAX_NAMED} more tensors" if len(problems) > MAX_NAMED else ""
        raise ValueError(
            f"the weights of {source} do not fit model.config: {'; '.join(problems[:MAX_NAMED])}{more}. Leave such "
            "values of model.config out, or begin with --init random"
        )


def check_architecture(recipe: ModelRecipe, config: StellarConfig) -> None:
    """Checks that the weights of a checkpoint can have the shapes that the recipe asks for; nothing is read.

    Args:
        recipe: The recipe.
        config: Configuration of the checkpoint `init`.

    Raises:
        ValueError: if a tensor outside of the heads would have another shape; it names the first ones.
    """
    before = config.to_dict()
    if all(before.get(name) == value for name, value in recipe.config.items()):
        return
    changed = StellarConfig.from_dict({**before, **recipe.config})
    new = tuple(f"{part}." for part in (*OPTIONAL_PARTS, TOKENIZER_PART))
    with torch.device("meta"):
        found, wanted = (StellarForPreTraining(each).state_dict() for each in (config, changed))
    found, wanted = ({name: of[name] for name in of if not name.startswith(new)} for of in (found, wanted))
    check_fit(found, wanted, str(recipe.init))


def part_name(name: str) -> str:
    """Returns the part of the model that has a tensor: "stellar.encoder", "teacher.encoder", "clustering_head", ..."""
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first in ("stellar", "teacher") else first


def describe_shape(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Returns the shape of a tensor in words."""
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"


def load_tokenizer(model: StellarForPreTraining, vqgan: str | os.PathLike[str] | None, *, keep_decoder: bool) -> None:
    """Loads the MaskGIT-VQGAN's weights into a model with a "vq" head.

    Args:
        model: The model, which is changed in place.
        vqgan: Path of the original file; None fetches the published one through the Hub client.
        keep_decoder: Whether the tokenizer's decoder came from a checkpoint. It then stays as it is, and its codebook
            must be the same as the file's.

    Raises:
        OSError: if the file cannot be fetched or read.
        ValueError: if it does not fit the model, is another tokenizer than the model's, or has weights that are not
            finite floating-point numbers.
    """
    path = fetch(TOKENIZER) if vqgan is None else vqgan
    tensors = read_checkpoint(path)
    table = {target: sources[0] for target, sources in vqgan_sources(model.config, "").items()}
    missing = sorted(set(table.values()) - tensors.keys())
    if missing:
        raise ValueError(f"{path} is not the tokenizer of this model: it lacks {', '.join(missing[:5])}")
    weights = {target: tensors[source] for target, source in table.items()}
    own = model.state_dict()
    misshapen = sorted(name for name, tensor in weights.items() if own[name].shape != tensor.shape)
    if misshapen:
        names = ", ".join(misshapen[:5])
        raise ValueError(f"{path} is not the tokenizer of this model: the shapes differ of {names}")
    check_types(headers_of(weights), str(path))
    check_finite(weights, f"the weights of {path}")
    if keep_decoder and not torch.equal(own[CODEBOOK].cpu(), weights[CODEBOOK].to(own[CODEBOOK].dtype)):
        raise ValueError(f"{path} is another tokenizer than the model's: the codebooks differ")
    if keep_decoder:
        weights = {target: tensor for target, tensor in weights.items() if target.startswith(f"{ENCODER_TARGET}.")}
    model.load_state_dict(weights, strict=False)
