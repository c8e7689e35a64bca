"""Baselines as objectives: alone or beside other terms, the meters' view of them, and a collapse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.scenes.scene import draw_scene
from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.model.baseline_terms import ALONE, BASELINE, objective
from stellar_hub.training.model.sop_terms import OBJECTIVES
from stellar_hub.training.monitoring.collapse_meters import collapse_meters

Build = Callable[..., StellarForPreTraining]
NOTHING_ELSE: dict[str, Any] = {"token_objective": "none", "reconstruction_weight": 0, "koleo_weight": 0}


@pytest.fixture(autouse=True)
def _with_lightly() -> None:
    pytest.importorskip("lightly.loss.lejepa_loss", reason="needs the extra baselines")


def test_objective__has_the_baseline_as_its_last_term() -> None:
    assert objective(StellarConfig())[1] == OBJECTIVES["prototypes"][1]
    assert objective(StellarConfig(baseline_loss="swav"))[1] == (*OBJECTIVES["prototypes"][1], BASELINE)
    assert objective(StellarConfig(baseline_loss="swav", token_objective="none"))[1] == ALONE


def test_baseline_alone__has_no_clustering_and_leaves_the_decoder_untrained(
    build_pretraining_model: Build, views: dict[str, Tensor]
) -> None:
    model = build_pretraining_model(**NOTHING_ELSE, baseline_loss="barlow_twins")
    assert {name for name, _ in model.named_children()} == {"stellar", "baseline"}
    output = model(**views)
    output.loss.backward()
    assert [name for name in output if name.endswith("_loss")] == ["baseline_loss"]
    for name, parameter in model.named_parameters():
        trained = not name.startswith(("stellar.decoder.", "stellar.localization."))
        assert (parameter.grad is not None) == trained == parameter.requires_grad, name
    assert (tuple(output.tokens.shape), tuple(output.localization.shape)) == ((2, 4, 48), (2, 16, 4))
    assert not output.tokens.requires_grad


def test_reconstruction_and_koleo__may_stay(build_pretraining_model: Build, views: dict[str, Tensor]) -> None:
    model = build_pretraining_model(token_objective="none", baseline_loss="swav", baseline_weight=0.5)
    output = model(**views)
    expected = output.koleo_loss + 10 * output.reconstruction_loss + 0.5 * output.baseline_loss
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    plain = build_pretraining_model(use_cls_head=False, use_local_views=False)
    plain.stellar.load_state_dict(model.stellar.state_dict())
    same = plain(**views)
    for name in ("koleo_loss", "reconstruction_loss", "tokens"):
        torch.testing.assert_close(output[name], same[name], rtol=0, atol=0)


def train(model: StellarForPreTraining, images: Tensor, centered: bool, steps: int = 100) -> dict[str, float]:
    """Trains on images whose views differ in brightness, and returns the last step's meters.

    Without `centered`, DINO's center stays where it is.
    """
    source = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-3)
    for _ in range(steps):
        model.update_teacher()
        batch = images[torch.randperm(len(images), generator=source)[:16], None].expand(-1, 2, -1, -1, -1)
        views = (batch * (0.7 + 0.6 * torch.rand(16, 2, 3, 1, 1, generator=source))).clamp(0, 1)
        output = model(views[:, 0], views, views[..., :16, :16])
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if centered:
            model.write_memories(output)
    return collapse_meters(output)


@pytest.mark.slow
def test_dino_without_its_center__is_a_collapse_that_the_meters_show(build_pretraining_model: Build) -> None:
    images = torch.stack([torch.from_numpy(draw_scene(index, 32).image.copy()) for index in range(64)])
    images = F.interpolate(images.permute(0, 3, 1, 2) / 255, 32)
    options = NOTHING_ELSE | {"baseline_loss": "dino", "teacher_momentum": 0.96}
    fixed, moving = (train(build_pretraining_model(**options), images, centered) for centered in (False, True))
    assert fixed["projection_diversity"] < 1.01
    assert moving["projection_diversity"] > 1.3
