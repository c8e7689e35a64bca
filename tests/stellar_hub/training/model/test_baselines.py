"""Baselines: lightly's own numbers, alone and in two processes; state, loading, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training import StellarForPreTraining, StellarPreTrainingOutput
from stellar_hub.training.model.baselines import check_baseline, require_lightly, seeded_by
from stellar_hub.training.model.views import encode_views
from tests.conftest import build_for_pretraining
from tests.training_processes import FORKS, free_port

lightly_losses = pytest.importorskip("lightly.loss.lejepa_loss", reason="needs the extra baselines")
lightly: Any = sys.modules["lightly"]

Build = Callable[..., StellarForPreTraining]
Views = dict[str, Tensor]
ALONE: dict[str, Any] = {"token_objective": "none", "reconstruction_weight": 0, "koleo_weight": 0}
METHODS: dict[str, dict[str, Any]] = {
    "barlow_twins": {"baseline_loss": "barlow_twins"},
    "swav": {"baseline_loss": "swav"},
    "dino": {"baseline_loss": "dino", "teacher_momentum": 0.9},
    "lejepa": {"baseline_loss": "lejepa"},
}


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(model: StellarForPreTraining, views: Views) -> StellarPreTrainingOutput:
    output: StellarPreTrainingOutput = model(**views, generator=seeded())
    assert output.loss is not None
    return output


def features(encoder: Any, views: Tensor, feature: str) -> list[Tensor]:
    """What a baseline compares, `(B, d)` for each of the views `(B, V, 3, H, W)`."""
    encoded = [encode_views(encoder, view) for view in views.unbind(1)]
    return [each.cls_token if feature == "cls" else each.tokens.mean(dim=1) for each in encoded]


def by_lightly(model: StellarForPreTraining, views: Views) -> Tensor:
    """The loss as users of lightly write it: a head for each view, then the loss."""
    config, head = model.config, model.baseline.head
    encoder, method = model.stellar.encoder, config.baseline_loss
    whole = [head.projection(view) for view in features(encoder, views["global_views"], config.baseline_feature)]
    local = [head.projection(view) for view in features(encoder, views["local_views"], config.baseline_feature)]
    if method == "barlow_twins":
        return lightly.loss.BarlowTwinsLoss()(whole[0], whole[1])
    if method == "swav":
        head.prototypes.normalize()
        scores = [[head.prototypes(F.normalize(view, dim=1)) for view in part] for part in (whole, local)]
        return lightly.loss.SwaVLoss()(*scores)[0]
    if method == "dino":
        teacher = features(model.teacher.encoder, views["global_views"], config.baseline_feature)
        loss = lightly.loss.DINOLoss(config.num_prototypes).to(whole[0])
        loss.center.copy_(model.baseline.loss.center)
        return loss([model.teacher.baseline_head.projection(view) for view in teacher], whole + local)
    with seeded_by(seeded(), torch.device("cpu")):
        return lightly.loss.LeJEPALoss()(local_proj=torch.stack(local), global_proj=torch.stack(whole))


@pytest.mark.parametrize("feature", ["pooled", "cls"])
@pytest.mark.parametrize("method", METHODS)
class TestLoss:
    def test_loss__is_lightlys_own(
        self, build_pretraining_model: Build, views: Views, method: str, feature: str
    ) -> None:
        model = build_pretraining_model(**ALONE, **METHODS[method], baseline_feature=feature)
        if method == "dino":
            model.baseline.loss.center.normal_(generator=seeded())
        output = run(model, views)
        with torch.no_grad():
            torch.testing.assert_close(output.baseline_loss, by_lightly(model, views), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(output.loss, output.baseline_loss, rtol=0, atol=0)
        first = features(model.stellar.encoder, views["global_views"], feature)[0]
        expected = model.baseline.head(first).detach()
        expected = (expected / 0.1).softmax(dim=-1) if method in ("swav", "dino") else expected
        torch.testing.assert_close(output.projections, expected)

    def test_loss__is_one_more_term_beside_those_of_stellar(
        self, build_pretraining_model: Build, views: Views, method: str, feature: str
    ) -> None:
        options = METHODS[method] | {"baseline_feature": feature, "baseline_weight": 0.25}
        model = build_pretraining_model(**options)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        output = run(model, views)
        terms = [value for name, value in output.items() if name.endswith("_loss") and name != "baseline_loss"]
        assert len(terms) == 6
        weight = model.reconstruction_weight - 1
        expected = sum(terms) + weight * output.reconstruction_loss + 0.25 * output.baseline_loss
        torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
        output.loss.backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
class TestMethod:
    def test_bfloat16_autocast__reaches_neither_head_nor_loss(
        self, build_pretraining_model: Build, views: Views, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = build_pretraining_model(**ALONE, **METHODS[method])
        seen = []
        model.baseline.head.register_forward_hook(lambda part, inputs, output: seen.append((inputs[0], output)))
        with torch.autocast("cpu", torch.bfloat16):
            output = run(model, views)
        assert {tensor.dtype for pair in seen for tensor in pair} == {torch.float32}
        assert output.baseline_loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, run(model, views).loss, rtol=0.05, atol=0)

    def test_checkpoint__brings_the_state_back_and_inference_leaves_it_out(
        self, build_pretraining_model: Build, views: Views, method: str, tmp_path: Path
    ) -> None:
        model = build_pretraining_model(**ALONE, **METHODS[method])
        model.write_memories(run(model, views))
        model.save_pretrained(tmp_path / "all")
        again = StellarForPreTraining.from_pretrained(tmp_path / "all").train()
        assert again.newly_initialized == ()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
        assert torch.equal(run(again, views).loss, run(model, views).loss)
        assert StellarModel.from_pretrained(tmp_path / "all").state_dict().keys() == model.stellar.state_dict().keys()

    def test_inference_checkpoint__begins_with_what_lightly_begins_with(
        self, build_pretraining_model: Build, views: Views, method: str, tmp_path: Path
    ) -> None:
        model = build_pretraining_model(**ALONE, **METHODS[method])
        model.stellar.save_pretrained(tmp_path)
        torch.manual_seed(3)
        begun = StellarForPreTraining.from_pretrained(tmp_path).train()
        assert set(begun.newly_initialized) == {"baseline", *(["teacher"] if method == "dino" else [])}
        assert all(tensor.isfinite().all() for tensor in begun.state_dict().values())
        weight = begun.baseline.head.projection.layers[0].weight  # as nn.Linear, or 0.02 by DINO
        torch.testing.assert_close(
            weight.std().item(), 0.02 if method == "dino" else (3 * 48) ** -0.5, rtol=0.1, atol=0
        )
        if method == "dino":
            student, teacher = begun.baseline.head.state_dict(), begun.teacher.baseline_head.state_dict()
            assert all(torch.equal(student[name], tensor) for name, tensor in teacher.items())
            torch.testing.assert_close(student["projection.last_layer.weight_g"], torch.ones(16, 1))
        assert run(begun, views).loss.isfinite()


def test_center__is_written_by_the_loop_alone(build_pretraining_model: Build, views: Views) -> None:
    model = build_pretraining_model(**ALONE, **METHODS["dino"])
    center = model.baseline.loss.center
    output = run(model, views)
    assert not center.any()
    model.write_memories(output)
    teacher = features(model.teacher.encoder, views["global_views"], "pooled")
    outputs = torch.stack([model.teacher.baseline_head(view) for view in teacher])
    torch.testing.assert_close(center, 0.1 * outputs.mean(dim=(0, 1), keepdim=True))
    assert center is model.baseline.loss.center


def test_teacher__follows_the_head(build_pretraining_model: Build) -> None:
    model = build_pretraining_model(**ALONE, **METHODS["dino"])
    model.update_teacher(0.0)
    student = model.baseline.head.state_dict()
    assert all(torch.equal(student[name], tensor) for name, tensor in model.teacher.baseline_head.state_dict().items())


def test_directions__are_those_of_the_generator(build_pretraining_model: Build, views: Views) -> None:
    model = build_pretraining_model(**ALONE, **METHODS["lejepa"])
    state = torch.get_rng_state()
    first, again, other = (float(model(**views, generator=seeded(seed)).loss.detach()) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def step_of_own_images(rank: int, port: int, method: str, views: Views, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(step(method, {name: view.chunk(2)[rank] for name, view in views.items()}), folder / f"{rank}.pt")
    dist.destroy_process_group()


def step(method: str, views: Views) -> Views:
    """The loss, DINO's center and all gradients of a batch, in float64; gradients as DDP averages them."""
    model = build_for_pretraining(**ALONE, **METHODS[method]).double()
    output = model(**views, generator=seeded())
    output.loss.backward()
    model.write_memories(output)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    if dist.is_initialized():
        for gradient in found.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return found | {"loss": output.loss.detach(), **dict(model.baseline.named_buffers())}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes__do_the_step_of_one(method: str, tmp_path: Path) -> None:
    views = {
        "pixel_values": torch.rand(4, 3, 32, 32, generator=seeded(1), dtype=torch.float64),
        "global_views": torch.rand(4, 2, 3, 32, 32, generator=seeded(2), dtype=torch.float64),
        "local_views": torch.rand(4, 2, 3, 16, 16, generator=seeded(3), dtype=torch.float64),
    }
    port = free_port()
    arguments = (port, method, views, tmp_path)
    processes = [FORKS.Process(target=step_of_own_images, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    expected = step(method, views)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # positions are resampled in float32


@pytest.mark.parametrize(
    ("method", "numbers", "message"),
    [
        ("barlow_twins", (1, 2, 4), "'barlow_twins' needs at least 2 global views .*num_global_views=1"),
        ("lejepa", (2, 0, 4), "'lejepa' needs at least 1 local view .*num_local_views=0"),
        ("swav", (2, 0, 1), "'swav' needs at least 2 images per batch, got batch_size=1"),
    ],
)
def test_too_few_views_or_images__are_named(method: str, numbers: tuple[int, int, int], message: str) -> None:
    config = StellarConfig(**METHODS[method])
    with pytest.raises(ValueError, match=message):
        check_baseline(config, *numbers)
    check_baseline(config, 2, 1, 2)
    check_baseline(StellarConfig(), 1, 0, 1)


def test_one_global_view__is_refused_by_the_model(build_pretraining_model: Build, views: Views) -> None:
    model = build_pretraining_model(**METHODS["swav"])
    one = {"global_views": views["global_views"][:, :1], "kept_patches": views["kept_patches"][:2]}
    with pytest.raises(ValueError, match="at least 2 global views"):
        run(model, views | one)


def test_missing_extra__is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss.lejepa_loss", None)
    with pytest.raises(
        ImportError, match=r"baseline_loss='dino' needs lightly: pip install 'stellar_hub\[baselines\]'"
    ):
        require_lightly("dino")
