"""SOP's terms in both settings, against the formulas; memories; and a collapse that the meters show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.data.scenes.scene import draw_scene
from stellar_hub.matching import match_tokens
from stellar_hub.training import StellarForPreTraining, StellarPreTrainingOutput
from stellar_hub.training.model.memory import draw_one_of_each
from stellar_hub.training.model.views import encode_views, encode_with_mask_tokens
from stellar_hub.training.monitoring.collapse_meters import collapse_meters
from stellar_hub.training.objectives import (
    SopTask,
    draw_sop_task,
    koleo_loss,
    sop_class_loss,
    sop_distribution,
    sop_labels,
    sop_patch_loss,
)

Build = Callable[..., StellarForPreTraining]
SOP: dict[str, Any] = {
    "token_objective": "sop",
    "teacher_momentum": 0.9,
    "sop_memory_size": 64,
    "sop_num_tasks": 2,
    "sop_num_anchors": 16,
    "sop_num_supports": 3,
    "sop_token_memory_size": 32,
    "sop_num_token_anchors": 8,
    "sop_num_token_supports": 2,
}
PATCHES = SOP | {"token_objective": "sop_patches", "koleo_weight": 0, "reconstruction_weight": 0}
CASES = {
    "tokens": SOP,
    "tokens, no matching, no local views": SOP | {"use_matching": False, "use_local_views": False},
    "tokens, other numbers": SOP | {"sop_temp": 0.2, "sop_teacher_temp": 0.07, "sop_smoothing": 0.3},
    "tokens, the paper's choice of anchors": SOP | {"sop_anchor_choice": "variation"},
    "patches": PATCHES,
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def run(model: StellarForPreTraining, views: dict[str, Tensor]) -> StellarPreTrainingOutput:
    output: StellarPreTrainingOutput = model(**views, generator=generator())
    return output


def double(views: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: view.double() if view.is_floating_point() else view for name, view in views.items()}


def distribution(embeddings: Tensor, task: SopTask, temperature: float) -> Tensor:
    return sop_distribution(embeddings, task.supports, sop_labels(task.scores), temperature)


def by_the_book(model: StellarForPreTraining, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both losses, and the rows for the memories, with every distribution at its full size."""
    config, source, teacher = model.config, generator(), model.teacher
    assert teacher is not None
    numbers = config.sop_num_anchors, config.sop_num_supports, config.sop_smoothing
    choice = config.sop_anchor_choice
    cls_tasks = [
        draw_sop_task(teacher.cls_memory.rows, *numbers, low_energy=choice, generator=source)
        for _ in range(config.sop_num_tasks)
    ]
    numbers = config.sop_num_token_anchors, config.sop_num_token_supports, config.sop_smoothing
    token_task = draw_sop_task(teacher.token_memory.rows, *numbers, generator=source)

    encoder, head = model.stellar.encoder, model.clustering_head
    patches = config.token_objective == "sop_patches"
    seen, masked, masks = [], [], []
    num_views = views["global_views"].shape[1]
    for index in range(num_views):
        view, kept = views["global_views"][:, index], views["kept_patches"].unflatten(0, (-1, num_views))[:, index]
        seen += [encode_views(teacher.encoder, view)] if index < 2 else []
        encoded, mask = encode_views(encoder, view, kept), torch.zeros(())
        if patches:
            encoded, mask = encode_with_mask_tokens(encoder, view, kept, head.mask_token)
        masked.append(encoded)
        masks.append(mask)
    local = [] if not config.use_local_views else views["local_views"].unbind(1)
    students = [head(view.cls_token) for view in [*masked, *(encode_views(encoder, view) for view in local)]]
    teachers = [teacher.clustering_head(view.cls_token) for view in seen]
    student_temp, teacher_temp = config.sop_temp, config.sop_teacher_temp
    cls_losses = [
        sop_class_loss(
            [distribution(each, task, student_temp) for each in students],
            [distribution(each, task, teacher_temp) for each in teachers],
        )
        for task in cls_tasks
    ]
    token_losses = []
    targets = seen if patches else [seen[1]] * num_views
    for view, target, mask in zip(masked, targets, masks, strict=False):  # patches of the views that both see
        mine, theirs = (view.patches, target.patches) if patches else (view.tokens, target.tokens)
        found = distribution(head(mine), token_task, student_temp)
        wanted = distribution(teacher.clustering_head(theirs), token_task, teacher_temp)
        if not patches and config.use_matching:
            index, _ = match_tokens(mine, theirs)
            wanted = torch.stack([rows[order] for rows, order in zip(wanted, index, strict=True)])
        everywhere = torch.ones(found.shape[:2])
        token_losses.append(sop_patch_loss(found, wanted, mask if patches else everywhere))
    rows = teacher.clustering_head(seen[1].patches if patches else seen[1].tokens)
    return {
        "sop_cls_loss": torch.stack(cls_losses).mean(),
        "sop_token_loss": torch.stack(token_losses).mean(),
        "new_cls_rows": teachers[1].detach(),
        "new_token_rows": draw_one_of_each(rows, generator=source).detach(),
    }


