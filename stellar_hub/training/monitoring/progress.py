"""The progress that a run shows on the terminal."""

import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]
import torch
from tqdm import tqdm

from stellar_hub.modeling.safe_text import escape_control, mask_secrets
from stellar_hub.progress import SECONDS_BETWEEN_LINES, shows_a_bar

WINDOW = 20  # number of steps that speed and waiting are averaged over
MAX_SILENCE = 55.0  # seconds after which a step that is not done yet gets a line


class RunProgress:
    """A progress bar on a terminal, and plain lines elsewhere, such as in a log file; both go to stderr.

    Elsewhere there is a line at least once a minute, also while a step takes longer than that.

    Args:
        total_steps: Number of optimizer steps of the whole run.
        start_step: Number of steps that a resumed run has done before.
        batch_size: Number of images per optimizer step, over all processes and accumulated batches.
        enabled: Whether to show anything; False on all processes but the first. `update` returns its numbers anyway.
        log_every: Largest number of steps between two plain lines; the first and the last step get one too, and a step
            after 30 seconds without one.
    """

    def __init__(
        self, total_steps: int, start_step: int = 0, batch_size: int = 1, enabled: bool = True, log_every: int = 10
    ) -> None:
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.log_every = max(1, log_every)
        self.enabled = enabled
        self._shown: dict[str, float] = {}
        self._measured_step = start_step
        self._step_seconds: deque[float] = deque(maxlen=WINDOW)
        self._waiting_seconds: deque[float] = deque(maxlen=WINDOW)
        self._process = psutil.Process()
        self._step, self._last_line = start_step, time.monotonic()
        self._closed = threading.Event()
        self._bar = None
        if enabled and shows_a_bar():
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, file=sys.stderr)

    def update(
        self, step: int, values: Mapping[str, float], waiting_seconds: float, step_seconds: float
    ) -> dict[str, float]:
        """Shows that a step is done.

        Args:
            step: Number of steps done so far.
            values: Measurements by name; the losses are shown. If it is empty, the last ones stay, with their step.
            waiting_seconds: Seconds that this step waited for data.
            step_seconds: Seconds that this step took, with the waiting.

        Returns:
            Numbers for the journal, over the last 20 steps: `images_per_second`, `data_wait_share` in [0, 1], and
            `memory_gb` in 1e9 bytes (peak allocation on the GPU, or resident memory of the process without a GPU).
        """
        self._step_seconds.append(step_seconds)
        self._waiting_seconds.append(waiting_seconds)
        self._shown |= values
        self._measured_step = step if values else self._measured_step
        self._step = step
        facts = self._throughput()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._figures(facts)), refresh=False)
            self._bar.update(step - self._bar.n)
        elif self.enabled and (
            step % self.log_every == 0 or step in (1, self.total_steps) or self.silence() >= SECONDS_BETWEEN_LINES
        ):
            self.note(self._line(step, facts))
        return facts

    def silence(self) -> float:
        """Returns the number of seconds since the last plain line."""
        return time.monotonic() - self._last_line

    def note(self, text: str) -> None:
        """Writes a line of its own, above the bar where there is one; without passwords and control characters."""
        text = escape_control(mask_secrets(text))
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self.enabled:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Ends the bar; it stays on the screen as it is."""
        self._closed.set()
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        if self.enabled and self._bar is None:
            threading.Thread(target=self._break_silences, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _break_silences(self) -> None:
        """Writes a line whenever there was none for a minute, until the end."""
        while not self._closed.wait(max(0.01, MAX_SILENCE - self.silence())):
            if self.silence() >= MAX_SILENCE:
                self.note(f"step {self._step + 1}/{self.total_steps} is not done after {self.silence():.0f} s")

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
        when = "" if self._measured_step == self._step else f"at step {self._measured_step}"
        if when and terms:
            terms[0] = f"{when}: {terms[0]}"
        speed = facts["images_per_second"]
        return [
            *([f"loss {losses['loss']:.4g} {when}".rstrip()] if "loss" in losses else []),
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
