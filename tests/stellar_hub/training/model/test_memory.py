"""A memory of embeddings: order, sizes, dtype, checkpoints, and several processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from stellar_hub.training.model.memory import EmbeddingMemory, check_memory, draw_one_of_each
from tests.training_processes import FORKS, free_port


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_memory__starts_with_the_generators_unit_vectors() -> None:
    memory = EmbeddingMemory(6, 3, generator=seeded(1))
    torch.testing.assert_close(memory.rows.norm(dim=1), torch.ones(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(memory.rows, EmbeddingMemory(6, 3, generator=seeded(1)).rows, rtol=0, atol=0)
    assert not torch.equal(memory.rows, EmbeddingMemory(6, 3, generator=seeded(2)).rows)
    assert memory.position.item() == 0


@given(num_rows=st.integers(1, 9), sizes=st.lists(st.integers(0, 9), max_size=6))
def test_memory__holds_the_newest_rows(num_rows: int, sizes: list[int]) -> None:
    memory = EmbeddingMemory(num_rows, 2)
    expected = list(memory.rows.clone())  # the oldest first
    for size in sizes:
        rows = torch.randn(min(size, num_rows), 2)
        memory.write(rows)
        expected = [*expected, *rows][-num_rows:]
    torch.testing.assert_close(memory.rows.roll(-memory.position.item(), dims=0), torch.stack(expected), rtol=0, atol=0)


def test_write__changes_the_memory_in_place_and_keeps_no_graph() -> None:
    memory = EmbeddingMemory(4, 2)
    address = memory.rows.data_ptr()
    memory.write(torch.ones(3, 2, requires_grad=True))
    assert (memory.rows.data_ptr(), memory.rows.requires_grad) == (address, False)


def test_memory__goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    memory, other = EmbeddingMemory(5, 3), EmbeddingMemory(5, 3)
    memory.write(torch.randn(3, 3))
    save_file(memory.state_dict(), tmp_path / "memory.safetensors")
    other.load_state_dict(load_file(tmp_path / "memory.safetensors"))
    rows = torch.randn(4, 3)
    for each in (memory, other):
        each.write(rows)
    torch.testing.assert_close(other.state_dict(), memory.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_memory__stays_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    memory = EmbeddingMemory(5, 3)
    rows = memory.rows.clone()
    model = torch.nn.ModuleDict({"memory": memory, "head": torch.nn.Linear(3, 3)}).to(dtype)
    assert model["head"].weight.dtype == dtype
    torch.testing.assert_close(memory.rows, rows.to(expected), rtol=0, atol=0)
    memory.write(torch.ones(2, 3, dtype=dtype))
    assert (memory.rows.dtype, memory.position.dtype) == (expected, torch.int64)
    assert dict(memory.named_buffers())["rows"] is memory.rows


def test_initialize__leaves_what_transformers_loaded() -> None:
    memory = EmbeddingMemory(5, 3)
    memory.rows._is_hf_initialized = True  # type: ignore[attr-defined]
    before = memory.rows.clone()
    memory.initialize()
    torch.testing.assert_close(memory.rows, before, rtol=0, atol=0)


def test_memory__can_be_built_without_memory() -> None:
    with torch.device("meta"):
        assert EmbeddingMemory(5, 3).rows.is_meta


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((64, 65, 1, 8), "64 rows of the memory, got 65"),
        ((64, 60, 6, 8), "at most 5.* 64 rows"),
        ((64, 8, 3, 65), "global batch, 65, got 64"),
    ],
)
def test_check_memory__refuses_a_memory_that_is_too_small(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_memory(*sizes)


def test_check_memory__accepts_what_just_fits() -> None:
    check_memory(64, 60, 5, 64)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(torch.ones(5, 3), "global batch, 5, got 4"), (torch.ones(2, 2), r"\(2, 2\)"), (torch.ones(3), r"got \(3,\)")],
)
def test_write__refuses_what_does_not_fit(rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingMemory(4, 3).write(rows)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_memory__refuses_sizes_below_one(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {sizes[0]} and {sizes[1]}"):
        EmbeddingMemory(*sizes)


def test_one_of_each__is_a_token_of_its_image() -> None:
    embeddings = torch.arange(24.0).view(4, 3, 2)
    drawn = draw_one_of_each(embeddings, generator=seeded())
    assert drawn.shape == (4, 2)
    for tokens, row in zip(embeddings, drawn, strict=True):
        assert row.tolist() in tokens.tolist()


def write_steps(tokens: Tensor) -> dict[str, Any]:
    """The state of a memory after each batch of `(steps, B, n, p)` gave one token of each image."""
    memory, generator = EmbeddingMemory(7, 3, generator=seeded()), seeded(1)
    for step in tokens:
        memory.write(draw_one_of_each(step, generator=generator))
    return memory.state_dict()


def write_own_images(rank: int, port: int, tokens: Tensor, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(write_steps(tokens.chunk(2, dim=1)[rank]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes__hold_the_memory_of_one(tmp_path: Path) -> None:
    tokens = F.normalize(torch.randn(3, 4, 5, 3, generator=seeded(2)), dim=-1)
    port = free_port()
    processes = [FORKS.Process(target=write_own_images, args=(rank, port, tokens, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, write_steps(tokens), rtol=0, atol=0)
