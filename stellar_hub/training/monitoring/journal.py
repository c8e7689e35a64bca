"""The journal `metrics.jsonl` of a run: one line of JSON for each step that is measured."""

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from stellar_hub.modeling.atomic_write import write_atomically

NOT_FINITE = ("nan", "inf", "-inf")


class Journal:
    """A file of measurements, one line of JSON per step.

    `write` hands each line to the operating system before it returns. If a crash cuts a line short, the next `write`
    drops that line first.

    Args:
        path: Path of the file; the first `write` creates it. Its folder must exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line with the step and its numbers.

        JSON has no NaN and no infinity: the strings "nan", "inf" and "-inf" stand for them, and `read_journal` turns
        them back into numbers.

        Args:
            step: Number of the optimizer step.
            values: Numbers by name; a number may be a tensor of one element.

        Raises:
            OSError: if the line cannot be written; the error names the file.
            ValueError: if a number has the name "step".
        """
        if "step" in values:
            raise ValueError(f"'step' names the line's step; choose another name for the number {values['step']!r}")
        numbers = {name: float(value) for name, value in values.items()}
        strict = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        line = json.dumps({"step": int(step)} | strict, allow_nan=False).encode() + b"\n"
        self._drop_torn_line()
        try:
            with open(self.path, "ab") as file:
                file.write(line)
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error  # that of a full disk names no file

    def truncate_after(self, step: int) -> Path | None:
        """Removes the lines of later steps and a last line that was cut short; a run that resumes writes them again.

        The file is replaced as a whole. If it does not exist, nothing happens.

        Returns:
            The copy that has all lines, "metrics-to-step-000100.jsonl" beside the journal; None if no step was removed.

        Raises:
            ValueError: if a line other than the last is damaged.
        """
        if not self.path.exists():
            return None
        data = self.path.read_bytes()
        lines = _parsed_lines(data, self.path)
        kept = b"".join(line + b"\n" for line, record in lines if record["step"] <= step)
        last = max((int(record["step"]) for _, record in lines), default=0)
        aside = self._keep_aside(data, last) if last > step else None
        if kept != data:
            write_atomically(self.path, kept)
        return aside

    def _keep_aside(self, data: bytes, last: int) -> Path:
        """Writes the journal until its last step under a name of its own, and returns the path."""
        for number in itertools.count(1):
            suffix = f"-{number}" if number > 1 else ""
            path = self.path.with_name(f"{self.path.stem}-to-step-{last:06d}{suffix}{self.path.suffix}")
            if not path.exists():
                write_atomically(path, data)
            if path.read_bytes() == data:
                return path
        raise AssertionError("count never ends")

    def _drop_torn_line(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)


def read_journal(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """Reads the records of a journal, in their order: each has "step" and the numbers of its line.

    A last line that was cut short is left out.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if any other line is not a JSON object with a step; the message names the line.
    """
    return [record for _, record in _parsed_lines(Path(path).read_bytes(), path)]


def _parsed_lines(data: bytes, path: str | os.PathLike[str]) -> list[tuple[bytes, dict[str, float]]]:
    """Returns each line as it is in the file, with its record."""
    *lines, torn = data.split(b"\n")  # a whole line ends with a line end, so that the last part is empty or torn
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append((line, _parse(line)))
        except ValueError as error:
            if number == len(lines) and not torn:
                break
            raise ValueError(
                f"{path}, line {number}, is damaged: {line[:60]!r} is not a JSON object with a step; "
                "remove the line, or remove the file to begin a new journal"
            ) from error
    return parsed


def _parse(line: bytes) -> dict[str, float]:
    """Returns the record of one line; raises ValueError unless it is a JSON object with an integer "step"."""
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError("not a JSON object with a step")
    return {name: float(value) if value in NOT_FINITE else value for name, value in record.items()}
