"""What pushed repositories and people's scripts rely on: a change here changes the interface, so make it knowingly.

Public names, members of classes, command-line flags, configuration fields and state-dict keys are pinned. Adding is
fine (add it here too); renaming or removing breaks checkpoints or scripts that exist.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from torch import nn

import stellar_hub
from stellar_hub.cli.main import app
from stellar_hub.modeling import (
    StellarConfig,
    StellarEncoding,
    StellarImageProcessor,
    StellarModel,
    StellarPreTrainedModel,
)
from stellar_hub.modeling.feature_calls import FeatureCalls
from stellar_hub.modeling.intermediates_stellar import StellarIntermediatesModel

MODEL_BASES = (FeatureCalls, StellarIntermediatesModel, StellarPreTrainedModel)
PINNED = Path(__file__).parent / "data" / "public_contract.json"


def public_names() -> list[str]:
    return sorted(stellar_hub.__all__)


def command_line() -> dict[str, list[str]]:
    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for name, command in list(commands.items()):
        commands |= {f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()}
    return {
        name: sorted(option for parameter in command.params for option in parameter.opts)
        for name, command in sorted(commands.items())
    }


def members() -> dict[str, list[str]]:
    """What our classes add to those of transformers."""
    classes = {StellarEncoding: (), StellarImageProcessor: (), StellarModel: MODEL_BASES}
    return {
        cls.__name__: sorted({name for each in (cls, *bases) for name in vars(each) if not name.startswith("_")})
        for cls, bases in classes.items()
    }


def config_fields() -> list[str]:
    return sorted(StellarConfig.__annotations__)


def state_dict_keys(build_model: Callable[..., StellarModel]) -> dict[str, list[str]]:
    options = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "layer_scale_init_value": 0.1}
    return {head: sorted(build_model(reconstruction_head=head, **options).state_dict()) for head in ("vq", "pixel")}


def pretraining_state_dict_keys(build_pretraining_model: Callable[..., nn.Module]) -> list[str]:
    """With all parts, the teacher and the tokenizer's encoder included."""
    options = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "layer_scale_init_value": 0.1}
    return sorted(build_pretraining_model(reconstruction_head="vq", teacher_momentum=0.9, **options).state_dict())


@pytest.fixture
def contract(
    build_model: Callable[..., StellarModel], build_pretraining_model: Callable[..., nn.Module]
) -> dict[str, object]:
    """The interface as it is."""
    return {
        "public_names": public_names(),
        "members": members(),
        "command_line": command_line(),
        "config_fields": config_fields(),
        "state_dict_keys": state_dict_keys(build_model),
        "pretraining_state_dict_keys": pretraining_state_dict_keys(build_pretraining_model),
    }


PARTS = ["public_names", "members", "command_line", "config_fields", "state_dict_keys", "pretraining_state_dict_keys"]


@pytest.mark.parametrize("part", PARTS)
def test_interface__is_the_pinned_one(contract: dict[str, object], part: str) -> None:
    """To change it: `python -m pytest tests/test_public_contract.py` shows the difference; edit the file by hand."""
    assert contract[part] == json.loads(PINNED.read_text())[part]
