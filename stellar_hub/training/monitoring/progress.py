"""The progress that a run shows on the terminal."""

import os
import sys
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

import psutil  # type: ignore[import-untyped]
import torch
from tqdm import tqdm

WINDOW = 20  # number of steps that speed and waiting are averaged over


class RunProgress:
    """A progress bar on a terminal, and plain lines elsewhere, such as in a log file; both go to stderr.

    Args:
        total_steps: Number of optimizer steps of the whole run.
        start_step: Number of steps that a resumed run has done before.
        batch_size: Number of images per optimizer step, over all processes and accumulated batches.
        enabled: Whether to show anything; False on all processes but the first. `update` returns its numbers anyway.
        log_every: Number of steps between two plain lines; the first and the last step get one too.
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
        if enabled and _shows_a_bar(sys.stderr):
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, file=sys.stderr)

    def update(
        self, step: int, values: Mapping[str, float], waiting_seconds: float, step_seconds: float
    ) -> dict[str, float]:
        """Shows that a step is done.

        Args:
            step: Number of steps done so far.
            values: Measurements by name; the losses are shown. If it is empty, the last ones stay.
            waiting_seconds: Seconds that this step waited for data.
            step_seconds: Seconds that this step took, with the waiting.

        Returns:
            Numbers for the journal, over the last 20 steps: `images_per_second`, `data_wait_share` in [0, 1], and
            `memory_gb` in 1e9 bytes (peak allocation on the GPU, or resident memory of the process without a GPU).
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
        """Writes a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self.enabled:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Ends the bar; it stays on the screen as it is."""
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
            "memory_gb": _memory_bytes(self._process) / 1e9,
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
            *terms,  # last, as a narrow terminal cuts off the end
        ]

    def _line(self, step: int, facts: Mapping[str, float]) -> str:
        left = (self.total_steps - step) * sum(self._step_seconds) / len(self._step_seconds)
        head = f"step {step}/{self.total_steps}"
        return ", ".join([head, f"{tqdm.format_interval(left)} left", *self._figures(facts)])


def _memory_bytes(process: psutil.Process) -> int:
    """Returns the peak allocation on the current GPU, or the process's resident memory without a GPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return process.memory_info().rss


def _shows_a_bar(stream: TextIO) -> bool:
    """Returns whether the stream is a terminal with a size; the terminals of containers may have none."""
    try:
        return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
    except OSError:
        return False
