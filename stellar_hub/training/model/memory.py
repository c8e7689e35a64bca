"""A memory of embeddings of past steps, the same in all processes, from which SOP draws its anchors.

Self-Organizing Visual Prototypes (arXiv 2505.21533) keeps two, for the teacher's cls embeddings and for its patches.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from stellar_hub.training.objectives.sop import check_task


class EmbeddingMemory(nn.Module):
    """A table of `K` embeddings in which new rows replace the oldest ones.

    It starts with random unit vectors. Rows and position are in the state dict, so a checkpoint restores it bit for
    bit. They stay in at least float32 whatever the model is cast to.

    Args:
        num_rows: Number `K` of rows.
        width: Width `p` of an embedding.
        generator: Source of the first rows; None uses torch's global one.

    Attributes:
        rows: The embeddings, `(K, p)`.
        position: The row that is written next, int64, a scalar.

    Raises:
        ValueError: if a size is below 1.
    """

    rows: Tensor
    position: Tensor

    def __init__(self, num_rows: int, width: int, *, generator: torch.Generator | None = None):
        super().__init__()
        if num_rows < 1 or width < 1:
            raise ValueError(f"num_rows and width of a memory must be at least 1, got {num_rows} and {width}")
        self.register_buffer("rows", torch.empty(num_rows, width, dtype=torch.float32))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.initialize(generator)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Fills the memory with random unit vectors, all processes alike if their generators are.

        A model's `_init_weights` calls it. What transformers loaded from a checkpoint stays.
        """
        source = self.rows.device if generator is None else generator.device
        noise = torch.randn(self.rows.shape, dtype=torch.float32, generator=generator, device=source)
        init.copy_(self.rows, F.normalize(noise, dim=-1))
        init.zeros_(self.position)

    @torch.no_grad()
    def write(self, embeddings: Tensor) -> None:
        """Replaces the oldest rows by those of all processes, in the order of their ranks.

        All processes must call it, with the same number of rows. Call it after the step's loss has read the memory.

        Args:
            embeddings: Unit vectors of this process, `(B, p)`.

        Raises:
            ValueError: if the shape does not fit, or all processes together have more rows than the memory.
        """
        num_rows, width = self.rows.shape
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise ValueError(f"embeddings must have shape (B, {width}), got {tuple(embeddings.shape)}")
        check_global_batch(num_rows, len(embeddings) * num_processes())
        new = gather_rows(embeddings.detach().to(self.rows.dtype))
        index = (self.position + torch.arange(len(new), device=new.device)).remainder_(num_rows)
        self.rows.index_copy_(0, index, new)
        self.position.add_(len(new)).remainder_(num_rows)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Moves or casts the buffers, but does not make them narrower than float32."""
        rows = self.rows
        super()._apply(fn, recurse)
        if torch.promote_types(self.rows.dtype, torch.float32) != self.rows.dtype:
            self.rows = rows.to(self.rows.device)
        return self

    def extra_repr(self) -> str:
        """Returns the sizes, for `print(model)`."""
        return "num_rows={}, width={}".format(*self.rows.shape)


def check_memory(num_rows: int, num_anchors: int, num_supports: int, global_batch_size: int) -> None:
    """Raises ValueError unless a memory is large enough for its tasks and for a step's rows.

    Args:
        num_rows: Number of rows of the memory.
        num_anchors: Number of anchors of a task.
        num_supports: Number of supports of each anchor, the anchor included.
        global_batch_size: Number of rows that all processes together write at once.
    """
    check_task(num_rows, num_anchors, num_supports)
    check_global_batch(num_rows, global_batch_size)


def check_global_batch(num_rows: int, global_batch_size: int) -> None:
    """Raises ValueError if a step has more rows than the memory."""
    if global_batch_size > num_rows:
        raise ValueError(
            f"a memory must have at least as many rows as the global batch, {global_batch_size}, got {num_rows}: "
            "enlarge the memory, or lower batch_size"
        )


def draw_one_of_each(embeddings: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draws one token of each image, as rows for a memory.

    Each process draws for the images of all processes, and uses its own part: with equal generators, several processes
    draw what one would draw for the whole batch.

    Args:
        embeddings: Embeddings of the tokens, `(B, n, p)`; all processes have as many images.
        generator: Source of the random numbers; None uses torch's global one of the CPU.

    Returns:
        Embeddings of the drawn tokens, `(B, p)`.
    """
    num_images, num_tokens = embeddings.shape[:2]
    source = "cpu" if generator is None else generator.device
    drawn = torch.randint(num_tokens, (num_processes(), num_images), generator=generator, device=source)
    own = drawn[dist.get_rank() if num_processes() > 1 else 0].to(embeddings.device, non_blocking=True)
    return embeddings[torch.arange(num_images, device=embeddings.device), own]


def num_processes() -> int:
    """Returns the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows `(B, p)` of all processes in the order of their ranks; each process must have as many."""
    if num_processes() == 1:
        return rows
    gathered = rows.new_empty(num_processes() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous())
    return gathered
