"""Sinkhorn assignment."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.training.objectives import sinkhorn_assign

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


def _assign_own_rows(rank: int, port: int, scores: Tensor, splits: list[int], folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=len(splits))
    torch.save(sinkhorn_assign(scores.split(splits)[rank]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_sinkhorn_assign__is_over_the_rows_of_all_processes(tmp_path: Path) -> None:
    scores = torch.randn(10, 16, generator=torch.Generator().manual_seed(0)) / TEMPERATURE
    splits = [3, 7]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_assign_own_rows, args=(port, scores, splits, str(tmp_path)), nprocs=2)
    parts = torch.cat([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)])
    torch.testing.assert_close(parts, sinkhorn_assign(scores), rtol=1e-5, atol=1e-7)
