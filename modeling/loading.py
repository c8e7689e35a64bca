"""Steps of transformers' `from_pretrained` that our models do in another way: quietly, safely, for one thread."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import cached_file, is_peft_available

from .config_checks import refuse_empty_folder
from .safe_paths import regular_file, utf8_name
from .safe_text import did_you_mean, one_line
from .weight_files import DTYPES, check_folder, check_headers, check_index, headers_of, read_headers

TRANSFORMERS_LOGGER = "transformers.modeling_utils"
# They change torch and transformers for all threads while a model is built. Our models need none of them: a model is
# built in torch's default dtype and converted while it is still on the meta device.
GLOBAL_CONTEXTS = ("local_torch_dtype", "no_tie_weights", "meta_device_safe_creation_ops")
DECODING_KEYS = [r"^(stellar\.)?decoder\.", r"^(stellar\.)?tokenizer\."]
_QUANTIZED = '; for weights of 8 bits, call model.optimize_for_inference(dtype="float8") on a GPU'
_ANY_SIZE = (
    "; the model takes images of any size: set it with StellarImageProcessor.from_pretrained(name, image_size=...)"
)
# Keywords of other libraries, and what to do instead.
HINTS = {
    "device": "; did you mean 'device_map'?",
    "features_only": "; model.forward_intermediates gives the maps of all blocks",
    "global_pool": "; choose it where vectors are computed: model.embed(images, pooling=...)",
    "img_size": _ANY_SIZE,
    "in_chans": "; did you mean 'num_channels'?",
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "num_classes": "; for a classifier, call StellarForImageClassification.from_pretrained(name, num_labels=...)",
    "pretrained": "; leave it out: the weights are always loaded, and StellarModel(StellarConfig(...)) has random ones",
}
# What other libraries call a type, and its name in torch.
NAMES_OF_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64", "f16": "float16"}
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class Loading(NamedTuple):
    """What `from_pretrained` tells the steps of transformers that it calls.

    Attributes:
        name: What is loaded, as errors name it.
        strict: Whether every tensor must be there under its own name, in its own shape.
    """

    name: str
    strict: bool


loading: ContextVar[Loading | None] = ContextVar("loading", default=None)
dtype_to_build: ContextVar[torch.dtype | None] = ContextVar("dtype_to_build", default=None)


@contextmanager
def is_set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Sets a variable of this thread inside the block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class _NoLoadReport(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def without_load_report() -> Iterator[None]:
    """Hides transformers' table of missing and unexpected tensors."""
    transformers_logger, no_report = logging.getLogger(TRANSFORMERS_LOGGER), _NoLoadReport()
    transformers_logger.addFilter(no_report)
    try:
        yield
    finally:
        transformers_logger.removeFilter(no_report)


def local_contexts(contexts: Iterable[Any], dtype: torch.dtype) -> list[Any]:
    """Returns the contexts in which transformers builds a model, without those that other threads would see.

    Args:
        contexts: The contexts of transformers.
        dtype: Type of the weights, which `post_init` sets.

    Raises:
        ValueError: if the type is not a floating-point type that torch computes with.
    """
    if dtype not in DTYPES:  # torch computes with no other floating-point type
        raise ValueError(f"dtype must be a floating-point type such as torch.float32, got {dtype}")
    contexts = list(contexts)
    if not any(isinstance(context, torch.device) for context in contexts):
        return contexts  # DeepSpeed builds on the real device
    kept = [c for c in contexts if getattr(getattr(c, "func", None), "__name__", "") not in GLOBAL_CONTEXTS]
    return [*kept, is_set(dtype_to_build, dtype)]


def size_hint(names: Iterable[str]) -> str:
    """Returns what to do if position embeddings alone have the wrong shape: images of any size need no other model.

    Args:
        names: Names of the tensors with the wrong shape.
    """
    names = list(names)
    if not names or not all(name.endswith("encoder.pos_embed") for name in names):
        return ""
    return (
        ". The model takes images of any size, so leave out image_size here, and set it on the processor: "
        "StellarImageProcessor.from_pretrained(name, image_size=...)"
    )


def check_arguments(decoder: Any, options: Mapping[str, Any]) -> None:
    """Checks values of `from_pretrained` that would be misread, or refused only after a download.

    Args:
        decoder: Value of the argument `decoder`.
        options: Keywords of `from_pretrained`.

    Raises:
        TypeError: if `decoder` is not True, False or None.
        ValueError: if `dtype` is a word that torch does not know.
    """
    if not (decoder is None or isinstance(decoder, bool)):
        raise TypeError(f"decoder must be True, False or None, got {one_line(repr(decoder), 100)}")
    for key in ("dtype", "torch_dtype"):
        dtype = options.get(key)
        if not isinstance(dtype, str) or dtype == "auto" or isinstance(getattr(torch, dtype, None), torch.dtype):
            continue
        name = NAMES_OF_DTYPES.get(dtype.casefold()) or dtype.removeprefix("torch.")
        meant = isinstance(getattr(torch, name, None), torch.dtype)
        hint = f"; did you mean torch.{name}?" if meant else did_you_mean(name, ("float32", "float16", "bfloat16"))
        shown = one_line(repr(dtype), 100)
        raise ValueError(f"{key} must be 'auto' or a floating-point type such as torch.float16, got {shown}{hint}")


