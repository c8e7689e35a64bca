"""What a configuration may combine of baselines and other objectives; it needs no lightly."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from stellar_hub.modeling import StellarConfig

ALONE = {"token_objective": "none"}
DINO = {"baseline_loss": "dino", "teacher_momentum": 0.9}
PATCHES = {"token_objective": "sop_patches", "reconstruction_weight": 0, "koleo_weight": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline_loss": "dino"}, "baseline_loss='dino' needs a teacher: set teacher_momentum"),
        ({"baseline_loss": "lejepa", "use_local_views": False}, "'lejepa' needs local views: set use_local_views"),
        (ALONE, "'none' is for a baseline alone: set baseline_loss"),
        (ALONE | {"baseline_loss": "swav", "teacher_momentum": 0.9}, "does not use a teacher: set teacher_momentum=N"),
        (ALONE | {"baseline_loss": "swav", "use_global_align": True}, "'none' excludes use_global_align"),
        (PATCHES | DINO, "'dino' and token_objective='sop_patches', .*exclude each other"),
        ({"baseline_weight": 0}, "baseline_weight must be above 0 and finite, got 0"),
        ({"baseline_weight": float("nan")}, "baseline_weight .* got nan"),
    ],
)
def test_combination__that_cannot_be_is_named_with_the_next_step(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=message) as caught:
        StellarConfig(**options)
    assert "\n" not in str(caught.value.__cause__)


@pytest.mark.parametrize("options", [{"baseline_loss": "simclr"}, {"baseline_feature": "patches"}])
def test_unknown_names__are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(options))):
        StellarConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"baseline_loss": "swav"},
        DINO | {"token_objective": "sop"},
        ALONE | DINO,
        ALONE | {"baseline_loss": "lejepa", "use_cls_head": False, "baseline_feature": "cls", "baseline_weight": 2},
    ],
)
def test_combination__that_can_be_is_saved(options: dict[str, Any], tmp_path: Path) -> None:
    StellarConfig(**options).save_pretrained(tmp_path)
    loaded = StellarConfig.from_pretrained(tmp_path).to_dict()
    assert {name: loaded[name] for name in options} == options
