"""Runs with a baseline of lightly: resumed, exported, and what is refused at the start."""

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stellar_hub.modeling import StellarModel
from stellar_hub.training.run import build_run
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import STEP_2, assert_same_weights, journal_of, recipe_for, weights_of

pytest.importorskip("lightly.loss.lejepa_loss", reason="needs the extra baselines")

ALONE = ("token_objective=none", "reconstruction_weight=0", "koleo_weight=0")
METHODS = {
    "barlow_twins": ("baseline_loss=barlow_twins",),
    "swav": ("baseline_loss=swav", "baseline_feature=cls"),
    "dino": ("baseline_loss=dino", "model.config.teacher_momentum=0.9"),
    "lejepa": ("baseline_loss=lejepa",),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resumed_run__ends_with_the_same_bits(method: str, image_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_for(image_folder, *ALONE, *METHODS[method])
    train(recipe, tmp_path / "whole", cpu=True)
    train(recipe, tmp_path / "resumed", resume=tmp_path / "whole" / STEP_2, cpu=True)
    assert_same_weights(tmp_path / "resumed", tmp_path / "whole")
    weights, before = weights_of(tmp_path / "whole"), load_file(tmp_path / "whole" / STEP_2 / "model.safetensors")
    moved = {name for name in weights if name.startswith("baseline.") and not weights[name].equal(before[name])}
    assert ("baseline.loss.center" in moved) == (method == "dino")
    assert any(name.startswith("baseline.head.projection.") for name in moved)
    last = journal_of(tmp_path / "whole")[-1]
    assert last["loss"] == pytest.approx(last["baseline_loss"])
    assert last["projection_diversity"] >= 1
    assert "clustering_loss" not in last


@pytest.mark.slow
def test_export__has_the_model_alone(image_folder: Path, tmp_path: Path) -> None:
    train(recipe_for(image_folder, *METHODS["dino"]), tmp_path / "run", cpu=True)
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    model = StellarModel.from_pretrained(tmp_path / "run" / "model")
    assert exported.keys() == model.state_dict().keys()
    assert model.config.baseline_loss == "dino"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("baseline_loss=swav", "num_global_views=1"), "needs at least 2 global views per image"),
        (("baseline_loss=lejepa", "num_local_views=0"), "needs at least 1 local view per image"),
        (("baseline_loss=swav", "batch_size=1"), "needs at least 2 images per batch"),
    ],
)
def test_run__that_cannot_compare_is_refused(
    overrides: tuple[str, ...], message: str, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build_run(recipe_for(image_folder, *overrides), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_missing_extra__is_told_before_images_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss.lejepa_loss", None)
    with pytest.raises(ImportError, match=r"pip install 'stellar_hub\[baselines\]'"):
        build_run(recipe_for(tmp_path / "nothing", "baseline_loss=swav"), tmp_path / "run", cpu=True)
