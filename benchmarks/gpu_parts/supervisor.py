"""Runs the parts in another process, which a part that hangs or breaks the GPU may take down, and collects rows."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

GRACE = 30.0  # seconds beyond a part's deadline after which its process is ended
MAX_START = 120.0  # seconds that a process may take to import everything


class Results:
    """What is known so far; the JSON file is written after each part.

    Args:
        names: Names of the parts.
        path: JSON file, or None.
    """

    def __init__(self, names: Sequence[str], path: Path | None):
        self.environment: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.parts: dict[str, dict[str, Any]] = {name: {"problem": "not run", "seconds": 0.0} for name in names}
        self.path = path

    def end(self, name: str, problem: str | None, seconds: float) -> None:
        """Notes the end of a part, and writes the file."""
        self.parts[name] = {"problem": problem, "seconds": round(seconds, 1)}
        self.write()

    def write(self) -> None:
        """Writes the file."""
        if self.path is None:
            return
        from gpu_parts.tables import merged

        found = {"environment": self.environment, "parts": self.parts, "rows": merged(self.rows)}
        unfinished = self.path.with_name(f"{self.path.name}.part")
        unfinished.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        unfinished.replace(self.path)


def supervise(
    names: Sequence[str],
    command: Callable[[Sequence[str]], Sequence[str]],
    until: float,
    results: Results,
    show: Callable[[str], None],
    show_row: Callable[[dict[str, Any]], None],
    grace: float = GRACE,
) -> None:
    """Runs all parts, each at most once.

    Args:
        names: Names of the parts, in their order.
        command: Returns the command that runs the parts it is given and prints events.
        until: Value of `time.time` after which no part begins.
        results: Takes what is found.
        show: Shows a line.
        show_row: Shows a row.
        grace: Seconds beyond a part's limit after which its process is ended.
    """
    waiting = list(names)
    while waiting and time.time() < until:
        done = run_process(command(waiting), results, show, show_row, grace)
        if not done:  # it could not even start
            break
        waiting = [name for name in waiting if name not in done]
    for name in waiting:
        if time.time() >= until:
            results.end(name, "left out: no time was left", 0)
        show(f"{name}: {results.parts[name]['problem']}")


def run_process(
    command: Sequence[str],
    results: Results,
    show: Callable[[str], None],
    show_row: Callable[[dict[str, Any]], None],
    grace: float,
) -> list[str]:
    """Runs one process until it ends, or a part takes too long, and returns the parts that are done."""
    done: list[str] = []
    running, begin, problem = "", time.time(), ""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # with its own workers, so that all of them can be ended
    )
    events = Events(process)
    try:
        while (event := events.next()) is not None:
            if "row" in event:
                results.rows.append(event["row"])
                show_row(event["row"])
            elif "environment" in event:
                results.environment = event["environment"]
            elif "begin" in event:
                running, begin = event["begin"], time.time()
                events.last = event["deadline"] + grace
                show(f"{running} (at most {event['deadline'] - begin:.0f} s)")
            elif "end" in event:
                finish(results, done, running, event["problem"], time.time() - begin, show)
                running, events.last = "", time.time() + MAX_START
    finally:
        if events.is_late:
            problem = f"took too long and was ended after {time.time() - begin:.0f} s"
        end_all(process)
    if running:
        problem = problem or f"its process ended with exit status {process.returncode}"
        finish(results, done, running, problem, time.time() - begin, show)
    return done


def end_all(process: "subprocess.Popen[str]") -> None:
    """Ends a process and those that it started, and waits for it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)  # it may be ending
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(
    results: Results, done: list[str], name: str, problem: str | None, seconds: float, show: Callable[[str], None]
) -> None:
    """Notes and shows the end of a part."""
    results.end(name, problem, seconds)
    done.append(name)
    show(f"{name}: {problem or 'done'}, {seconds:.0f} s")


class Events:
    """The events that a process prints, one JSON object a line; other lines go to stderr.

    Args:
        process: The process.

    Attributes:
        last: Value of `time.time` until which the next event is waited for.
        is_late: Whether it did not come until then.
    """

    def __init__(self, process: "subprocess.Popen[str]"):
        self.last = time.time() + MAX_START
        self.is_late = False
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._pump, args=(process,), daemon=True).start()

    def _pump(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def next(self) -> dict[str, Any] | None:
        """Returns the next event; None if the process has ended or is late."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, self.last - time.time()))
            except queue.Empty:
                self.is_late = True
                return None
            if line is None:
                return None
            if line.startswith("{"):
                event: dict[str, Any] = json.loads(line)
                return event
            sys.stderr.write(line)
