"""Probes of a run: what the features of a fixed set of images are worth, measured as the training goes."""

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stellar_hub.features.names import select_features
from stellar_hub.measures import effective_rank, leave_one_out_accuracy, map_shape, token_cosine
from stellar_hub.modeling import StellarModel
from stellar_hub.training.monitoring.undisturbed import undisturbed

MIN_IMAGES = 3  # fewer have no spread
NUM_NEIGHBOURS = 20  # that vote for an image's class; fewer where classes are smaller
MAX_SHARE = 0.03  # of the time of a run
MAX_WAIT = 120.0  # seconds that other processes wait for the one that measures
BATCH_SIZE = 32
FEATURES = ("pooled", "cls", "S", "L")


class ProbeTooLongError(Exception):
    """A probe takes longer than other processes may wait."""


@dataclass
class Probe:
    """A fixed set of images on which a run is measured, and the time that this takes.

    Attributes:
        images: Images as the model sees them at evaluation, `(N, 3, H, W)` uint8 or float32 in [0, 1], on the CPU.
        every: Number of steps between two probes.
        labels: Their classes, `(N,)` int64; None for images without labels.
        notes: Sentences for the user on images that were left out.
        max_seconds: Time that encoding may take, as other processes wait; None for any time.
        probe_seconds: Seconds that probes took so far, in this process.
        step_seconds: Seconds that steps took so far, in this process.
        num_probes: Number of probes so far, in this process.
        num_steps: Number of steps so far, in this process.
    """

    images: Tensor
    every: int
    labels: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    max_seconds: float | None = None
    probe_seconds: float = 0.0
    step_seconds: float = 0.0
    num_probes: int = 0
    num_steps: int = 0
    _warned: bool = False

    def note_step(self, seconds: float) -> None:
        """Counts the time of a step."""
        self.num_steps += 1
        self.step_seconds += seconds

    @property
    def share(self) -> float:
        """Share of the time of steps and probes that probes took, in [0, 1]."""
        return self.probe_seconds / max(self.probe_seconds + self.step_seconds, 1e-9)

    def measure(
        self, model: StellarModel, batch_size: int = BATCH_SIZE, autocast: AbstractContextManager[object] | None = None
    ) -> dict[str, float]:
        """Measures a model, which stays as it is.

        Args:
            model: The model, on any device.
            batch_size: Number of images that are encoded together.
            autocast: Context in which they are encoded; None for none.

        Returns:
            Numbers by name, as `probe_values` gives them. They are NaN if a feature is not finite. Empty if there are
            too few images, or the probe took too long and is given up.
        """
        if len(self.images) < MIN_IMAGES:
            return {}
        if model.device.type == "cuda":  # the steps before belong to the training
            torch.cuda.synchronize(model.device)
        started = time.monotonic()
        try:
            with undisturbed(model):
                features = encode(model, self.images, batch_size, autocast, self.max_seconds)
                return probe_values(features, self.labels)
        except ProbeTooLongError:
            self.images = self.images[:0]
            return {}
        finally:
            self.num_probes += 1
            self.probe_seconds += time.monotonic() - started

    def lines(self, done: int, values: dict[str, float]) -> list[str]:
        """Returns what to tell the user after a probe: the values, and once a warning if probes take too long."""
        if not values:
            if self.num_probes and self.max_seconds is not None and not self._warned:
                self._warned = True
                return [
                    f"note: the probe took more than {self.max_seconds:.0f} s, while other processes waited, so this "
                    "run has no more of them; set data.probe to fewer images, or run.probe_every=0"
                ]
            return []
        figures = ", ".join(f"{name.removeprefix('probe_')} {value:.4g}" for name, value in values.items())
        found = [f"probe after step {done}: {figures}"]
        if self.num_steps < self.every:  # the first one comes after one step: its share says nothing
            return found
        found[0] += f"; probes took {self.share:.1%} of the time"
        expected, least = self.outlook()
        if expected > MAX_SHARE and not self._warned:
            self._warned = True
            found.append(
                f"note: probes take {expected:.1%} of the time, more than {MAX_SHARE:.0%}: set run.probe_every={least} "
                "or more"
            )
        return found

    def outlook(self) -> tuple[float, int]:
        """Returns the share of the time that probes will take, and the least `every` at which it is `MAX_SHARE`."""
        probe, step = self.probe_seconds / max(1, self.num_probes), self.step_seconds / max(1, self.num_steps)
        least = probe * (1 - MAX_SHARE) / (MAX_SHARE * max(step, 1e-9))
        return probe / max(probe + self.every * step, 1e-9), max(1, math.ceil(least))


def encode(
    model: StellarModel,
    images: Tensor,
    batch_size: int,
    autocast: AbstractContextManager[object] | None = None,
    max_seconds: float | None = None,
) -> dict[str, Tensor]:
    """Computes the features in `FEATURES` of images, float32 on the CPU.

    Raises:
        ProbeTooLongError: if it takes more than `max_seconds`.
    """
    started = time.monotonic()
    parts: dict[str, list[Tensor]] = {name: [] for name in FEATURES}
    with autocast or nullcontext():
        for batch in images.split(batch_size):
            if max_seconds is not None and time.monotonic() - started > max_seconds:
                raise ProbeTooLongError
            for name, feature in select_features(model(batch.to(model.device)), FEATURES).items():
                parts[name].append(feature.float().cpu())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def probe_values(features: dict[str, Tensor], labels: Tensor | None) -> dict[str, float]:
    """Computes the numbers of a probe.

    Args:
        features: `pooled` and `cls` `(N, d)`, `S` `(N, r, d)`, and `L` `(N, n, r)`.
        labels: Classes, `(N,)`; None leaves the accuracies out.

    Returns:
        `probe_knn` and `probe_knn_cls`: kNN accuracy of pooled tokens and of cls, each image among all others;
        `probe_rank` and `probe_rank_cls`: their effective rank (RankMe); `probe_token_rank` and `probe_token_cosine`:
        how the tokens of an image differ; `probe_map_sharpness`, `probe_map_area` and `probe_owning_tokens`: the shape
        of their maps. All are NaN if a feature is not finite.
    """
    finite = all(bool(feature.isfinite().all()) for feature in features.values())
    pooled, cls, tokens, localization = (features[name] for name in FEATURES)
    measures = {}
    if labels is not None:
        # More neighbours than the class of an image has would vote for others.
        usual_size = int(labels.unique(return_counts=True)[1].median())
        neighbours = max(1, min(NUM_NEIGHBOURS, usual_size - 1))
        measures["probe_knn"] = lambda: leave_one_out_accuracy(pooled, labels, neighbours)
        measures["probe_knn_cls"] = lambda: leave_one_out_accuracy(cls, labels, neighbours)
    measures |= {
        "probe_rank": lambda: effective_rank(pooled).item(),
        "probe_rank_cls": lambda: effective_rank(cls).item(),
        "probe_token_rank": lambda: effective_rank(tokens).mean().item(),
        "probe_token_cosine": lambda: token_cosine(tokens).item(),
    }
    values = {name: measure() if finite else math.nan for name, measure in measures.items()}
    shape: Iterable[float] = map_shape(localization) if finite else (math.nan,) * 3
    return values | dict(zip(("probe_map_sharpness", "probe_map_area", "probe_owning_tokens"), shape, strict=True))
