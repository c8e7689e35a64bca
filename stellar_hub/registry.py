"""The names that `from_pretrained` knows, as data."""

import difflib
from dataclasses import dataclass
from pathlib import Path

EMBEDDED_FOLDER = Path(__file__).parent / "checkpoints"
REPOSITORY = "microsoft/STELLAR"
REVISION = "6794be9a20fb9d3944c5bcc6003512a347fa518f"


@dataclass(frozen=True)
class PretrainedModel:
    """One pretrained model.

    Attributes:
        name: What `from_pretrained` takes.
        architecture: In a few words.
        licence: Of its weights.
        notes: What it is for.
        file: Its file in the Hub repository `microsoft/STELLAR`; None for a model inside the package.
    """

    name: str
    architecture: str
    licence: str
    notes: str
    file: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether the model comes with the package."""
        return self.file is None


def _published(name: str, architecture: str, notes: str) -> PretrainedModel:
    return PretrainedModel(name, architecture, "MIT", notes, f"{name}.safetensors")


MODELS = {
    model.name: model
    for model in (
        PretrainedModel(
            "stellar-tiny", "ViT 192/6, patch 8 at 64, 16 tokens, pixel head", "Apache-2.0", "demonstration, tests"
        ),
        _published("stellar-b16", "ViT-B/16 at 224, 16 tokens, vq head", "published"),
        _published("stellar-l16", "ViT-L/16 at 224, 16 tokens, vq head", "published"),
        _published("stellar-h16", "ViT-H/14 at 224, 16 tokens, vq head", "published"),
        _published("stellar-b8", "ViT-B/16 at 224, 8 tokens, vq head", "ablation of the number of tokens"),
        _published("stellar-b24", "ViT-B/16 at 224, 24 tokens, vq head", "ablation of the number of tokens"),
    )
}


def locate(name: str) -> str:
    """The folder of an embedded model; a repository id ("user/name") unchanged.

    Raises:
        ValueError: if the name is neither: a published model, which has to be converted first, or unknown.
    """
    model = MODELS.get(name)
    if model is not None and model.embedded:
        return str(EMBEDDED_FOLDER / name)
    if model is not None:
        raise ValueError(
            f"{name!r} is not loaded by name yet: download {model.file} from the Hub repository {REPOSITORY} "
            f"(revision {REVISION}), run `stellar-hub convert {model.file} --output {name}`, and load the folder"
        )
    if "/" in name or "\\" in name:
        return name
    close = difflib.get_close_matches(name, MODELS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ValueError(
        f"unknown model {name!r}: {hint}Known names: {', '.join(MODELS)}. It is no folder here either; "
        'a Hub repository is written "user/name"'
    )
