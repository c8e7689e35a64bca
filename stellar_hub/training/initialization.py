"""What a run begins from: random weights, another ViT's, or a checkpoint."""

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
from stellar_hub.registry import TOKENIZER
from stellar_hub.training.model.modeling_pretraining import OPTIONAL_PARTS, StellarForPreTraining
from stellar_hub.training.recipes.sections import ModelRecipe

CODEBOOK = f"{DECODER_TARGET}.codebook.weight"


def load_tokenizer(model: StellarForPreTraining, vqgan: str | os.PathLike[str] | None, *, keep_decoder: bool) -> None:
    """Load the MaskGIT-VQGAN's weights into a model with a "vq" head.

    Args:
        model: The model; changed in place.
        vqgan: The original file; None fetches the published one through the Hub client.
        keep_decoder: Whether the model's own pixel decoder came from a checkpoint. It then stays as it is, and its
            codebook must be the file's, as the codes are.

    Raises:
        OSError: if the file cannot be had.
        ValueError: if it does not fit the model, or is another tokenizer than the model's.
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
        raise ValueError(f"{path} is not the tokenizer of this model: {', '.join(misshapen[:5])} have other shapes")
    if keep_decoder and not torch.equal(own[CODEBOOK].cpu(), weights[CODEBOOK].to(own[CODEBOOK].dtype)):
        raise ValueError(f"{path} is another tokenizer than the model's: the codebooks differ")
    if keep_decoder:
        weights = {target: tensor for target, tensor in weights.items() if target.startswith(f"{ENCODER_TARGET}.")}
    model.load_state_dict(weights, strict=False)


logger = logging.getLogger(__name__)

TIMM_PREFIX = "timm:"
TOKENIZER_PART = "stellar.tokenizer"


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
    try:
        if recipe.init == "random":
            model, new = StellarForPreTraining(StellarConfig(**recipe.config)), [*OPTIONAL_PARTS, TOKENIZER_PART]
        elif recipe.init.startswith(TIMM_PREFIX):
            model, new = from_timm(recipe)
        else:
            model, new = from_checkpoint(recipe)
    except StrictDataclassClassValidationError as error:
        raise ValueError(f"model.config does not fit {recipe.init}: {error.__cause__ or error}") from error
    if model.tokenizer_encoder is not None and "tokenizer_encoder" in new:
        load_tokenizer(model, recipe.vqgan, keep_decoder=TOKENIZER_PART not in new)
    return model.float().train()


def initialize_resumed(checkpoint: Path, recipe: ModelRecipe) -> StellarForPreTraining:
    """Build the model of a run that goes on, for its checkpoint's weights to be loaded into.

    Args:
        checkpoint: The checkpoint's folder.
        recipe: With the configuration wanted now, whole or in parts; where it differs, `check_same_run` says so.

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


def from_timm(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """A plain ViT's weights in the encoder, everything else new."""
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


def from_checkpoint(recipe: ModelRecipe) -> tuple[StellarForPreTraining, list[str]]:
    """A checkpoint under the recipe's configuration, and the parts that had to begin anew."""
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
    # The tokenizer's encoder is loaded next.
    anew = [part for part in OPTIONAL_PARTS if part in new and part != "tokenizer_encoder"]
    heads = [part for part in anew if getattr(model, part) is not None]
    if heads:
        logger.warning("%s: %s begin anew under model.config", recipe.init, ", ".join(heads))
    return model, new


def same_shapes(part: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether all tensors of a part that are wanted are found, in the same shapes."""
    names = [name for name in wanted if name.startswith(f"{part}.")]
    return all(name in found and found[name].shape == wanted[name].shape for name in names)


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
    """Every tensor is there and fits; only parts that the configuration leaves out as a whole may be left over.

    Raises:
        ValueError: naming each tensor that is not so, with its shapes.
    """
    parts = {part_of(name) for name in wanted}
    leftover = [name for name in found if name not in wanted and part_of(name) in parts]
    problems = [
        f"{name}: {shape_of(name, found)} in {source}, {shape_of(name, wanted)} by model.config"
        for name in [*wanted, *leftover]
        if shape_of(name, found) != shape_of(name, wanted)
    ]
    if problems:
        raise ValueError("the checkpoint does not fit model.config:\n  " + "\n  ".join(problems))


def part_of(name: str) -> str:
    """The part of the model that a tensor belongs to: "stellar.encoder", "teacher.encoder", "clustering_head", ..."""
    first, second = name.split(".")[:2]
    return f"{first}.{second}" if first in ("stellar", "teacher") else first


def shape_of(name: str, tensors: Mapping[str, Tensor]) -> str:
    """The shape of a tensor in words."""
    return str(tuple(tensors[name].shape)) if name in tensors else "missing"