@pytest.mark.parametrize("case", CASES)
def test_losses__are_the_formulas(build_pretraining_model: Build, views: dict[str, Tensor], case: str) -> None:
    model, views = build_pretraining_model(**CASES[case]).double(), double(views)
    output, expected = run(model, views), by_the_book(model, views)
    torch.testing.assert_close({name: output[name] for name in expected}, expected, rtol=1e-8, atol=1e-10)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_sop = [expected["sop_cls_loss"] + expected["sop_token_loss"], output.sop_cls_loss + output.sop_token_loss]
    found = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in of_sop]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_stellar__keeps_reconstruction_and_koleo(build_pretraining_model: Build, views: dict[str, Tensor]) -> None:
    model, views = build_pretraining_model(**SOP), dict(views)
    output = run(model, views)
    clean = encode_views(model.stellar.encoder, views["pixel_values"])
    masked = encode_views(model.stellar.encoder, views["global_views"].flatten(0, 1), views["kept_patches"])
    spread = koleo_loss(clean.tokens) + koleo_loss(masked.tokens)
    torch.testing.assert_close(output.koleo_loss, 0.1 * spread, rtol=1e-5, atol=1e-6)
    assert output.reconstruction_loss is not None
    weighted = 10 * output.reconstruction_loss
    total = output.koleo_loss + weighted + output.sop_cls_loss + output.sop_token_loss
    torch.testing.assert_close(output.loss, total, rtol=1e-6, atol=0)
    torch.testing.assert_close(output.tokens, clean.tokens.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [SOP, PATCHES], ids=["tokens", "patches"])
