"""The prototype loss, against its formula written out."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stellar_hub.training.objectives import prototype_loss, prototype_scores, sinkhorn_assign
from stellar_hub.training.objectives.prototype_loss import default_chunk_size

TEMPERATURE = 0.12


def formula(
    embeddings: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    target_index: Tensor | None = None,
    temperature: float = TEMPERATURE,
) -> Tensor:
    scores = embeddings @ prototypes.T / temperature
    targets = assignment if target_index is None else assignment[target_index]
    return -(targets * scores.log_softmax(dim=-1)).sum(dim=-1).mean()


def operands(
    num_rows: int,
    num_prototypes: int,
    width: int = 5,
    num_targets: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Leaves, an assignment whose first row lost its mass and whose second row half of it, and repeated targets."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(num_rows, width, generator=generator).to(dtype).requires_grad_()
    prototypes = torch.randn(num_prototypes, width, generator=generator).to(dtype).requires_grad_()
    rows = num_rows if num_targets is None else num_targets
    assignment = sinkhorn_assign(torch.randn(rows, num_prototypes, generator=generator, dtype=torch.float64) / 0.06)
    assignment[:1] = 0
    assignment[1:2] *= 0.5
    index = None if num_targets is None else torch.randint(num_targets, (num_rows,), generator=generator)
    return embeddings, prototypes, assignment.to(dtype), index


@given(
    num_rows=st.integers(1, 12),
    num_prototypes=st.integers(1, 9),
    width=st.integers(1, 6),
    num_targets=st.none() | st.integers(1, 5),
    chunk_size=st.none() | st.integers(1, 14),
    temperature=st.floats(0.05, 3),
    seed=st.integers(0, 99),
)
def test_prototype_loss__is_the_formula_with_its_gradients(
    num_rows: int,
    num_prototypes: int,
    width: int,
    num_targets: int | None,
    chunk_size: int | None,
    temperature: float,
    seed: int,
) -> None:
    given_operands = operands(num_rows, num_prototypes, width, num_targets, seed)
    leaves = given_operands[:2]
    expected = formula(*given_operands, temperature)
    loss = prototype_loss(*given_operands, temperature=temperature, chunk_size=chunk_size)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    expected_gradients = torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), expected_gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_targets", [None, 2])
def test_prototype_loss__passes_gradcheck(num_targets: int | None) -> None:
    embeddings, prototypes, assignment, index = operands(5, 4, num_targets=num_targets)
    assert torch.autograd.gradcheck(
        lambda e, w: prototype_loss(e, w, assignment, index, temperature=0.7, chunk_size=2), (embeddings, prototypes)
    )


def test_prototype_loss__of_rows_without_mass_is_zero() -> None:
    embeddings, prototypes, assignment, _ = operands(4, 6)
    loss = prototype_loss(embeddings, prototypes, torch.zeros_like(assignment))
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=0)
    torch.testing.assert_close(embeddings.grad, torch.zeros_like(embeddings), rtol=0, atol=0)


def test_prototype_loss__of_equal_scores_is_the_log_of_their_number() -> None:
    loss = prototype_loss(torch.zeros(3, 2), torch.randn(8, 2), torch.eye(8)[:3])
    torch.testing.assert_close(loss, torch.tensor(8.0).log(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_targets", [None, 0, 3])
def test_prototype_loss__of_no_rows_is_zero_with_zero_gradients(num_targets: int | None) -> None:
    embeddings, prototypes, assignment, index = operands(0, 4)
    if num_targets is not None:
        assignment, index = torch.ones(num_targets, 4, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    loss = prototype_loss(embeddings, prototypes, assignment, index)
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=0)
    torch.testing.assert_close(embeddings.grad, torch.zeros_like(embeddings), rtol=0, atol=0)
    torch.testing.assert_close(prototypes.grad, torch.zeros_like(prototypes), rtol=0, atol=0)


def test_prototype_loss__scales_gradients_with_what_comes_from_above() -> None:
    embeddings, prototypes, assignment, index = operands(6, 7, num_targets=3)
    once = torch.autograd.grad(prototype_loss(embeddings, prototypes, assignment, index), (embeddings, prototypes))
    loss = prototype_loss(embeddings, prototypes, assignment, index) * -3
    for _ in range(2):  # also a second time, from a retained graph
        scaled = torch.autograd.grad(loss, (embeddings, prototypes), retain_graph=True)
        torch.testing.assert_close(scaled, tuple(-3 * gradient for gradient in once), rtol=1e-12, atol=0)


def test_prototype_loss__changes_none_of_its_arguments() -> None:
    embeddings, prototypes, assignment, index = operands(6, 7, num_targets=3)
    assert index is not None
    before = [tensor.detach().clone() for tensor in (embeddings, prototypes, assignment, index)]
    prototype_loss(embeddings, prototypes, assignment, index, chunk_size=4).backward()
    after = [tensor.detach() for tensor in (embeddings, prototypes, assignment, index)]
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@pytest.mark.parametrize("fixed", ["embeddings", "prototypes", "both", "no_grad", "inference"])
def test_prototype_loss__makes_only_the_gradients_that_are_wanted(fixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    original = torch.zeros_like

    def zeros_like(tensor: Tensor) -> Tensor:  # what the gradients start as
        made.append(tuple(tensor.shape))
        return original(tensor)

    monkeypatch.setattr(torch, "zeros_like", zeros_like)
    embeddings, prototypes, assignment, _ = operands(6, 7)
    expected = formula(embeddings, prototypes, assignment).detach()
    embeddings.requires_grad_(fixed not in ("embeddings", "both"))
    prototypes.requires_grad_(fixed not in ("prototypes", "both"))
    modes = {"no_grad": torch.no_grad(), "inference": torch.inference_mode()}
    with modes.get(fixed, nullcontext()):
        loss = prototype_loss(embeddings, prototypes, assignment)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)
    wanted = {"embeddings": [prototypes], "prototypes": [embeddings]}.get(fixed, [])
    assert made == [tuple(leaf.shape) for leaf in wanted]
    assert loss.requires_grad == bool(wanted)
    if wanted:
        loss.backward()
        assert wanted[0].grad is not None
        assert [leaf.grad is None for leaf in (embeddings, prototypes)].count(True) == 1


def test_prototype_loss__gives_no_gradient_to_the_assignment() -> None:
    embeddings, prototypes, assignment, _ = operands(4, 5)
    assignment.requires_grad_()
    prototype_loss(embeddings, prototypes, assignment).backward()
    assert assignment.grad is None


def test_prototype_loss__refuses_second_derivatives() -> None:
    embeddings, prototypes, assignment, _ = operands(4, 5)
    loss = prototype_loss(embeddings, prototypes, assignment)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(loss, embeddings, create_graph=True)


@pytest.mark.parametrize("autocast", [False, True])
def test_prototype_loss__is_computed_in_float32_for_bfloat16(autocast: bool) -> None:
    embeddings, prototypes, assignment, index = operands(6, 7, num_targets=3, dtype=torch.bfloat16)
    wide = [tensor.detach().float().requires_grad_() for tensor in (embeddings, prototypes)]
    expected = formula(wide[0], wide[1], assignment.float(), index)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = prototype_loss(embeddings, prototypes, assignment, index, chunk_size=4)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    expected_gradients = [gradient.bfloat16() for gradient in torch.autograd.grad(expected, wide)]
    gradients = torch.autograd.grad(loss, (embeddings, prototypes))
    torch.testing.assert_close(list(gradients), expected_gradients, rtol=1e-2, atol=1e-6)


def test_prototype_loss__keeps_float32_under_autocast() -> None:
    embeddings, prototypes, assignment, index = operands(6, 7, num_targets=3, dtype=torch.float32)
    leaves = embeddings, prototypes
    expected = prototype_loss(embeddings, prototypes, assignment, index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = prototype_loss(embeddings, prototypes, assignment, index)
        gradients = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves), rtol=0, atol=0)


def test_prototype_loss__stays_finite_with_large_scores() -> None:
    embeddings, prototypes, assignment, _ = operands(6, 7, dtype=torch.float32)
    loss = prototype_loss(1e4 * embeddings, prototypes, assignment)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_prototype_loss__takes_the_wider_of_two_types() -> None:
    embeddings, prototypes, assignment, _ = operands(4, 5)
    loss = prototype_loss(embeddings.detach().float(), prototypes, assignment.float())
    loss.backward()
    assert (loss.dtype, prototypes.grad is not None) == (torch.float64, True)


@pytest.mark.slow
def test_prototype_loss__lets_the_model_around_it_be_compiled() -> None:
    _, _, assignment, index = operands(6, 7, num_targets=3, dtype=torch.float32)
    head, prototypes = nn.Linear(4, 5), nn.Linear(5, 7, bias=False)
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def step(inputs: Tensor) -> Tensor:
        return 2 * prototype_loss(head(inputs).tanh(), prototypes.weight, assignment, index)

    parameters = [*head.parameters(), *prototypes.parameters()]
    expected = step(inputs)
    expected_gradients = torch.autograd.grad(expected, parameters)
    loss = torch.compile(step, backend="aot_eager")(inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected_gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": torch.ones(2, 3, 5)}, r"got \(2, 3, 5\)"),
        ({"prototypes": torch.ones(7, 4)}, r"got \(6, 5\) and \(7, 4\)"),
        ({"prototypes": torch.ones(0, 5)}, r"K >= 1, got \(6, 5\) and \(0, 5\)"),
        ({"assignment": torch.ones(6, 8)}, r"\(M, K\) with K = 7, got \(6, 8\)"),
        ({"assignment": torch.ones(7)}, r"\(M, K\) with K = 7, got \(7,\)"),
        ({"assignment": torch.ones(3, 7)}, "6 embeddings, got 3 .*target_index"),
        ({"target_index": torch.zeros(5, dtype=torch.int64)}, r"int64 with shape \(6,\).*got torch.int64.*\(5,\)"),
        ({"target_index": torch.zeros(6, dtype=torch.int32)}, r"int64 with shape \(6,\).*got torch.int32"),
        ({"temperature": 0.0}, "temperature .* got 0.0"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"chunk_size": 0}, "chunk_size .*got 0"),
        ({"precision": "bf16"}, "precision .*got 'bf16'"),
    ],
)
def test_prototype_loss__refuses_what_does_not_fit(changes: dict[str, Tensor | float], message: str) -> None:
    arguments = {"embeddings": torch.ones(6, 5), "prototypes": torch.ones(7, 5), "assignment": torch.ones(6, 7)}
    with pytest.raises(ValueError, match=message):
        prototype_loss(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [False, True])
def test_prototype_scores__are_products_in_float32(autocast: bool) -> None:
    embeddings, prototypes, _, _ = operands(4, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        scores = prototype_scores(embeddings, prototypes)
    torch.testing.assert_close(scores, embeddings.float() @ prototypes.float().T, rtol=0, atol=0)


def test_prototype_scores__refuses_widths_that_differ() -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(4, 5\)"):
        prototype_scores(torch.ones(2, 3), torch.ones(4, 5))


def test_chunks__are_larger_on_a_gpu() -> None:
    assert [default_chunk_size(16384, device) for device in ("cpu", "cuda", "xpu")] == [512, 4096, 512]
    assert default_chunk_size(2**30) == 1


def to_tf32(values: Tensor) -> Tensor:
    """Round float32 to 10 bits of mantissa, as a GPU rounds the operands of a product."""
    bits = values.detach().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_operands_rounded_to_tf32__keep_loss_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = nn.functional.normalize(torch.randn(256, 256, generator=generator), dim=1)
    prototypes = torch.randn(4096, 256, generator=generator)  # as the model initializes them
    assignment = sinkhorn_assign(torch.randn(256, 256, generator=generator) @ prototypes.T / 0.06 / 16)
    assert (to_tf32(prototypes) - prototypes).abs().max() > 1e-4
    found = []
    for change in (to_tf32, Tensor.detach):
        leaves = [change(operand).requires_grad_() for operand in (embeddings, prototypes)]
        loss = prototype_loss(*leaves, assignment)
        found.append((loss, *torch.autograd.grad(loss, leaves)))
    for rounded, exact in zip(*found, strict=True):
        assert (rounded - exact).norm() <= (1e-4 if exact.ndim == 0 else 1e-2) * exact.norm()


def test_tf32__is_set_for_the_products_alone() -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "mm" in str(func):
                seen.append(torch.backends.cuda.matmul.fp32_precision)
            return func(*args, **(kwargs or {}))

    before = torch.backends.cuda.matmul.fp32_precision
    embeddings, prototypes, assignment, index = operands(6, 7, num_targets=3)
    with Watch():
        prototype_loss(embeddings, prototypes, assignment, index, precision="tf32")
    assert set(seen) == {"tf32"}
    assert torch.backends.cuda.matmul.fp32_precision == before != "tf32"
