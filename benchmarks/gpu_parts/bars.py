"""The bars that a run on an H100 is compared with, as data. All are ratios or rates within one run."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Rows = Sequence[dict[str, Any]]
B16 = ("encode b16, batch 1", "encode b16, batch 8", "encode b16, batch 32", "encode b16, batch 256")
CALLS = (*B16, "encode l16, batch 256", "encode h16, batch 256", "decode b16, batch 64")
EXTRACTION = "extraction b16, JPEGs of 500 x 375"
STEP_B16, STEP_TINY = "training step b16, 96 images", "training step stellar-tiny, 256 images"
MAX_RATIO = 1.03  # of a time; more than that is slower, less may be noise


class Bar(NamedTuple):
    """A bar.

    Attributes:
        what: What is measured, with its unit.
        limit: The limit.
        at_least: Whether the value must be at least the limit; else at most.
        value: Computes the value from the rows; None if it was not measured.
    """

    what: str
    limit: float
    at_least: bool
    value: Callable[[Rows], float | None]

    def met(self, rows: Rows) -> bool | None:
        """Returns whether the bar is met; None if it was not measured."""
        value = self.value(rows)
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit


def find(rows: Rows, group: str, name: str, key: str) -> float | None:
    """Returns a value; None if it was not measured."""
    return next((row.get(key) for row in rows if row["group"] == group and row["name"] == name), None)


def ratio(above: float | None, below: float | None) -> float | None:
    """Returns a ratio; None if a part of it was not measured."""
    return None if above is None or not below else above / below


def milliseconds(group: str) -> Callable[[Rows], float | None]:
    """Returns what finds the time of the optimized model."""
    return lambda rows: find(rows, group, "optimized", "ms")


def against_timm(size: str, name: str = "optimized") -> Callable[[Rows], float | None]:
    """Returns what finds the speed per token, as a multiple of that of timm compiled in its faster way."""
    group = f"encode {size}, batch 256"

    def value(rows: Rows) -> float | None:
        times = [find(rows, group, f"timm, {how}", "us_per_token") for how in ("compiled", "blocks compiled")]
        known = [time for time in times if time is not None]
        return ratio(min(known, default=None), find(rows, group, name, "us_per_token"))

    return value


def slowest_against_eager(rows: Rows) -> float | None:
    """Returns the largest time of an optimized model, as a multiple of the same model's as it is."""
    ratios = [ratio(find(rows, group, "optimized", "ms"), find(rows, group, "as it is", "ms")) for group in CALLS]
    return None if None in ratios else max(each for each in ratios if each is not None)


def extraction_share(rows: Rows) -> float | None:
    """Returns the best rate of extraction, as a share of that of the model or the fastest decoder: the lower one."""
    rates = {row["name"]: row.get("per_second") for row in rows if row["group"] == EXTRACTION}
    extracted = [rate for name, rate in rates.items() if name.startswith("extract, ") and rate]
    decoders = [rate for name, rate in rates.items() if "alone" in name and name != "the model alone" and rate]
    model = rates.get("the model alone")
    return max(extracted) / min(model, max(decoders)) if extracted and decoders and model else None


def share_that_is_the_same(rows: Rows) -> float | None:
    """Returns the share of compared outputs and golden values that are the same up to rounding."""
    found = [row["same"] for row in rows if "same" in row]
    return sum(found) / len(found) if found else None


BARS = (
    Bar("encode b16, batch 1: ms", 0.8, False, milliseconds(B16[0])),
    Bar("encode b16, batch 8: ms", 1.4, False, milliseconds(B16[1])),
    Bar("encode b16, batch 256: speed per token, as a multiple of timm compiled", 1.10, True, against_timm("b16")),
    Bar("encode l16, batch 256: the same", 1.10, True, against_timm("l16")),
    Bar("encode h16, batch 256: the same", 1.10, True, against_timm("h16")),
    Bar("encode l16, batch 256, float8: the same", 1.25, True, against_timm("l16", "optimized, float8")),
    Bar("encode h16, batch 256, float8: the same", 1.25, True, against_timm("h16", "optimized, float8")),
    Bar("encode b16, batch 256: share of the matrix rate", 0.58, True, lambda r: find(r, B16[3], "optimized", "share")),
    Bar(
        "decode b16, batch 64: speed, as a multiple of the model as it is",
        1.3,
        True,
        lambda r: ratio(find(r, CALLS[-1], "as it is", "ms"), find(r, CALLS[-1], "optimized", "ms")),
    ),
    Bar("optimized against the model as it is: time, worst of all of these", MAX_RATIO, False, slowest_against_eager),
    Bar(f"{STEP_B16}: images/s", 700, True, lambda r: find(r, STEP_B16, "ours, as train runs it", "per_second")),
    Bar(
        f"{STEP_B16}: speed, as a multiple of naive losses",
        1.3,
        True,
        lambda r: ratio(find(r, STEP_B16, "naive losses", "ms"), find(r, STEP_B16, "ours, as train runs it", "ms")),
    ),
    Bar(f"{STEP_TINY}: images/s", 12000, True, lambda r: find(r, STEP_TINY, "ours, as train runs it", "per_second")),
    Bar("extraction b16: rows/s, as a share of the slower of model and fastest decoder", 0.9, True, extraction_share),
    Bar(
        "extraction b16, torchvision (nvJPEG): rows/s",
        4000,
        True,
        lambda r: find(r, EXTRACTION, "extract, torchvision", "per_second"),
    ),
    Bar("outputs of all variants, and golden values: share that agrees", 1.0, True, share_that_is_the_same),
)
