"""What a configuration may say: a bounded JSON file, no setting that leads out of its folder, sizes within limits."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from .limits import check_limit
from .safe_paths import path_below, read_bounded
from .safe_text import did_you_mean, one_line

logger = logging.getLogger(__name__)

ClassT = TypeVar("ClassT", bound=type)

NO_ATTENTIONS = (
    "output_attentions must be False, because fused attention does not compute the maps; `localization` says where "
    "each token is"
)

MAX_DEPTH = 32  # of lists and objects in each other
MAX_FLOAT = 3.4e38  # the largest float32
DTYPES = ("float32", "float16", "bfloat16", "float64")

# Settings of transformers that fetch code, replace layers or read other files, and have no use in a STELLAR model.
REFUSED = (
    "distributed_config",
    "fusion_config",
    "kernel_config",
    "per_layer_config",
    "quantization_config",
)
REFUSED_PREFIXES = ("adapter", "_adapter", "base_model_name_or_path", "offload")
# Fields that transformers writes or takes beside those of its class, and the options of reading a configuration.
FIELDS_OF_TRANSFORMERS = (
    *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "is_decoder", "model_type"),
    *("name_or_path", "num_labels", "output_attentions", "pruned_heads", "tie_last_hidden_states"),
    *("tie_word_embeddings", "torch_dtype", "torchscript", "transformers_weights", "use_cache", *REFUSED),
)
OPTIONS_OF_READING = (
    *("cache_dir", "code_revision", "force_download", "gguf_file", "local_files_only", "proxies", "revision"),
    *("subfolder", "token", "trust_remote_code", "user_agent"),
)
OPTIONS_OF_SAVING = ("push_to_hub", "token", "repo_id", "commit_message", "create_pr", "private", "use_auth_token")
ATTENTION = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Raises:
        OSError: if the file does not exist or cannot be read.
        ValueError: if it is not a regular file, is too large, nested too deep, or not JSON with an object; the message
            is one line that names the file.
    """
    data = read_bounded(path, "config_bytes")
    name = one_line(path)
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{name} nests lists and objects more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # not UTF-8, not JSON, or a number of more than 4300 digits
        raise ValueError(f"{name} is not a valid JSON file: {one_line(error, 200)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} must hold a JSON object, got {type(content).__name__}")
    if _depth(content) > MAX_DEPTH:
        raise ValueError(f"{name} nests lists and objects more than {MAX_DEPTH} deep")
    return content


def refuse_empty_folder(folder: str | os.PathLike) -> None:
    """Raises OSError for a folder without a configuration; other arguments are passed over.

    The message names the model if it is the folder of a training run.
    """
    if os.path.isdir(folder) and not os.path.exists(os.path.join(folder, "config.json")):
        shown = one_line(folder)
        if os.path.exists(os.path.join(folder, "model", "config.json")):
            raise OSError(f"{shown} is the folder of a training run: load {one_line(os.path.join(folder, 'model'))}")
        if os.path.exists(os.path.join(folder, "recipe.yaml")):
            raise OSError(
                f"{shown} is the folder of a training run that has no model yet: finish it with `stellar-hub train "
                f"--output {shown} --resume auto`, or load one of its checkpoints, {shown}/checkpoints/step-N"
            )
        raise OSError(
            f"the folder {one_line(os.path.abspath(folder))} holds no model, because it has no config.json: name a "
            "folder that save_pretrained wrote, or a known model such as 'stellar-tiny'"
        )


def is_model_folder(folder: str | os.PathLike) -> bool:
    """Returns whether a folder has the configuration of a STELLAR model."""
    try:
        return read_json_object(os.path.join(folder, "config.json")).get("model_type") == "stellar"
    except (OSError, ValueError):
        return False


def _depth(content: Any) -> int:
    """Returns how deep lists and objects lie in each other; it counts no further than just above the limit."""
    depth, level = 0, [content]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [item for value in level for item in _items(value) if isinstance(item, dict | list)]
    return depth


def _items(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)


def check_code_map(content: dict[str, Any]) -> None:
    """Raises ValueError unless `auto_map`, which says where code is, names files of the model's own folder."""
    code_map = content.get("auto_map")
    if code_map is None:
        return
    entries = code_map.values() if isinstance(code_map, dict) else [code_map]
    for entry in entries:
        for place in entry if isinstance(entry, list) else [entry]:
            parts = place.split(".") if isinstance(place, str) else []
            if place is not None and (len(parts) != 2 or not all(part.isidentifier() for part in parts)):
                raise ValueError(
                    f"auto_map must name classes in files of the model's folder, such as "
                    f"'modeling_stellar.StellarModel', got {one_line(repr(place))}"
                )


