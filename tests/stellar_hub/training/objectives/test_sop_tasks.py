"""Tasks of SOP: what is drawn, and that neither drawing nor the losses wait for the device."""

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stellar_hub.training.model.memory import EmbeddingMemory, draw_one_of_each
from stellar_hub.training.objectives import (
    draw_anchors,
    draw_low_energy,
    draw_sop_task,
    fused_sop_class_loss,
    fused_sop_patch_loss,
    sop_supports,
)
from stellar_hub.training.objectives.sop_tasks import LowEnergy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_rows(num_rows: int, width: int = 4) -> Tensor:
    return F.normalize(torch.randn(num_rows, width, generator=seeded()), dim=1)


def test_anchors__are_distinct_and_those_of_the_generator() -> None:
    anchors = draw_anchors(20, 12, generator=seeded(1))
    assert len(set(anchors.tolist())) == 12
    assert anchors.tolist() == draw_anchors(20, 12, generator=seeded(1)).tolist()
    assert anchors.tolist() != draw_anchors(20, 12, generator=seeded(2)).tolist()


@pytest.mark.parametrize("rule", get_args(LowEnergy))
@pytest.mark.parametrize("num_supports", [1, 2, 4])
def test_low_energy__keeps_distinct_halves(rule: LowEnergy, num_supports: int) -> None:
    for num_anchors, expected in ((8, 4), (5, 2), (1, 1)):
        kept = draw_low_energy(torch.rand(num_anchors, num_supports), rule, generator=seeded())
        assert len(set(kept.tolist())) == expected
        assert 0 <= kept.min() <= kept.max() < num_anchors


@pytest.mark.parametrize(("rule", "expected"), [("uniform", 0.5), ("variation", 1.0)])
def test_low_energy__of_variation_prefers_even_neighbours(rule: LowEnergy, expected: float) -> None:
    even = torch.tensor([0.8, 0.79999, 0.9]).expand(50, 3)
    uneven = torch.tensor([0.9, 0.1, 0.9]).expand(50, 3)
    kept = draw_low_energy(torch.cat([even, uneven]), rule, generator=seeded())
    assert (kept < 50).float().mean().item() == pytest.approx(expected, abs=0.15)


def test_low_energy__refuses_other_rules() -> None:
    with pytest.raises(ValueError, match="'uniform' or 'variation', got 'half'"):
        draw_low_energy(torch.rand(4, 2), "half")  # type: ignore[arg-type]


def test_task__has_the_supports_of_the_drawn_anchors() -> None:
    memory = unit_rows(20)
    supports, scores = draw_sop_task(memory, 6, 3, 0.2, generator=seeded(1))
    expected = sop_supports(memory, draw_anchors(20, 6, generator=seeded(1)), 3, 0.2)
    torch.testing.assert_close(supports, memory[expected.rows], rtol=0, atol=0)
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=0)


def test_task__of_low_energy_is_a_half_of_the_whole_one() -> None:
    memory = unit_rows(20)
    whole = draw_sop_task(memory, 6, 3, generator=seeded(1))
    half = draw_sop_task(memory, 6, 3, low_energy="uniform", generator=seeded(1))
    assert half.supports.shape == (9, 4)
    blocks = whole.supports.view(6, 3, 4)
    for scores, block in zip(half.scores, half.supports.view(3, 3, 4), strict=True):
        (place,) = ((blocks == block).flatten(1).all(dim=1)).nonzero()[:, 0].tolist()
        torch.testing.assert_close(scores, whole.scores[place], rtol=0, atol=0)


@pytest.mark.parametrize(("num_anchors", "num_supports", "message"), [(21, 1, "20 rows.*got 21"), (6, 16, "got 16")])
def test_task__refuses_a_memory_that_is_too_small(num_anchors: int, num_supports: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_sop_task(unit_rows(20), num_anchors, num_supports)


class WaitsForTheDevice(TorchDispatchMode):
    """Notes operations whose result the host must know, which on a GPU makes it wait."""

    OPERATIONS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.bincount")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith((*self.OPERATIONS, "aten.multinomial")):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", get_args(LowEnergy))
def test_step__never_waits_for_the_device(rule: LowEnergy) -> None:
    memory = EmbeddingMemory(20, 4)
    student, teacher = (F.normalize(torch.randn(2, 3, 4), dim=-1) for _ in range(2))
    student.requires_grad_()
    with WaitsForTheDevice() as waits:
        torch.zeros(1).item()
        assert waits.seen == ["aten._local_scalar_dense.default"]  # it is seen
        waits.seen.clear()
        task = draw_sop_task(memory.rows, 6, 3, low_energy=rule)
        loss = fused_sop_class_loss(student.unbind(), teacher.unbind(), *task)
        loss = loss + fused_sop_patch_loss(student, teacher, torch.tensor([[1, 0, 1], [0, 0, 0]]), *task)
        loss.backward()
        memory.write(draw_one_of_each(teacher))
        assert waits.seen == []
