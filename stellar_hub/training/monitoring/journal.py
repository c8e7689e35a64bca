"""`metrics.jsonl`: what a run measured, one line of JSON for each time it looked."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from stellar_hub.modeling.atomic_write import write_atomically

NOT_FINITE = ("nan", "inf", "-inf")


class Journal:
    """Appends lines to a journal; each is on its way to the disk when `write` returns.

    A line cut short by a crash is dropped before the next one is written.

    Args:
        path: The file; made by the first `write`, its folder has to be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line: the step and its numbers.

        JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf", which `read` turns back.

        Args:
            step: The optimizer step.
            values: Numbers by name; a number may be a tensor of one element.

        Raises:
            FileNotFoundError: if the folder does not exist.
            ValueError: if a number is named "step".
        """
        if "step" in values:
            raise ValueError(f"'step' is the line's own; name the number {values['step']!r} something else")
        record = {"step": int(step)} | {name: strict_number(float(value)) for name, value in values.items()}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self._drop_torn_line()
        with open(self.path, "ab") as file:
            file.write(line)

    def truncate_after(self, step: int) -> None:
        """Forget all lines of later steps, and a last line cut short: a run that resumes at `step` writes them anew.

        The file is replaced as a whole; without one nothing is done.

        Raises:
            ValueError: if a line that is not the last cannot be read.
        """
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        kept = b"".join(line + b"\n" for line, record in parsed_lines(data, self.path) if record["step"] <= step)
        if kept != data:
            write_atomically(self.path, kept)

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)


def read(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The records of a journal, in its order: each has "step" and the numbers of that line.

    A last line that was cut short is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if any other line is no JSON object with a step, naming it.
    """
    return [record for _, record in parsed_lines(Path(path).read_bytes(), path)]


def parsed_lines(data: bytes, path: str | os.PathLike[str]) -> list[tuple[bytes, dict[str, float]]]:
    """Each line as it stands, and what it says; see `read`."""
    *lines, torn = data.split(b"\n")  # whatever follows the last line's end was cut short
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append((line, parse(line)))
        except ValueError as error:
            if number == len(lines) and not torn:
                break
            raise ValueError(
                f"{path}, line {number}, is damaged: {line[:60]!r} is no JSON object with a step; "
                "remove the line, or the file to start it anew"
            ) from error
    return parsed


def parse(line: bytes) -> dict[str, float]:
    """One line's record, "nan" and its like turned into numbers.

    Raises:
        ValueError: if it is no JSON object with an integer "step".
    """
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError("no JSON object with a step")
    return {name: float(value) if value in NOT_FINITE else value for name, value in record.items()}


def strict_number(value: float) -> float | str:
    """The number, or the string that stands for it in strict JSON."""
    return value if math.isfinite(value) else str(value)
