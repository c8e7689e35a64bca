"""What a server counts, for Prometheus."""

from collections.abc import Callable
from typing import Any

from stellar_hub.extras import require

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_prometheus: Any = require("prometheus_client", "serve", "the metrics of a server")


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = _prometheus.CollectorRegistry()
        more = {"registry": self.registry, "namespace": "stellar_hub"}
        labels = ["endpoint", "status"]
        self._requests = _prometheus.Counter("requests", "Requests that were answered.", labels, **more)
        self._seconds = _prometheus.Histogram(
            "request_seconds", "Time from a request to its answer.", ["endpoint"], buckets=SECONDS, **more
        )
        self._images = _prometheus.Counter("images", "Images that the model has seen or made.", ["task"], **more)
        self._batches = _prometheus.Histogram(
            "batch_images", "Images of a call of the model.", ["task"], buckets=BATCH_SIZES, **more
        )
        self._waiting = _prometheus.Gauge("queue_images", "Images that wait for the model.", **more)
        self._accepted = _prometheus.Gauge("accepted_images", "Images accepted and not yet answered.", **more)
        self._bodies = _prometheus.Gauge("body_bytes", "Size of the bodies of all open requests.", **more)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def batch(self, task: str, size: int) -> None:
        """Counts a call of the model."""
        self._batches.labels(task).observe(size)
        self._images.labels(task).inc(size)

    def watch(self, waiting: Callable[[], int], accepted: Callable[[], int]) -> None:
        """Takes the functions that know how many images wait for the model, and how many are accepted."""
        self._waiting.set_function(waiting)
        self._accepted.set_function(accepted)

    def watch_bodies(self, num_bytes: Callable[[], int]) -> None:
        """Takes the function that knows the size of all bodies."""
        self._bodies.set_function(num_bytes)

    def text(self) -> bytes:
        """Returns all numbers in Prometheus' text format."""
        return bytes(_prometheus.generate_latest(self.registry))