class TestBoth:
    def test_gradients__reach_every_trainable_parameter_and_no_other(
        self, build_pretraining_model: Build, views: dict[str, Tensor], options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        output = run(model, views)
        assert output.loss is not None
        output.loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        outside = [output.tokens, output.mean_assignment, output.anchors, output.new_cls_rows, output.new_token_rows]
        assert not any(tensor is None or tensor.requires_grad for tensor in outside)
        assert isinstance(output.mean_assignment, Tensor)
        torch.testing.assert_close(output.mean_assignment.sum(), torch.tensor(1.0), rtol=1e-5, atol=0)
        assert output.agreement is not None
        assert -1 <= float(output.agreement) <= 1

    def test_memories__take_the_teachers_second_view_once_asked_to(
        self, build_pretraining_model: Build, views: dict[str, Tensor], options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        output = run(model, views)
        model.write_memories(output)
        for memory, rows in (
            (model.teacher.cls_memory, output.new_cls_rows),
            (model.teacher.token_memory, output.new_token_rows),
        ):
            assert rows is not None
            assert torch.equal(memory.rows[: len(rows)], rows)
            assert int(memory.position) == len(rows)

    def test_anchors__are_the_generators(
        self, build_pretraining_model: Build, views: dict[str, Tensor], options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        first, again = run(model, views), run(model, views)
        other = model(**views, generator=torch.Generator().manual_seed(8))
        assert torch.equal(first.loss, again.loss)
        assert not torch.equal(first.anchors, other.anchors)
        assert not torch.equal(first.loss, other.loss)
        rows = model.teacher.cls_memory.rows
        assert all((rows == anchor).all(dim=1).any() for anchor in first.anchors)

    def test_autocast__leaves_losses_and_memories_in_float32(
        self, build_pretraining_model: Build, views: dict[str, Tensor], options: dict[str, Any]
    ) -> None:
        model = build_pretraining_model(**options)
        expected = run(model, views)
        with torch.autocast("cpu", torch.bfloat16):
            output = run(model, views)
        for name in ("sop_cls_loss", "sop_token_loss", "new_cls_rows", "new_token_rows"):
            assert output[name].dtype == torch.float32
            torch.testing.assert_close(output[name], expected[name], rtol=0.05, atol=0.05)

    def test_checkpoint__brings_memories_back_and_inference_leaves_them_out(
        self, build_pretraining_model: Build, views: dict[str, Tensor], options: dict[str, Any], tmp_path: Any
    ) -> None:
        model = build_pretraining_model(**options)
        model.write_memories(run(model, views))
        model.save_pretrained(tmp_path / "all")
        again = StellarForPreTraining.from_pretrained(tmp_path / "all")
        assert again.newly_initialized == ()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
        names = model.stellar.state_dict().keys()
        assert not any("memory" in name or "clustering" in name or "mask_token" in name for name in names)
        inference = type(model.stellar).from_pretrained(tmp_path / "all")
        assert inference.state_dict().keys() == names

    def test_inference_checkpoint__begins_with_new_memories_and_a_copy_as_teacher(
        self, build_pretraining_model: Build, options: dict[str, Any], tmp_path: Any
    ) -> None:
        model = build_pretraining_model(**options)
        model.stellar.save_pretrained(tmp_path)
        begun = StellarForPreTraining.from_pretrained(tmp_path)
        assert set(begun.newly_initialized) == {"clustering_head", "teacher"}
        norms = begun.teacher.cls_memory.rows.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        student, teacher = begun.clustering_head.state_dict(), begun.teacher.clustering_head.state_dict()
        assert all(torch.equal(student[name], tensor) for name, tensor in teacher.items())


def test_hidden_patches__are_all_that_patches_learn_from(
    build_pretraining_model: Build, views: dict[str, Tensor]
) -> None:
    model = build_pretraining_model(**PATCHES).double()
    everything = torch.arange(16).repeat(6, 1)
    assert float(run(model, double(views) | {"kept_patches": everything}).sop_token_loss.detach()) == 0


def train(model: StellarForPreTraining, images: Tensor, anew: bool, steps: int = 40) -> dict[str, float]:
    """Trains on images whose views differ in brightness, and returns the last step's meters.

    `anew` draws anchors in each step from what the teacher has seen; without it they are noise and stay the same.
    """
    source = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # for the masks
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=2e-3)
    for step in range(steps):
        model.update_teacher()
        batch = images[torch.randperm(len(images), generator=source)[:16], None].expand(-1, 2, -1, -1, -1)
        views = (batch * (0.7 + 0.6 * torch.rand(16, 2, 3, 1, 1, generator=source))).clamp(0, 1)
        output = model(views[:, 0], views, generator=torch.Generator().manual_seed(step if anew else 0))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        if anew:
            model.write_memories(output)
    return collapse_meters(output)


@pytest.mark.slow
def test_anchors_that_never_change__are_a_collapse_that_the_meters_show(build_pretraining_model: Build) -> None:
    images = torch.stack([torch.from_numpy(draw_scene(index, 32).image.copy()) for index in range(64)])
    images = F.interpolate(images.permute(0, 3, 1, 2) / 255, 32)
    sizes = {"sop_memory_size": 256, "sop_num_anchors": 32, "sop_token_memory_size": 128, "sop_num_token_anchors": 16}
    options = SOP | sizes | {"use_local_views": False, "sop_num_token_supports": 1}
    fixed = train(build_pretraining_model(**options), images, anew=False)
    drawn = train(build_pretraining_model(**options), images, anew=True)
    # All tokens go to a few anchors, and agree for that reason alone.
    assert fixed["assignment_entropy"] < 0.4
    assert fixed["agreement"] > 0.95
    assert drawn["assignment_entropy"] > 0.8
