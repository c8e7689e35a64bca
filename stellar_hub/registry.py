"""The pretrained models that `from_pretrained` knows by name, as data. A new published model belongs here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stellar_hub.old_names import did_you_mean

EMBEDDED_FOLDER = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class HubFile:
    """A file at a pinned commit of a Hub repository.

    Attributes:
        repository: Repository, such as "user/name".
        name: Path of the file in the repository.
        revision: Hash of the commit.
        megabytes: Size in 10^6 bytes.
        license: License of the content.
        sha256: SHA-256 of the content; None means the Hub's own record of the file.
    """

    repository: str
    name: str
    revision: str
    megabytes: int
    license: str
    sha256: str | None = None


@dataclass(frozen=True)
class PretrainedModel:
    """A pretrained model.

    Attributes:
        name: Name for `from_pretrained`.
        architecture: Architecture in a few words.
        license: License of the weights.
        notes: Purpose of the model in a few words.
        file: Original file on the Hub; None for a model that comes with the package.
        config: Fields of `StellarConfig` that differ from the defaults, which are stellar-b16's.
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
            "stellar-tiny", "ViT 192/6, patch 8 at 128, 16 tokens, pixel", "Apache-2.0", "a demonstration, for tests"
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
    """Returns the names that `from_pretrained` knows; `stellar_hub.registry.MODELS` describes each model."""
    return list(MODELS)


def embedded_folder(name: str) -> Path | None:
    """Returns the folder of a model that comes with the package; None for any other name."""
    model = MODELS.get(name)
    return EMBEDDED_FOLDER / name if model is not None and model.file is None else None


def published(name: str) -> PretrainedModel | None:
    """Returns the model of this name if its original file is on the Hub; None for any other name."""
    model = MODELS.get(name)
    return model if model is not None and model.file is not None else None


def check_name(name: str) -> None:
    """Raises ValueError unless a name can be a model or a repository; it does not use the network.

    The repository of the original files is refused too, because it has several models.
    """
    originals = [model.name for model in MODELS.values() if model.file and model.file.repository == name]
    if originals:
        raise ValueError(f"{name!r} has several original checkpoints: load one by its name, {', '.join(originals)}")
    if name in MODELS or "/" in name or "\\" in name:
        return
    hint = did_you_mean(name, MODELS, cutoff=0.5) or "."
    raise ValueError(
        f"{name!r} is neither a known model nor a folder here{hint} The known names are {', '.join(MODELS)}. "
        'A Hub repository is written "user/name"'
    )
