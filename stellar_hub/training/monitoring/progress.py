"""What a run shows on the terminal while it goes."""

import os
import sys
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

import psutil  # type: ignore[import-untyped]
import torch
from tqdm import tqdm

WINDOW = 20  # steps that speed and waiting are averaged over


class RunProgress:
    """A bar on a terminal; elsewhere, in a log file say, a plain line now and then. Both on stderr.

    Args:
        total_steps: Optimizer steps of the whole run.
        start_step: Steps that were done before, where a run resumes.
        batch_size: Images of one optimizer step, over all processes and accumulated batches.
        enabled: Whether to show anything; False on all processes but the first. Numbers come back all the same.
        log_every: Steps from one plain line to the next; the first and the last step get one too.
    """

    def __init__(
        self, total_steps: int, start_step: int = 0, batch_size: int = 1, enabled: bool = True, log_every: int = 10
    ) -> None:
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.log_every = max(1, log_every)
        self.enabled = enabled
        self._shown: dict[str, float] = {}
        self._step_seconds: deque[float] = deque(maxlen=WINDOW)
        self._waiting_seconds: deque[float] = deque(maxlen=WINDOW)
        self._process = psutil.Process()
        self._bar = None
        if enabled and is_screen(sys.stderr):
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, file=sys.stderr)

    def update(
        self, step: int, values: Mapping[str, float], waiting_seconds: float, step_seconds: float
    ) -> dict[str, float]:
        """Show that `step` is done.

        Args:
            step: The number of steps done so far.
            values: What was measured; losses are shown. May be empty: the last ones stay.
            waiting_seconds: Time this step waited for data.
            step_seconds: Time this step took in all, waiting included.

        Returns:
            For the journal, over the last 20 steps: `images_per_second`, `data_wait_share` in [0, 1], and `memory_gb`
            (1e9 bytes: the most that was allocated on the GPU at once, or what the process holds without one).
        """
        self._step_seconds.append(step_seconds)
        self._waiting_seconds.append(waiting_seconds)
        self._shown |= values
        facts = self._throughput()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._figures(facts)), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self.enabled and (step % self.log_every == 0 or step in (1, self.total_steps)):
            self.note(self._line(step, facts))
        return facts

    def note(self, text: str) -> None:
        """Write a line, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self.enabled:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _throughput(self) -> dict[str, float]:
        seconds = max(sum(self._step_seconds), 1e-9)
        return {
            "images_per_second": self.batch_size * len(self._step_seconds) / seconds,
            "data_wait_share": min(max(sum(self._waiting_seconds) / seconds, 0.0), 1.0),
            "memory_gb": memory_bytes(self._process) / 1e9,
        }

    def _figures(self, facts: Mapping[str, float]) -> list[str]:
        losses = {name: float(value) for name, value in self._shown.items() if name.endswith("loss")}
        terms = [f"{name.removesuffix('_loss')} {value:.4g}" for name, value in losses.items() if name != "loss"]
        speed = facts["images_per_second"]
        return [
            *([f"loss {losses['loss']:.4g}"] if "loss" in losses else []),
            f"{speed:,.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s",
            f"{facts['data_wait_share']:.0%} waiting",
            f"{facts['memory_gb']:.1f} GB",
            *terms,  # last: where the terminal is narrow, they go first
        ]

    def _line(self, step: int, facts: Mapping[str, float]) -> str:
        left = (self.total_steps - step) * sum(self._step_seconds) / len(self._step_seconds)
        head = f"step {step}/{self.total_steps}"
        return ", ".join([head, f"{tqdm.format_interval(left)} left", *self._figures(facts)])


def memory_bytes(process: psutil.Process) -> int:
    """The most that was allocated on the current GPU at once; without one, the process's resident memory."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return process.memory_info().rss


def is_screen(stream: TextIO) -> bool:
    """Whether a bar can be seen there: on a terminal that has a size, which those of containers may lack."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return False
