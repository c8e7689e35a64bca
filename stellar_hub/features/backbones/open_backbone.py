"""Opens a backbone by the name that users write."""

import os
from pathlib import Path

from stellar_hub.features.backbones.backbone import Backbone, PixelBackbone
from stellar_hub.features.backbones.other_libraries import TimmBackbone, TransformersBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.modeling.config_checks import read_json_object, refuse_empty_folder
from stellar_hub.modeling.pretrained_names import is_path_alone
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import did_you_mean
from stellar_hub.registry import MODELS

_RANDOM = "random"
_TIMM_PREFIX = "timm:"


def open_backbone(
    spec: str, seed: int = 0, decoder: bool | None = None, image_size: int | tuple[int, int] | None = None
) -> Backbone:
    """Opens a backbone by its name.

    A name is one of these:

    - `pixels`: raw pixels, without a network;
    - the name of a published STELLAR model, or a folder or Hub repository with a STELLAR model;
    - the name of a timm model, with `timm:` before it or without;
    - a folder or Hub repository with a transformers model.

    `NAME:random` has random weights in the same architecture. `NAME:PATH` has the weights of a file (timm) or folder.

    Args:
        spec: The name.
        seed: Seed of random weights.
        decoder: False does not read the decoder of a STELLAR model.
        image_size: Side of a square, or height and width, of the images that a STELLAR model sees. None keeps the size
            of its processor. Other backbones keep theirs.

    Raises:
        OSError: if weights do not exist or cannot be fetched.
        TypeError: if the name is not a string.
        ValueError: if no model has this name.
    """
    if not isinstance(spec, str):
        raise TypeError(
            f"a model must be NAME, NAME:random or NAME:PATH, got {type(spec).__name__}: functions that take models "
            "accept a StellarModel itself"
        )
    kind = check_spec(spec)
    name, weights = split_spec(spec)
    random_seed = seed if weights == _RANDOM else None
    path = None if weights in (None, _RANDOM) else weights
    plain = name.removeprefix(_TIMM_PREFIX)
    if kind == "pixels":
        return PixelBackbone.load(spec)
    if kind == "stellar":
        return StellarBackbone.load(path or plain, spec, random_seed, decoder, image_size)
    if kind == "timm":
        return TimmBackbone.load(plain, spec, random_seed, path)
    local = path or (plain if Path(plain).is_dir() else None)
    if local is None and _is_stellar_repository(plain):
        return StellarBackbone.load(plain, spec, random_seed, decoder, image_size)
    return TransformersBackbone.load(local or plain, spec, random_seed, local=local is not None)


def check_spec(spec: str) -> str | None:
    """Checks the name of a backbone without loading anything.

    Returns:
        Its kind: "stellar", "timm", "transformers" or "pixels"; None for a Hub repository, whose kind is not known yet.

    Raises:
        OSError: if it is a path that does not exist, or a folder without a model, such as that of a training run; the
            message names the run's model.
        ValueError: if no model has this name.
    """
    name, weights = split_spec(spec)
    plain = name.removeprefix(_TIMM_PREFIX)
    if plain == "pixels":
        return "pixels"
    if _is_stellar(plain):
        return "stellar"
    if name.startswith(_TIMM_PREFIX) or _is_timm(plain):
        if not _is_timm(plain):
            raise ValueError(f"timm has no model {plain!r}{_similar_names(plain)}")
        _check_tag(plain)
        return "timm"
    for folder in (plain, weights or ""):
        refuse_empty_folder(folder)
    has_folder = Path(plain).is_dir() or weights not in (None, _RANDOM)
    if not has_folder and is_path_alone(plain):
        raise FileNotFoundError(f"no such file or folder: {one_line(plain)}")
    if not has_folder and ("/" not in plain.strip("/") or plain.count("/") > 1):
        raise ValueError(
            f"no model {one_line(repr(plain), 200)}: it is not a folder, not a published STELLAR model and not a timm "
            f"model{_similar_names(plain)}"
        )
    return "transformers" if has_folder else None


def split_spec(spec: str) -> tuple[str, str | None]:
    """Returns the name of a model and, if there is a colon, the origin of its weights."""
    prefix = _TIMM_PREFIX if spec.startswith(_TIMM_PREFIX) else ""
    name, colon, weights = spec.removeprefix(prefix).partition(":")
    if not name or (colon and not weights):
        raise ValueError(f"a model must be NAME, NAME:random or NAME:PATH, got {spec!r}")
    return prefix + name, weights if colon else None


def _is_stellar(name: str) -> bool:
    """Whether this is a published name, a folder with a STELLAR model, or a file of weights."""
    path = Path(name)
    if path.is_dir():
        return _model_type(path) == "stellar"
    return name in MODELS or path.is_file()


def _model_type(folder: Path) -> str | None:
    """Returns the model type in the configuration of a folder, or None if it has no configuration."""
    try:
        return str(read_json_object(folder / "config.json").get("model_type"))
    except (OSError, ValueError):
        return None


def _is_stellar_repository(name: str) -> bool:
    """Whether a Hub repository has a STELLAR model; one in the cache is found without a network."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        return False
    return file is not None and _model_type(Path(os.fspath(file)).parent) == "stellar"


def _is_timm(name: str) -> bool:
    """Whether timm has the architecture; the name of its weights may follow after a dot."""
    import timm

    return bool(timm.is_model(name.partition(".")[0])) and "/" not in name


def _check_tag(name: str) -> None:
    """Raises ValueError if timm has the architecture, but not the weights that are named after the dot."""
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise ValueError(f"timm has no weights {name!r}{did_you_mean(name, known) or '; known: ' + ', '.join(known)}")


def _similar_names(name: str) -> str:
    """Returns a question with known names that are spelled similarly, for an error."""
    import timm

    return did_you_mean(name, [*MODELS, "pixels", *timm.list_models()])
