"""From what users write to a backbone: a STELLAR model, one of timm's or transformers', or raw pixels."""

import difflib
import json
import os
from pathlib import Path

from stellar_hub.features.backbones.backbone import Backbone
from stellar_hub.features.backbones.pixels import PixelBackbone
from stellar_hub.features.backbones.stellar import StellarBackbone
from stellar_hub.features.backbones.timm_backbone import TimmBackbone
from stellar_hub.features.backbones.transformers_backbone import TransformersBackbone

RANDOM = "random"
TIMM_PREFIX = "timm:"


def open_backbone(spec: str, seed: int = 0, decoder: bool | None = None) -> Backbone:
    """Open what is to be evaluated.

    - `pixels`: no network at all;
    - a published STELLAR name, or a folder or Hub repository with a STELLAR model;
    - a name of timm's, with `timm:` before it or not;
    - a folder or Hub repository of transformers.

    `NAME:random` has random weights in the same architecture, `NAME:PATH` those of a file (timm) or folder.

    Args:
        spec: One of these.
        seed: Of random weights.
        decoder: False leaves a STELLAR model's decoder unread.

    Raises:
        OSError: if weights do not exist or cannot be fetched.
        ValueError: if nothing of that name is known.
    """
    name, weights = split_spec(spec)
    random_seed = seed if weights == RANDOM else None
    path = None if weights in (None, RANDOM) else weights
    plain = name.removeprefix(TIMM_PREFIX)
    if plain == "pixels":
        return PixelBackbone.load(spec)
    if is_stellar(plain):
        return StellarBackbone.load(path or plain, spec, random_seed, decoder)
    if name.startswith(TIMM_PREFIX) or is_timm(plain):
        if not is_timm(plain):
            raise ValueError(f"timm knows no model {plain!r}{near(plain)}")
        return TimmBackbone.load(plain, spec, random_seed, path)
    local = path or (plain if Path(plain).is_dir() else None)
    if local is None and ("/" not in plain or plain.startswith((".", "/"))):
        raise ValueError(
            f"no model {plain!r}: it is no folder, no published STELLAR model and no model of timm's{near(plain)}"
        )
    if local is None and is_stellar_repository(plain):
        return StellarBackbone.load(plain, spec, random_seed, decoder)
    return TransformersBackbone.load(local or plain, spec, random_seed, local=local is not None)


def split_spec(spec: str) -> tuple[str, str | None]:
    """A name and, after a colon, where its weights come from."""
    prefix = TIMM_PREFIX if spec.startswith(TIMM_PREFIX) else ""
    name, colon, weights = spec.removeprefix(prefix).partition(":")
    if not name or (colon and not weights):
        raise ValueError(f"a model is written NAME, NAME:random or NAME:PATH, got {spec!r}")
    return prefix + name, weights if colon else None


def is_stellar(name: str) -> bool:
    """Whether it is a published name, a folder with a STELLAR model, or a file of weights."""
    from stellar_hub.registry import MODELS

    path = Path(name)
    if path.is_dir():
        return model_type(path) == "stellar"
    return name in MODELS or path.is_file()


def model_type(folder: Path) -> str | None:
    """The model type that a folder's configuration names; None if it has none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def is_stellar_repository(name: str) -> bool:
    """Whether a Hub repository, perhaps in the cache only, has a STELLAR model."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False)
    except OSError:
        return False
    return file is not None and model_type(Path(os.fspath(file)).parent) == "stellar"


def is_timm(name: str) -> bool:
    """Whether timm knows the architecture; a tag of weights may follow a dot."""
    import timm

    return bool(timm.is_model(name.partition(".")[0])) and "/" not in name


def near(name: str) -> str:
    """Known names that look alike, for a message."""
    import timm

    from stellar_hub.registry import MODELS

    close = difflib.get_close_matches(name, [*MODELS, "pixels", *timm.list_models()], n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
