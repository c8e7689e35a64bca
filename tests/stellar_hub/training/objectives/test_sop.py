"""Supports, labels, distributions and losses of SOP, against numbers that were computed apart."""

import json
import math
from pathlib import Path
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
    sop_patch_loss,
    sop_supports,
    sop_targets,
)

DTYPES = {torch.float64: 1e-6, torch.float32: 1e-4}
CASES = json.loads((Path(__file__).parents[3] / "data" / "sop.json").read_text())["cases"]
every_case = pytest.mark.parametrize("case", CASES, ids=["three anchors", "two anchors"])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def unit(degrees: Any, dtype: torch.dtype) -> Tensor:
    """Unit vectors of angles in degrees."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1).to(dtype)


def close(actual: Tensor, expected: Any, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=dtype), rtol=0, atol=DTYPES[dtype])


def targets_of(case: dict[str, Any], dtype: torch.dtype, kind: str = "") -> tuple[Tensor, Tensor]:
    """Supports and labels of a case; kind "patch_" gives those of the patches."""
    memory = unit(case["memory_degrees"], dtype)
    number = case[f"{kind}supports_per_anchor"]
    rows, labels = sop_targets(memory, torch.tensor(case[f"{kind}anchors"]), number, case["smoothing"])
    return memory[rows], labels


@every_case
@every_dtype
def test_sop_targets__are_the_expected_ones(case: dict[str, Any], dtype: torch.dtype) -> None:
    memory, anchors = unit(case["memory_degrees"], dtype), torch.tensor(case["anchors"])
    rows, labels = sop_targets(memory, anchors, case["supports_per_anchor"], case["smoothing"])
    assert rows.tolist() == case["support_rows"]
    close(labels, case["labels"], dtype)


@every_case
@every_dtype
def test_class_loss__is_the_expected_one_with_its_gradient(case: dict[str, Any], dtype: torch.dtype) -> None:
    supports, labels = targets_of(case, dtype)
    students = [unit(degrees, dtype).requires_grad_() for degrees in case["student_degrees"]]
    ours = [sop_distribution(view, supports, labels, case["student_temperature"]) for view in students]
    theirs = [
        sop_distribution(unit(degrees, dtype), supports, labels, case["teacher_temperature"])
        for degrees in case["teacher_degrees"]
    ]
    local = [sop_distribution(unit(d, dtype), supports, labels, 0.1) for d in case["local_degrees"]]
    close(ours[0], case["student_distribution_view0"], dtype)
    close(theirs[1], case["teacher_distribution_view1"], dtype)
    loss = sop_class_loss(ours, theirs)
    close(loss, case["class_loss_globals"], dtype)
    close(sop_class_loss(ours + local, theirs), case["class_loss_with_locals"], dtype)
    (gradient,) = torch.autograd.grad(loss, students[:1])
    close(gradient, case["gradient_of_class_loss_globals_wrt_view0"], dtype)


@every_case
@every_dtype
def test_fused_losses__are_the_expected_ones_with_their_gradient(case: dict[str, Any], dtype: torch.dtype) -> None:
    temperatures = case["student_temperature"], case["teacher_temperature"]
    memory = unit(case["memory_degrees"], dtype)

    def task(kind: str = "") -> tuple[Tensor, Tensor]:
        anchors, number = torch.tensor(case[f"{kind}anchors"]), case[f"{kind}supports_per_anchor"]
        rows, scores = sop_supports(memory, anchors, number, case["smoothing"])
        return memory[rows], scores

    students, teachers = (unit(case[f"{who}_degrees"], dtype).unbind() for who in ("student", "teacher"))
    students = (students[0].clone().requires_grad_(), *students[1:])
    loss = fused_sop_class_loss(students, teachers, *task(), *temperatures)
    close(loss, case["class_loss_globals"], dtype)
    (gradient,) = torch.autograd.grad(loss, students[:1])
    close(gradient, case["gradient_of_class_loss_globals_wrt_view0"], dtype)
    views = [*students, *unit(case["local_degrees"], dtype).unbind()]
    close(fused_sop_class_loss(views, teachers, *task(), *temperatures), case["class_loss_with_locals"], dtype)
    student, teacher = (unit(case[f"patch_{who}_degrees"], dtype) for who in ("student", "teacher"))
    loss = fused_sop_patch_loss(student, teacher, torch.tensor(case["patch_mask"]), *task("patch_"), *temperatures)
    close(loss, case["patch_loss"], dtype)


@every_case
@every_dtype
def test_patch_loss__is_the_expected_one(case: dict[str, Any], dtype: torch.dtype) -> None:
    targets = targets_of(case, dtype, "patch_")
    student = sop_distribution(unit(case["patch_student_degrees"], dtype), *targets, case["student_temperature"])
    teacher = sop_distribution(unit(case["patch_teacher_degrees"], dtype), *targets, case["teacher_temperature"])
    for mask in (torch.tensor(case["patch_mask"]), torch.tensor(case["patch_mask"]).bool()):
        close(sop_patch_loss(student, teacher, mask), case["patch_loss"], dtype)


@given(
    num_rows=st.integers(2, 12),
    anchors=st.floats(0, 1),
    neighbours=st.floats(0, 1),
    smoothing=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_labels_and_distributions__sum_to_one(
    num_rows: int, anchors: float, neighbours: float, smoothing: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_anchors = 1 + round(anchors * (num_rows - 1))
    num_supports = 1 + round(neighbours * (num_rows - num_anchors))
    memory = F.normalize(torch.randn(num_rows, 3, generator=generator, dtype=torch.float64), dim=1)
    drawn = torch.randperm(num_rows, generator=generator)[:num_anchors]
    rows, labels = sop_targets(memory, drawn, num_supports, smoothing)
    assert labels.min() >= 0  # also where a cosine is negative
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(len(rows), dtype=torch.float64), rtol=0, atol=1e-12)
    distribution = sop_distribution(torch.randn(2, 4, 3, generator=generator).double(), memory[rows], labels, 0.1)
    torch.testing.assert_close(distribution.sum(dim=-1), torch.ones(2, 4, dtype=torch.float64), rtol=0, atol=1e-12)
    by_anchor = rows.view(num_anchors, num_supports)
    assert by_anchor[:, -1].tolist() == drawn.tolist()
    assert not set(by_anchor[:, :-1].flatten().tolist()) & set(drawn.tolist())


@given(chunk=st.integers(1, 9), seed=st.integers(0, 9))
def test_supports__do_not_depend_on_chunks(chunk: int, seed: int) -> None:
    memory = F.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)).double(), dim=1)
    expected = sop_supports(memory, torch.arange(7), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stellar_hub.training.objectives.sop.default_chunk_size", lambda columns: chunk)
        found = sop_supports(memory, torch.arange(7), 4)
    assert found.rows.tolist() == expected.rows.tolist()
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-12)


def test_scores__fall_and_end_with_the_anchors_own() -> None:
    memory = unit([0, 10, 40, 100, 180, 190], torch.float64)
    rows, scores = sop_supports(memory, torch.tensor([0, 4]), 4, smoothing=0.25)
    assert rows.tolist() == [1, 2, 3, 0, 5, 3, 2, 4]
    cosines = [math.cos(math.radians(angle)) for angle in (10, 40, 10, 80)]
    expected = [[cosines[0], cosines[1], 0.0, 0.75], [cosines[2], cosines[3], 0.0, 0.75]]  # 100 and 140 degrees give 0
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_neighbour__that_two_anchors_share_stands_twice() -> None:
    rows, _ = sop_supports(unit([0, 10, 20, 180], torch.float32), torch.tensor([0, 2]), 2)
    assert rows.tolist() == [1, 0, 1, 2]


def test_labels__of_one_anchor_are_one() -> None:
    labels = sop_labels(torch.tensor([[0.0, 0.3, 0.9]]))
    torch.testing.assert_close(labels, torch.ones(3, 1), rtol=0, atol=0)


def test_sop__is_computed_in_float32_under_autocast() -> None:
    memory = F.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    anchors, embeddings = torch.arange(4), memory[4:10]

    def compute() -> tuple[Tensor, Tensor, Tensor]:
        rows, labels = sop_targets(memory, anchors, 3)
        return rows, labels, sop_distribution(embeddings, memory[rows], labels, 0.1)

    expected = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compute()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    rows, labels = sop_targets(memory.bfloat16(), anchors, 3)
    assert labels.dtype == torch.float32
    assert sop_distribution(embeddings.bfloat16(), memory[rows].bfloat16(), labels, 0.1).dtype == torch.float32


def test_gradients__reach_the_student_alone() -> None:
    memory = F.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    student, teacher = (torch.randn(2, 5, 4).requires_grad_() for _ in range(2))
    rows, labels = sop_targets(memory, torch.arange(3), 2)
    p, q = (sop_distribution(each, memory[rows], labels, 0.1) for each in (student, teacher))
    (sop_class_loss(p.unbind(), q.unbind()) + sop_patch_loss(p, q, torch.ones(2, 5))).backward()
    assert student.grad is not None
    assert (teacher.grad, memory.grad) == (None, None)


def test_losses__stay_finite_where_a_probability_vanishes() -> None:
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = sop_class_loss([student, student], [torch.tensor([[1.0, 0.0]])] * 2)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_patch_loss__without_a_mask_or_images_is_zero() -> None:
    p = torch.full((2, 3, 4), 0.25)
    torch.testing.assert_close(sop_patch_loss(p, p, torch.zeros(2, 3)), torch.tensor(0.0), rtol=0, atol=0)
    torch.testing.assert_close(sop_patch_loss(p[:0], p[:0], torch.zeros(0, 3)), torch.tensor(0.0), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": torch.ones(6)}, r"got \(6,\)"),
        ({"anchors": torch.tensor([0, 1], dtype=torch.int32)}, r"got .*torch.int32"),
        ({"anchors": torch.arange(7)}, "at most the 6 rows of the memory, got 7"),
        ({"anchors": torch.arange(0)}, "got 0 and 2"),
        ({"num_supports": 0}, "got 2 and 0"),
        ({"num_supports": 6}, "at most 5.*got 6.*6 rows"),
        ({"smoothing": 1.5}, "smoothing .*got 1.5"),
    ],
)
def test_sop_targets__refuse_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    arguments = {"memory": torch.eye(6), "anchors": torch.tensor([0, 1]), "num_supports": 2}
    with pytest.raises(ValueError, match=message):
        sop_targets(**(arguments | changes))


@pytest.mark.parametrize(("num_student", "num_teacher"), [(1, 1), (2, 3), (2, 0)])
def test_class_loss__refuses_views_without_a_pair(num_student: int, num_teacher: int) -> None:
    view = torch.full((2, 4), 0.25)
    with pytest.raises(ValueError, match=f"got {num_student} views of the student and {num_teacher}"):
        sop_class_loss([view] * num_student, [view] * num_teacher)