def check_entries(content: dict[str, Any], cls: Any) -> None:
    """Raises ValueError if an entry of a configuration leads out of the model's folder or replaces a method.

    Args:
        content: The configuration, by key.
        cls: Class of the configuration.
    """
    fields = field_names(cls)
    for key in content:
        shown = one_line(repr(key), 100)
        if not isinstance(key, str) or key.startswith("__"):
            raise ValueError(f"{shown} is not the name of a setting")
        if key in REFUSED and content[key] is not None:
            raise ValueError(f"{shown} is not a setting of a STELLAR model: remove it from the configuration")
        if key.startswith(REFUSED_PREFIXES):
            raise ValueError(f"{shown} leads out of the model's folder: remove it from the configuration")
        attribute = getattr(cls, key, None)
        if key not in fields and key != "model_type" and attribute is not None and not isinstance(attribute, property):
            raise ValueError(f"{shown} is not a setting, but a part of {cls.__name__}: remove it")
    for key in ATTENTION:
        value = content.get(key)
        if value is not None and not (isinstance(value, str) and value.isidentifier()):  # others are fetched as code
            raise ValueError(f"{key} must be a name such as 'sdpa' or 'eager', got {one_line(repr(value), 100)}")
    for key in ("dtype", "torch_dtype"):
        value = content.get(key)
        if value is not None and str(value).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"{key} must be one of {', '.join(DTYPES)}, got {one_line(repr(value), 100)}")
    weights = content.get("transformers_weights")
    if weights is not None:
        path_below("the model's folder", weights, "transformers_weights")
        if not weights.endswith((".safetensors", ".safetensors.index.json")):
            raise ValueError(f"transformers_weights must name a .safetensors file, got {one_line(repr(weights), 100)}")


def unknown_fields(names: Iterable[str], cls: Any) -> list[str]:
    """Returns the names that are neither fields of a configuration nor such as transformers writes into one.

    Args:
        names: Names of fields.
        cls: Class of the configuration.
    """
    known = (*field_names(cls), *FIELDS_OF_TRANSFORMERS)
    return [name for name in names if name not in known and not name.startswith("_")]


def field_names(cls: Any) -> list[str]:
    """Returns the names of a configuration's fields."""
    return [field.name for field in dataclasses.fields(cls)]


def refuse_unknown_fields(names: Iterable[str], cls: Any) -> None:
    """Raises TypeError for the first keyword that is not a field of a configuration, which would have no effect."""
    for name in unknown_fields(names, cls):
        hint = did_you_mean(name, field_names(cls))
        raise TypeError(f"{cls.__name__} does not have a field {one_line(repr(name), 100)}{hint}")


def without_unknown_fields(content: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Returns what a file says, without fields that do not exist: a newer release may have written them.

    They are logged as a warning, because a field with a typo has no effect.
    """
    unknown = unknown_fields(content, cls)
    for name in unknown:
        hint = did_you_mean(name, field_names(cls))
        logger.warning("the configuration has a field that does not exist, %s%s", one_line(repr(name), 100), hint)
    return {name: value for name, value in content.items() if name not in unknown}


class FieldValueError(StrictDataclassFieldValidationError, ValueError):
    """A field has a value that its type does not allow. It is the Hub client's error in one line, and a ValueError."""

    def __init__(self, field: str, cause: Exception) -> None:
        super().__init__(field, cause)
        self.args = (one_line(cause),)


class ConfigValueError(StrictDataclassClassValidationError, ValueError):
    """Values of fields are out of range, or do not fit each other. It is the Hub client's error in one line."""

    def __init__(self, validator: str, cause: Exception) -> None:
        super().__init__(validator, cause)
        self.args = (one_line(cause),)


def plain_errors(cls: ClassT) -> ClassT:
    """Decorates a class made by the Hub client's `strict`, so that its errors are one line without internals."""
    strict_class: Any = cls
    set_attribute, validate_all = strict_class.__setattr__, strict_class.validate

    def set_checked(self: Any, name: str, value: Any) -> None:
        try:
            set_attribute(self, name, value)
        except StrictDataclassFieldValidationError as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise FieldValueError(name, cause) from cause

    def validate(self: Any) -> None:
        """Raises ValueError unless all values are in range and fit each other."""
        try:
            validate_all(self)
        except StrictDataclassClassValidationError as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ConfigValueError("validate", cause) from cause

    validate.__is_defined_by_strict_decorator__ = True  # type: ignore[attr-defined]  # subclasses may be strict as well
    strict_class.__setattr__, strict_class.validate = set_checked, validate
    return cls


def check_before_building(config: Any) -> None:
    """Checks a configuration whose fields may have been assigned since it was made.

    An attribute that looks like a misspelled field is logged as a warning, because it has no effect.

    Raises:
        ValueError: if values are out of range or do not fit each other.
    """
    if not hasattr(config, "validate"):
        return  # another class; transformers refuses it
    config.validate()
    for name in unknown_fields(vars(config), type(config)):
        hint = did_you_mean(name, field_names(type(config)))
        if hint:
            logger.warning("the configuration does not have a field %s, which has no effect%s", one_line(name), hint)


def check_numbers(config: Any) -> None:
    """Raises ValueError unless counts, sizes, temperatures and epsilons are positive, and all numbers finite."""
    for name in DIMENSIONS:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in LAYERS:
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(config, name)}")
    temperatures = ("spatial_temp", "sinkhorn_temp", "prototype_temp")
    for name in (*temperatures, "layer_norm_eps", "matching_epsilon", "sinkhorn_scale"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(config, name)}")
    for name in FLOATS:
        value = getattr(config, name)
        if value is not None and not abs(value) <= MAX_FLOAT:  # `not`, because of NaN
            raise ValueError(f"{name} must be finite, got {value}")
    if config.initializer_range < 0:
        raise ValueError(f"initializer_range must be at least 0, got {config.initializer_range}")
    if not config.tokenizer_channel_mult or min(config.tokenizer_channel_mult) < 1:
        raise ValueError(f"tokenizer_channel_mult values must be at least 1, got {config.tokenizer_channel_mult}")


