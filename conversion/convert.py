"""From an original state dict to this library's state dict: a pure function that checks every tensor."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stellar_hub.conversion.infer_config import infer_config
from stellar_hub.conversion.layout import TOKENIZER_PREFIX, all_sources, is_unused, with_published_names
from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.modeling.encoder_stellar import StellarEncoder
from stellar_hub.modeling.maskgit_vqgan import MaskGitVQGANEncoder
from stellar_hub.modeling.weight_files import check_types, headers_of, listed, problems_by_kind


def convert_original(
    state_dict: Mapping[str, Tensor],
    *,
    vqgan: Mapping[str, Tensor] | None = None,
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
) -> tuple[StellarConfig, dict[str, Tensor]]:
    """Converts an original STELLAR checkpoint.

    It reads no files and uses no network. It copies only query, key and value, which become one tensor. It also works
    on meta tensors. It understands the names of transformers < 5 and >= 5, Lightning's prefix `model.`, and the
    prefixes of DDP, FSDP and `torch.compile`.

    Args:
        state_dict: The checkpoint's tensors.
        vqgan: The state dict of the MaskGIT-VQGAN; None uses the one inside the checkpoint, if it has one. Without
            it a "vq" model converts, but its `decode` raises an error.
        num_attention_heads: Number of attention heads of the encoder; needed if its width is not a published one.
        decoder_num_attention_heads: Number of attention heads of the decoder; needed if its width is not 512.

    Returns:
        The configuration, and the tensors in the layout of `StellarForPreTraining`: the base model under `stellar.`,
        and beside it clustering heads, EMA teacher and the tokenizer's encoder if the file has them.

    Raises:
        ValueError: if tensors are missing, unexpected, have the wrong shape, or are no floating-point numbers; it
            names them.
    """
    check_entries(state_dict, "the checkpoint")
    tensors = with_published_names(state_dict)
    if vqgan is not None:
        check_entries(vqgan, "vqgan")
        tensors = without_tokenizer(tensors) | {TOKENIZER_PREFIX + name: tensor for name, tensor in vqgan.items()}
    config = infer_config(tensors, num_attention_heads, decoder_num_attention_heads)
    if not config.use_tokenizer:
        tensors = without_tokenizer(tensors)  # only a "vq" head needs one
    table = all_sources(config, set(tensors))
    check_tensors(tensors, table, config)
    return config, {target: join([tensors[name] for name in sources]) for target, sources in table.items()}


def check_entries(state_dict: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError unless there are entries and all of them are tensors.

    Args:
        state_dict: What the user passed.
        what: Name of the state dict in the error.
    """
    if not state_dict:
        raise ValueError(f"{what} is empty: it must have at least one tensor")
    foreign = [
        name if isinstance(name, str) else type(name).__name__
        for name, value in state_dict.items()
        if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if foreign:
        hint = ': pass the state dict under "state_dict"' if "state_dict" in foreign else ""
        raise ValueError(f"{what} must have tensors only, but these entries are not: {listed(foreign)}{hint}")


def without_tokenizer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns all tensors except those of the tokenizer."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(TOKENIZER_PREFIX)}


def join(parts: list[Tensor]) -> Tensor:
    """Returns the only tensor unchanged, or query, key and value stacked along their outputs."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=0)


def expected_shapes(config: StellarConfig, table: dict[str, list[str]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all targets, read from modules that are built without memory."""
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {"stellar": StellarModel(config)}
        if config.use_tokenizer:
            modules["tokenizer_encoder"] = MaskGitVQGANEncoder(config)
        if config.teacher_momentum is not None:
            modules["teacher.encoder"] = StellarEncoder(config)
    shapes = {
        f"{prefix}.{name}": tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    hidden, width = config.prototype_hidden_size, config.prototype_dim
    head_shapes = {
        "mlp.fc1.weight": (hidden, config.hidden_size),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
        "prototypes.weight": (config.num_prototypes, width),
    }
    heads = {target.removesuffix(".prototypes.weight") for target in table if target.endswith(".prototypes.weight")}
    return shapes | {f"{head}.{name}": shape for head in heads for name, shape in head_shapes.items()}


def check_tensors(tensors: dict[str, Tensor], table: dict[str, list[str]], config: StellarConfig) -> None:
    """Raises ValueError unless each tensor of the file is used or known to be unused, and each used one fits.

    A tensor fits if it has the shape that the model needs, and its numbers are floating-point numbers.

    Args:
        tensors: The checkpoint's tensors, under published names.
        table: Originals of each target.
        config: The checkpoint's configuration.
    """
    used = {name for sources in table.values() for name in sources}
    missing = sorted(used - tensors.keys())
    # Where most is missing, shapes say nothing more, and a model of very many layers takes seconds to build.
    shapes = expected_shapes(config, table) if len(missing) <= len(tensors) else {}
    wrong_shapes = []
    for target, sources in table.items() if shapes else ():
        wanted = shapes[target]
        part = (wanted[0] // len(sources), *wanted[1:]) if len(sources) > 1 else wanted
        wrong_shapes += [
            f"{name} is {tuple(tensors[name].shape)}, expected {part}"
            for name in sources
            if name in tensors and tuple(tensors[name].shape) != part
        ]
    problems = problems_by_kind(
        {
            "missing": missing,
            "unexpected": [name for name in sorted(tensors.keys() - used) if not is_unused(name, config)],
            "wrong shape": wrong_shapes,
        }
    )
    if problems:
        raise ValueError(f"the checkpoint is not in the original STELLAR layout: {problems}")
    check_types(headers_of({name: tensors[name] for name in used}), "the checkpoint")
