"""A service with a tiny model, and a way to ask it without a network."""

import asyncio
import copy
import io
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from stellar_hub.modeling import StellarImageProcessor, StellarModel

if TYPE_CHECKING:  # the extra `serve` may not be there
    from stellar_hub.serving import Service

Ask = Callable[..., list[httpx.Response]]
Make = Callable[..., "Service"]
Request = tuple[str, str, dict[str, Any]]


def image_file(seed: int = 0, size: tuple[int, int] = (40, 60), kind: str = "PNG") -> bytes:
    """An image of noise."""
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def make_service(shared_pixel_model: StellarModel) -> Make:
    """Makes a service of copies of the tiny pixel model."""

    from stellar_hub.serving import Service, ServingSettings

    def make(num_models: int = 1, fit: str = "crop", **settings: Any) -> Service:
        models = [copy.deepcopy(shared_pixel_model) for _ in range(num_models)]
        processor = StellarImageProcessor.from_config(shared_pixel_model.config, fit=fit)
        return Service(models, processor, ServingSettings(**{"num_workers": 2, "max_wait_ms": 20} | settings), "tiny")

    return make


@pytest.fixture
def ask(make_service: Make) -> Ask:
    """Sends requests to a service, all at once, and returns the answers in their order."""

    def sent(*requests: Request, service: "Service | None" = None, **options: Any) -> list[httpx.Response]:
        asked = service or make_service()
        return asyncio.run(_answers(asked, requests, options))

    return sent


async def _answers(service: "Service", requests: Sequence[Request], options: dict[str, Any]) -> list[httpx.Response]:
    from stellar_hub.serving import application

    transport = httpx.ASGITransport(app=application(service, **options))
    async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return list(await asyncio.gather(*(client.request(how, path, **more) for how, path, more in requests)))


def slow_down(service: Any, seconds: float) -> None:
    """Makes each call of the model take so long."""
    _before_each_call(service, lambda: time.sleep(seconds))


def hold(service: Any, until: Callable[[], bool]) -> threading.Event:
    """Makes calls of the model wait until something is so, from the moment that the event is set."""
    begins = threading.Event()

    def wait() -> None:
        while begins.is_set() and not until():
            time.sleep(0.01)

    _before_each_call(service, wait)
    return begins


def _before_each_call(service: Any, wait: Callable[[], None]) -> None:
    def slowed(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            wait()
            return run(*given)

        return wrapped

    for engine in service._engines:
        engine.run = slowed(engine.run)


def message_of(answer: httpx.Response) -> str:
    """The sentence of an error, which is one line."""
    text = answer.json()["error"]["message"]
    assert isinstance(text, str)
    assert text.isprintable()
    assert "Traceback" not in text
    return text
