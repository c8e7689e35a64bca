"""The pretrained models that `from_pretrained` knows by name, as data."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EMBEDDED_FOLDER = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class HubFile:
    """One file at a pinned commit of a Hub repository.

    Attributes:
        repository: "user/name".
        name: Path in the repository.
        revision: Commit.
        megabytes: Size, in 10^6 bytes, as published.
        license: Of its content.
        sha256: Of its content, where known; None leaves the check to the Hub's own record of the file.
    """

    repository: str
    name: str
    revision: str
    megabytes: int
    license: str
    sha256: str | None = None


@dataclass(frozen=True)
class PretrainedModel:
    """One pretrained model.

    Attributes:
        name: What `from_pretrained` takes.
        architecture: In a few words.
        license: Of its weights.
        notes: What it is for.
        file: The original file; None for a model that comes with the package.
        config: The fields of `StellarConfig` that differ from the defaults, which are stellar-b16's.
    """

    name: str
    architecture: str
    license: str
    notes: str
    file: HubFile | None = None
    config: dict[str, Any] = field(default_factory=dict)


TOKENIZER = HubFile(
    repository="fun-research/TiTok",
    name="maskgit-vqgan-imagenet-f16-256.bin",
    revision="ab646ed225080a3acb7c78440a574d7f67f16fa7",
    megabytes=218,
    license="see the repository",
)


def _published(name: str, architecture: str, megabytes: int, notes: str, **config: Any) -> PretrainedModel:
    file = HubFile(
        repository="microsoft/STELLAR",
        name=f"{name}.safetensors",
        revision="6794be9a20fb9d3944c5bcc6003512a347fa518f",
        megabytes=megabytes,
        license="MIT",
    )
    return PretrainedModel(name, architecture, "MIT", notes, file, config)


MODELS = {
    model.name: model
    for model in (
        PretrainedModel(
            "stellar-tiny", "ViT 192/6, patch 8 at 64, 16 tokens, pixel", "Apache-2.0", "a demonstration, for tests"
        ),
        _published("stellar-b16", "ViT-B/16 at 224, 16 tokens, vq", 483, "the paper's base model"),
        _published(
            "stellar-l16",
            "ViT-L/16 at 224, 16 tokens, vq",
            1363,
            "the paper's large model",
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
        ),
        _published(
            "stellar-h16",
            "ViT-H/14 at 224, 16 tokens, vq",
            2685,
            "the paper's huge model; decodes to 256 pixels",
            hidden_size=1280,
            num_hidden_layers=32,
            num_attention_heads=16,
            patch_size=14,
        ),
        _published("stellar-b8", "ViT-B/16 at 224, 8 tokens, vq", 483, "an ablation", num_sparse_tokens=8),
        _published("stellar-b24", "ViT-B/16 at 224, 24 tokens, vq", 483, "an ablation", num_sparse_tokens=24),
    )
}


def list_models() -> list[str]:
    """The names that `from_pretrained` knows; `stellar_hub.registry.MODELS` says more about each."""
    return list(MODELS)


def embedded_folder(name: str) -> Path | None:
    """The folder of a model that comes with the package; None for any other name."""
    model = MODELS.get(name)
    return EMBEDDED_FOLDER / name if model is not None and model.file is None else None


def published(name: str) -> PretrainedModel | None:
    """The model of this name whose original file is on the Hub; None for any other name."""
    model = MODELS.get(name)
    return model if model is not None and model.file is not None else None


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model or a repository, before anything is looked up.

    Raises:
        ValueError: if the name is unknown and no repository id, or is a repository of several original files.
    """
    of_repository = [model.name for model in MODELS.values() if model.file and model.file.repository == name]
    if of_repository:
        raise ValueError(
            f"{name!r} holds several original checkpoints; load one by its name: {', '.join(of_repository)}"
        )
    if name in MODELS or "/" in name or "\\" in name:
        return
    close = difflib.get_close_matches(name, MODELS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ValueError(
        f"unknown model {name!r}: {hint}Known names: {', '.join(MODELS)}. It is no folder here either; "
        'a Hub repository is written "user/name"'
    )
