"""What `optimize_for_inference` reports: each choice with its times, and a sentence for each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A choice that was measured.

    Attributes:
        name: What was chosen for: a part of the model, such as "encoder" (one of its blocks) or "tokenizer", or a
            whole call, "encode" or "decode".
        batch_size: Number of images of the measurement.
        kept: The way to compute it that was kept.
        seconds_before: Median seconds as it was, in the type that was chosen.
        seconds_after: Median seconds with what was kept.
    """

    name: str
    batch_size: int
    kept: str
    seconds_before: float
    seconds_after: float


@dataclass(frozen=True)
class OptimizationReport:
    """What was kept and by how much; `print` shows one line for each.

    Attributes:
        steps: The lines.
        choices: The measured choices, one for each part or call and batch size.
    """

    steps: tuple[str, ...]
    choices: tuple[Choice, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.steps)

    __repr__ = __str__  # what a notebook shows


def milliseconds(before: float, after: float) -> str:
    """Returns two times in words: "3.21 to 1.20 ms", or one if nothing changed."""
    return f"{1e3 * before:.2f} ms" if before == after else f"{1e3 * before:.2f} to {1e3 * after:.2f} ms"
