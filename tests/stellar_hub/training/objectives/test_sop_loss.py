"""The losses of SOP in chunks, against their formulas in `sop.py`."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stellar_hub.training.objectives import (
    fused_sop_class_loss,
    fused_sop_patch_loss,
    sop_class_loss,
    sop_distribution,
    sop_labels,
    sop_loss,
    sop_patch_loss,
    sop_teacher_distribution,
)
from stellar_hub.training.objectives.sop import cross_entropy
from stellar_hub.training.objectives.sop_loss import SupportTable

TEMPERATURE = 0.1
WIDTH = 5


def operands(
    num_rows: int, num_anchors: int = 4, num_supports: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, supports, scores from 0 to 1, and targets that do not sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(num_rows, WIDTH, generator=generator), dim=1).to(dtype).requires_grad_()
    supports = F.normalize(torch.randn(num_anchors * num_supports, WIDTH, generator=generator), dim=1)
    scores = torch.rand(num_anchors, num_supports, generator=generator)
    targets = torch.rand(num_rows, num_anchors, generator=generator)
    return embeddings, supports.to(dtype), scores.to(dtype), targets.to(dtype)


def formula(embeddings: Tensor, supports: Tensor, scores: Tensor, targets: Tensor, temperature: float) -> Tensor:
    return cross_entropy(targets, sop_distribution(embeddings, supports, sop_labels(scores), temperature))


@given(
    num_rows=st.integers(1, 9),
    num_anchors=st.integers(1, 6),
    num_supports=st.integers(1, 4),
    chunk_size=st.none() | st.integers(1, 10),
    temperature=st.floats(0.04, 2),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sop_loss__is_the_formula_with_its_gradient(
    num_rows: int,
    num_anchors: int,
    num_supports: int,
    chunk_size: int | None,
    temperature: float,
    weighted: bool,
    seed: int,
) -> None:
    embeddings, supports, scores, targets = operands(num_rows, num_anchors, num_supports, seed)
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_rows, (num_rows,), generator=generator) if weighted else None
    weights = torch.rand(num_rows, generator=generator).double() if weighted else None
    losses = formula(embeddings, supports, scores, targets if index is None else targets[index], temperature)
    expected = losses.mean() if weights is None else (losses * weights).sum()
    loss = sop_loss(
        embeddings, supports, scores, targets, temperature, index, row_weights=weights, chunk_size=chunk_size
    )
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    gradients = [torch.autograd.grad(each, embeddings)[0] for each in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10)


@given(num_rows=st.integers(0, 9), chunk_size=st.none() | st.integers(1, 10), seed=st.integers(0, 99))
def test_teacher_distribution__is_the_formula(num_rows: int, chunk_size: int | None, seed: int) -> None:
    embeddings, supports, scores, _ = operands(num_rows, seed=seed)
    found = sop_teacher_distribution(embeddings, supports, scores, 0.04, chunk_size=chunk_size)
    expected = sop_distribution(embeddings, supports, sop_labels(scores), 0.04)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-10)
    assert not found.requires_grad


def test_sop_loss__passes_gradcheck() -> None:
    embeddings, *rest = operands(5)
    assert torch.autograd.gradcheck(lambda each: sop_loss(each, *rest, 0.7, chunk_size=2), embeddings)


@pytest.mark.parametrize("num_local", [0, 1, 3])
@pytest.mark.parametrize("num_teacher", [1, 2, 3])
def test_class_loss__of_embeddings_is_that_of_their_distributions(num_local: int, num_teacher: int) -> None:
    if num_teacher + num_local < 2:
        return
    embeddings, supports, scores, _ = operands(3 * (2 * num_teacher + num_local))
    views = embeddings.split(3)
    teacher, student = views[:num_teacher], views[num_teacher:]
    labels = sop_labels(scores)
    expected = sop_class_loss(
        [sop_distribution(view, supports, labels, 0.1) for view in student],
        [sop_distribution(view, supports, labels, 0.04) for view in teacher],
    )
    loss = fused_sop_class_loss(student, teacher, supports, scores)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(each, embeddings)[0] for each in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10)


def test_patch_loss__of_embeddings_is_that_of_their_distributions() -> None:
    embeddings, supports, scores, _ = operands(2 * 3 * 4)
    student, teacher = embeddings.view(2, 3, 4, WIDTH)
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    labels = sop_labels(scores)
    expected = sop_patch_loss(
        sop_distribution(student, supports, labels, 0.1), sop_distribution(teacher, supports, labels, 0.04), mask
    )
    loss = fused_sop_patch_loss(student, teacher, mask, supports, scores)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(each, embeddings)[0] for each in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-10)


def test_sop_loss__of_no_rows_is_zero_with_a_zero_gradient() -> None:
    embeddings, *rest = operands(0)
    loss = sop_loss(embeddings, *rest, TEMPERATURE)
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=0)
    torch.testing.assert_close(embeddings.grad, torch.zeros_like(embeddings), rtol=0, atol=0)


def test_sop_loss__scales_the_gradient_with_what_comes_from_above() -> None:
    embeddings, *rest = operands(6)
    (once,) = torch.autograd.grad(sop_loss(embeddings, *rest, TEMPERATURE), embeddings)
    loss = sop_loss(embeddings, *rest, TEMPERATURE) * -3
    for _ in range(2):  # also a second time, from a retained graph
        (scaled,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
        torch.testing.assert_close(scaled, -3 * once, rtol=1e-12, atol=0)


def test_sop_loss__changes_none_of_its_arguments() -> None:
    given_operands = operands(6)
    before = [tensor.detach().clone() for tensor in given_operands]
    sop_loss(*given_operands, TEMPERATURE, chunk_size=4).backward()
    torch.testing.assert_close([tensor.detach() for tensor in given_operands], before, rtol=0, atol=0)


def test_sop_loss__gives_a_gradient_to_the_embeddings_alone() -> None:
    leaves = operands(6)
    for leaf in leaves[1:]:
        leaf.requires_grad_()
    sop_loss(*leaves, TEMPERATURE).backward()
    assert [leaf.grad is None for leaf in leaves] == [False, True, True, True]


@pytest.mark.parametrize(
    "mode", [nullcontext(), torch.no_grad(), torch.inference_mode()], ids=["none needed", "no_grad", "inference"]
)
def test_sop_loss__without_a_wish_for_gradients_makes_none(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, *rest = operands(6)
    embeddings.requires_grad_(not isinstance(mode, nullcontext))
    made: list[int] = []
    monkeypatch.setattr(SupportTable, "write_gradient", lambda *args: made.append(1))
    with mode:
        loss = sop_loss(embeddings, *rest, TEMPERATURE)
    torch.testing.assert_close(loss, formula(embeddings, *rest, TEMPERATURE).mean().detach(), rtol=1e-9, atol=0)
    assert (made, loss.requires_grad) == ([], False)


def test_sop_loss__refuses_second_derivatives() -> None:
    embeddings, *rest = operands(4)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(sop_loss(embeddings, *rest, TEMPERATURE), embeddings, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sop_loss__is_computed_in_float32_under_autocast(dtype: torch.dtype) -> None:
    leaves = operands(6, dtype=dtype)
    wide = [leaf.detach().float() for leaf in leaves]
    wide[0].requires_grad_()
    expected = sop_loss(*wide, TEMPERATURE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sop_loss(*leaves, TEMPERATURE)
        (gradient,) = torch.autograd.grad(loss, leaves[0])
        distribution = sop_teacher_distribution(leaves[0], leaves[1], leaves[2], TEMPERATURE)
    assert (loss.dtype, gradient.dtype, distribution.dtype) == (torch.float32, dtype, torch.float32)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, wide[0])[0].to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1, 1e4])
def test_sop_loss__stays_finite_where_probabilities_vanish(scale: float) -> None:
    embeddings, supports, scores, targets = operands(6, dtype=torch.float32)
    zeros = torch.zeros_like(scores)  # each support belongs to the other anchors, and terms cancel
    loss = sop_loss(scale * embeddings, supports, zeros, targets, 0.04)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


@pytest.mark.slow
def test_sop_loss__lets_the_model_around_it_be_compiled() -> None:
    embeddings, *rest = operands(6, dtype=torch.float32)

    def step(embeddings: Tensor) -> Tensor:
        return 2 * sop_loss(embeddings.tanh(), *rest, TEMPERATURE)

    loss, expected = torch.compile(step, backend="aot_eager")(embeddings), step(embeddings)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(each, embeddings)[0] for each in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": torch.ones(2, 3, 5)}, r"got \(2, 3, 5\)"),
        ({"supports": torch.ones(12, 4)}, r"got \(6, 5\), \(12, 4\) and \(4, 3\)"),
        ({"scores": torch.ones(12, 4)}, r"\(12, 5\) and \(12, 4\)"),
        ({"teacher_distribution": torch.ones(6, 3)}, r"\(M, A\) with A = 4, got \(6, 3\)"),
        ({"teacher_distribution": torch.ones(3, 4)}, "6 embeddings, got 3 .*target_index"),
        ({"target_index": torch.zeros(5, dtype=torch.int64)}, r"int64 with shape \(6,\).*got torch.int64.*\(5,\)"),
        ({"target_index": torch.zeros(6, dtype=torch.int32)}, r"int64 with shape \(6,\).*got torch.int32"),
        ({"row_weights": torch.ones(5)}, r"row_weights .*\(6,\), got \(5,\)"),
        ({"temperature": 0.0}, "temperature .* got 0.0"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"chunk_size": 0}, "chunk_size .*got 0"),
    ],
)
def test_sop_loss__refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    embeddings, supports, scores, targets = operands(6)
    arguments = {"embeddings": embeddings, "supports": supports, "scores": scores, "teacher_distribution": targets}
    with pytest.raises(ValueError, match=message):
        sop_loss(**({"temperature": TEMPERATURE} | arguments | changes))
