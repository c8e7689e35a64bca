"""Sinkhorn assignment."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.training.objectives import sinkhorn_assign
from tests.training_processes import FORKS, free_port

TEMPERATURE = 0.06


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("iters1", {"num_iters": 1}),
        ("iters3", {}),
        ("iters10", {"num_iters": 10}),
        ("iters3.scale0.8", {"scale": 0.8}),
    ],
)
def test_sinkhorn_assign__meets_the_authors_numbers(golden_dir: Path, name: str, options: dict[str, float]) -> None:
    expected = load_file(golden_dir / "expected.safetensors")
    actual = sinkhorn_assign(expected["sinkhorn.scores"] / TEMPERATURE, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected[f"sinkhorn.assign.{name}"], rtol=1e-5, atol=1e-7)


def test_sinkhorn_assign__balances_prototypes() -> None:
    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    scores[:, 0] += 5  # without balance nearly all rows would take the first
    use = sinkhorn_assign(scores, num_iters=50).mean(dim=0)
    torch.testing.assert_close(use, torch.full((8,), 1 / 8), rtol=0, atol=1e-3)


def test_sinkhorn_assign__leaves_its_argument_alone_and_passes_no_gradient() -> None:
    scores = torch.randn(4, 6, requires_grad=True)
    before = scores.detach().clone()
    assert not sinkhorn_assign(scores).requires_grad
    torch.testing.assert_close(scores.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_sinkhorn_assign__is_computed_in_float32_for_bfloat16(scale: float) -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = scores.clone()
    assignment = sinkhorn_assign(scores, scale=scale)
    torch.testing.assert_close(assignment, sinkhorn_assign(scores.float(), scale=scale), rtol=0, atol=0)
    torch.testing.assert_close(scores, before, rtol=0, atol=0)


def test_sinkhorn_assign__of_one_row_is_finite() -> None:
    assignment = sinkhorn_assign(torch.randn(1, 16) / TEMPERATURE)
    torch.testing.assert_close(assignment.sum(dim=1), torch.ones(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("shape", "num_iters"), [((3,), 3), ((2, 3, 4), 3), ((2, 3), 0)])
def test_sinkhorn_assign__refuses_what_does_not_fit(shape: tuple[int, ...], num_iters: int) -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \(rows, K\)"):
        sinkhorn_assign(torch.zeros(shape), num_iters=num_iters)


def assign_own_rows(rank: int, port: int, scores: Tensor, splits: list[int], folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(splits))
    torch.save(sinkhorn_assign(scores.split(splits)[rank]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_sinkhorn_assign__is_over_the_rows_of_all_processes(tmp_path: Path) -> None:
    scores = torch.randn(10, 16, generator=torch.Generator().manual_seed(0)) / TEMPERATURE
    arguments = (free_port(), scores, [3, 7], tmp_path)
    processes = [FORKS.Process(target=assign_own_rows, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    parts = torch.cat([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)])
    torch.testing.assert_close(parts, sinkhorn_assign(scores), rtol=1e-5, atol=1e-7)
