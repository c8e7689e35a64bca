"""The endpoints of a server, as an ASGI application."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from stellar_hub.extras import require
from stellar_hub.features.names import OUTPUTS, check_outputs
from stellar_hub.serving.answers import (
    JSON,
    PNG,
    SAFETENSORS,
    Response,
    chosen_type,
    decoded_answer,
    embedded_answer,
    encoded_answer,
    error_answer,
    json_answer,
)
from stellar_hub.serving.bodies import Bodies, Body
from stellar_hub.serving.codes import read_codes
from stellar_hub.serving.gate import Gate
from stellar_hub.serving.images import read_embedding_request, read_images
from stellar_hub.serving.metrics import CONTENT_TYPE
from stellar_hub.serving.refusals import Refusal, faults_of_the_request, refusal_of
from stellar_hub.serving.service import Service
from stellar_hub.version import __version__

DEFAULT_OUTPUTS = ("S", "L", "pooled", "cls")
CLIENT_IS_GONE = 499  # counted, and sent to nobody

ENDPOINTS = {
    "POST /encode": "images to S, L, pooled and cls: files of a form, one file as the body, or JSON with data URLs; "
    "?outputs=S,L chooses; Accept: application/safetensors gives a file",
    "POST /decode": "S and L to images: safetensors or JSON; PNG, or as accepted JSON or safetensors",
    "POST /v1/embeddings": "images to vectors, in the shape of OpenAI's API (also /embeddings)",
    "GET /v1/models": "the model, in the shape of OpenAI's API",
    "GET /health": "whether the server is ready, its model and its queue",
    "GET /metrics": "numbers for Prometheus",
    "GET /": "this page",
}

_starlette: Any = require("starlette.applications", "serve", "the server")
_routing: Any = require("starlette.routing", "serve", "the server").routing
_exceptions: Any = require("starlette.exceptions", "serve", "the server").exceptions
_requests: Any = require("starlette.requests", "serve", "the server").requests

Work = Callable[[Any, Body], Awaitable[Any]]


class Endpoints:
    """What each endpoint does.

    Args:
        service: The service that does it.
    """

    def __init__(self, service: Service):
        self.service = service
        self.bodies = Bodies()

    async def encode(self, request: Any, body: Body) -> Any:
        """Answers `POST /encode`."""
        service = self.service
        kind = chosen_type(request.headers.get("accept", ""), (JSON, SAFETENSORS))
        with faults_of_the_request():
            outputs = _outputs(request.query_params)
        images = await service.in_thread(_reading, read_images, body)
        encoded = await service.encode(images, outputs)
        return await service.in_thread(encoded_answer, encoded, service.name, kind)

    async def embeddings(self, request: Any, body: Body) -> Any:
        """Answers `POST /embeddings`."""
        service = self.service
        _check_parameters(request.query_params, ())
        wanted = await service.in_thread(_reading, read_embedding_request, body)
        if wanted.model not in (None, "", service.name):
            raise Refusal(404, f"{wanted.model!r} is not here: this server has {service.name}")
        encoded = await service.encode(wanted.images, ("pooled",))
        return await service.in_thread(embedded_answer, encoded, service.name, wanted.base64)

    async def decode(self, request: Any, body: Body) -> Any:
        """Answers `POST /decode`."""
        service = self.service
        _check_parameters(request.query_params, ())
        hidden_size = service.model.config.hidden_size
        encodings = await service.in_thread(_reading, read_codes, body, hidden_size)
        offered = (PNG, JSON, SAFETENSORS)
        kind = chosen_type(request.headers.get("accept", ""), offered if len(encodings) == 1 else offered[1:])
        images = await service.decode(encodings)
        return await service.in_thread(decoded_answer, images, service.name, kind)

    async def models(self, request: Any) -> Any:
        """Answers `GET /v1/models`."""
        model = {"id": self.service.name, "object": "model", "created": 0, "owned_by": "stellar_hub"}
        return json_answer({"object": "list", "data": [model]})

    async def health(self, request: Any) -> Any:
        """Answers `GET /health`."""
        health = self.service.health()
        return json_answer(health, 200 if health["status"] == "ready" else 503)

    async def metrics(self, request: Any) -> Any:
        """Answers `GET /metrics`."""
        return Response(self.service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def home(self, request: Any) -> Any:
        """Answers `GET /`."""
        name = {"name": "stellar_hub", "version": __version__, "model": self.service.name}
        return json_answer({**name, "endpoints": ENDPOINTS})

    def post(self, work: Work) -> Callable[[Any], Awaitable[Any]]:
        """Returns the endpoint of some work with a body; whatever goes wrong is an answer."""

        async def endpoint(request: Any) -> Any:
            ends = time.monotonic() + self.service.settings.timeout
            try:
                async with self.bodies.read(request, self.service.settings.timeout) as body:
                    return await _within(request, work(request, body), ends - time.monotonic())
            except _requests.ClientDisconnect:
                return Response(status_code=CLIENT_IS_GONE)
            except Exception as error:
                return error_answer(refusal_of(error))

        return endpoint


def application(service: Service, key: str | None = None, hosts: Collection[str] | None = None) -> Any:
    """Returns a server as an ASGI application, for `serve` or any other ASGI server.

    Args:
        service: What it does.
        key: Key that requests must have as `Authorization: Bearer KEY`; None asks for none.
        hosts: Names by which it may be called; None allows all.
    """
    ends = Endpoints(service)
    posts = {"/encode": ends.encode, "/decode": ends.decode, "/embeddings": ends.embeddings}
    posts["/v1/embeddings"] = ends.embeddings
    gets = {"/": ends.home, "/health": ends.health, "/metrics": ends.metrics, "/v1/models": ends.models}
    routes = [_routing.Route(path, ends.post(work), methods=["POST"]) for path, work in posts.items()]
    routes += [_routing.Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()]

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with service.running():
            yield

    app = _starlette.applications.Starlette(
        routes=routes, lifespan=lifespan, exception_handlers={_exceptions.HTTPException: _refused}
    )
    app.router.redirect_slashes = False
    service.metrics.watch_bodies(lambda: ends.bodies.num_bytes)
    return Gate(app, service, key, hosts, {*posts, *gets})


async def _refused(request: Any, error: Any) -> Any:
    """Answers what no endpoint takes."""
    message = f"{error.detail}: GET / lists the endpoints"
    return error_answer(Refusal(error.status_code, message, dict(error.headers or {})))


def _reading(read: Callable[..., Any], *values: Any) -> Any:
    """Returns what somebody sent, parsed; whatever is wrong with it is a `Refusal`."""
    with faults_of_the_request():
        return read(*values)


def _outputs(parameters: Any) -> tuple[str, ...]:
    """Returns the features that an address asks for, such as `?outputs=S,L`."""
    _check_parameters(parameters, ("outputs",))
    given = [name.strip() for text in parameters.getlist("outputs") for name in text.split(",")]
    return check_outputs([name for name in given if name], OUTPUTS) if given else DEFAULT_OUTPUTS


def _check_parameters(parameters: Any, known: tuple[str, ...]) -> None:
    unknown = [name for name in parameters if name not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise Refusal(400, f"{unknown[0]!r} is no parameter of this address: {takes}")


async def _within(request: Any, work: Awaitable[Any], seconds: float) -> Any:
    """Returns the result of some work, unless time is over or the client goes away; the work is then cancelled.

    Raises:
        ClientDisconnect: if the client went away.
        Refusal: if the time is over.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise _requests.ClientDisconnect
        raise Refusal(503, "the server had no time for this within its limit: try again later")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Any) -> None:
    """Waits until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
