"""The settings of a server."""

from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.serving.settings import ServingSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_queue", 0),
        ("max_wait_ms", -1.0),
        ("timeout", 0.0),
        ("timeout", float("nan")),
        ("shutdown_timeout", -1.0),
        ("num_workers", -1),
        ("precision", "float8"),
    ],
)
def test_settings__refuse_what_is_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ServingSettings(**{name: value})


@pytest.mark.parametrize(("patches", "room"), [(16, 8), (8, 8), (32, 4), (1000, 1), (0, 8)])
def test_room__counts_large_images_by_their_patches(patches: int, room: int) -> None:
    assert ServingSettings(max_batch_size=8).room(patches, 16) == room