def check_sizes(config: Any) -> None:
    """Raises ValueError if a model of this configuration goes beyond the limits; it is called before one is built."""
    for name in (*DIMENSIONS, *LAYERS):
        check_limit("config_dimension" if name in DIMENSIONS else "config_layers", getattr(config, name), name)
    levels = len(config.tokenizer_channel_mult)
    check_limit("config_layers", levels * config.tokenizer_num_res_blocks, "the tokenizer")
    check_limit("config_dimension", 2**levels, "the tokenizer's upsampling")
    widest = config.tokenizer_hidden_channels * max(config.tokenizer_channel_mult, default=1)
    check_limit("config_dimension", widest, "tokenizer_channel_mult times tokenizer_hidden_channels")
    check_limit("image_pixels", config.image_size**2, f"an image of image_size {config.image_size}")
    check_limit("model_parameters", count_parameters(config), "a model of this configuration")


DIMENSIONS = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_sparse_tokens",
    "decoder_hidden_size",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
    "codebook_size",
    "tokenizer_hidden_channels",
    "tokenizer_num_res_blocks",
    "tokenizer_embed_dim",
    "num_prototypes",
    "prototype_dim",
    "prototype_hidden_size",
    "sinkhorn_num_iters",
    "matching_num_iters",
)
LAYERS = ("num_hidden_layers", "decoder_num_hidden_layers")
FLOATS = (
    "layer_norm_eps",
    "layer_scale_init_value",
    "initializer_range",
    "koleo_weight",
    "reconstruction_weight",
    "spatial_temp",
    "sinkhorn_temp",
    "prototype_temp",
    "sinkhorn_scale",
    "matching_epsilon",
)


def count_parameters(config: Any) -> int:
    """Returns the number of weights of a model for pretraining, without biases and norms, which are few."""
    width, patch = config.hidden_size, config.num_channels * config.patch_size**2
    num_patches = (config.image_size // config.patch_size) ** 2
    total = config.num_hidden_layers * (4 * width**2 + 2 * width * config.intermediate_size)
    total += width * (patch + num_patches + config.num_sparse_tokens + 2 * width)
    total += config.prototype_hidden_size * (width + config.prototype_dim)
    total += config.num_prototypes * config.prototype_dim
    if not config.use_decoder:
        return total
    inner = config.decoder_hidden_size
    total += config.decoder_num_hidden_layers * (4 * inner**2 + 2 * inner * config.decoder_intermediate_size)
    head = patch * (4 if config.pixel_head_overlap else 1)
    total += inner * (width + (head if config.reconstruction_head == "pixel" else config.codebook_size))
    if config.reconstruction_head == "vq" and config.use_tokenizer:
        widths = [config.tokenizer_hidden_channels * factor for factor in config.tokenizer_channel_mult]
        convolution, blocks = 9 * max(widths) ** 2, config.tokenizer_num_res_blocks
        total += config.tokenizer_embed_dim * config.codebook_size
        total += 2 * convolution * blocks + sum(9 * size**2 * (2 * blocks + 1) for size in widths)
    return total