def success_line(name: str, num_tensors: int, converted: bool, decodes: bool) -> str:
    """Returns the log line of a load that succeeded."""
    how = "converted from the original layout" if converted else "loaded"
    return f"{name}: all {num_tensors} tensors {how}; {'encodes and decodes' if decodes else 'features only'}"


def readable(name: str | os.PathLike | None) -> AbstractContextManager[str | os.PathLike | None]:
    """Returns a context with a name that safetensors can read, for a folder; other names as they are."""
    return utf8_name(name) if name is not None and os.path.isdir(name) else nullcontext(name)


def check_source(name: str | os.PathLike | None, options: dict[str, Any]) -> None:
    """Checks what a folder or repository names before it is loaded.

    Args:
        name: Folder or repository; None passes.
        options: Keywords of `from_pretrained`.

    Raises:
        OSError: if it is a folder without a model, or that of a training run, whose model is in a folder in it.
        ValueError: if an index names files elsewhere, or there is an adapter to another model.
    """
    if name is None:
        return
    folder = Path(name, options.get("subfolder") or "")
    check_folder(folder)
    if options.get("config") is None or (folder / "model").is_dir():  # that of a training run
        refuse_empty_folder(folder)
    if Path(name).exists() or not is_peft_available():
        return
    # For a repository with an adapter, transformers would load the model that the adapter names.
    download = {key: options[key] for key in DOWNLOAD_OPTIONS if options.get(key) is not None}
    found = None
    with suppress(OSError):  # what is wrong with the repository is reported by the loading itself
        found = cached_file(str(name), "adapter_config.json", _raise_exceptions_for_missing_entries=False, **download)
    if found is not None:
        raise ValueError(
            f"{one_line(name)} holds an adapter to another model: load that model first, then the adapter with "
            "peft.PeftModel.from_pretrained(model, name)"
        )


def check_before_loading(model: nn.Module, state_dict: Any, files: list[str] | None, load_config: Any) -> None:
    """Checks names, types and sizes of weights against a model on the meta device, before memory is allocated.

    Args:
        model: The model, a `StellarPreTrainedModel`.
        state_dict: Tensors that are loaded; None for files.
        files: Files that are loaded; None for tensors.
        load_config: transformers' options of the load.

    Raises:
        ValueError: if an index names files elsewhere, or the weights do not fit the model by far.
    """
    now = loading.get()
    if now is None or load_config.is_quantized:
        return
    if load_config.sharded_metadata is not None and files:
        check_index({**load_config.sharded_metadata, "metadata": {}}, Path(files[0]).parent / "its index")
    for file in files or ():
        regular_file(file)
    if state_dict is not None:
        headers = headers_of(state_dict)
    else:  # pickled files, for which the user must ask, have no headers
        headers = read_headers(file for file in files or () if str(file).endswith(".safetensors"))
    if headers:
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        expected = set(model.state_dict())
        found = {name for key in headers for name in (key, prefix + key, key.removeprefix(prefix)) if name in expected}
        if now.strict and any(name.endswith("encoder.sparse_tokens") for name in found):
            refuse_missing_decoder(expected, expected - found, now.name)
        check_headers(headers, model.state_dict(), prefix, f"the weights of {now.name}", now.strict)


def refuse_missing_decoder(expected: Iterable[str], missing: Iterable[str], name: str) -> None:
    """Raises ValueError, instead of listing the tensors, if weights lack all of the decoder that a model has.

    Args:
        expected: Names of the model's tensors.
        missing: Names of those that the weights do not have.
        name: What is loaded, as errors name it.
    """
    decoding = {key for key in expected if re.match("|".join(DECODING_KEYS), key)}
    if decoding and decoding <= set(missing):
        raise ValueError(
            f"{name} has no decoder: load it with decoder=False for features alone. To decode, load a checkpoint that "
            "has a decoder, or convert the original file again and keep it"
        )


def refuse_keyword(error: TypeError, keywords: Iterable[str], fields: Iterable[str]) -> None:
    """Raises TypeError in the words of `from_pretrained` if an error is about a keyword that a model does not take.

    Args:
        error: Error of building the model.
        keywords: Keywords of `from_pretrained`.
        fields: Fields of the configuration, which are keywords too.
    """
    found = re.search(r"__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if found and found[1] in keywords:
        hint = HINTS.get(found[1]) or did_you_mean(found[1], fields)
        hint = hint or "; it takes options of transformers and fields of the configuration"
        raise TypeError(f"from_pretrained got an unexpected keyword argument {found[1]!r}{hint}") from error


def execution_device(model: nn.Module) -> torch.device | None:
    """Returns the device on which a model with offloaded weights computes, and None if it has no such weights."""
    hooks = [getattr(module, "_hf_hook", None) for module in model.modules()]
    devices = [getattr(hook, "execution_device", None) for hook in hooks]
    device = next((device for device in devices if device is not None), None)
    return None if device is None else torch.device(device)
