"""The benchmark of the server, in short."""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.serving import Service, ServingSettings, application

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("serving_benchmark", BENCHMARKS / "serving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_mutated__is_made_from_seed_and_number_alone(script: ModuleType) -> None:
    calls = script.valid_calls()
    made = [script.mutated(0, number, calls) for number in range(40)]
    assert made == [script.mutated(0, number, calls) for number in range(40)]
    assert len({(call.path, call.kind, call.body) for call in made}) > 35
    assert script.mutated(1, 0, calls) != made[0]


def test_mutated_requests__get_answers_that_are_no_faults(
    script: ModuleType, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STELLAR_HUB_MAX_IMAGE_PIXELS", "1000000")  # no time for those that claim to be huge
    config = pixel_model.config
    calls = script.valid_calls(config.hidden_size, 16, config.num_sparse_tokens)
    requests = [*calls, *(script.mutated(0, number, calls) for number in range(250))]
    settings = ServingSettings(max_queue=4096, max_wait_ms=0, num_workers=2)
    service = Service([pixel_model], StellarImageProcessor.from_config(config), settings, "stellar-tiny")

    async def answers() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=application(service))
        async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            kinds = [[(b"content-type", call.kind.encode("latin-1"))] for call in requests]
            return [
                await client.post(call.path, content=call.body, headers=kind)
                for call, kind in zip(requests, kinds, strict=True)
            ]

    found = asyncio.run(answers())
    valid = [answer.status_code for answer in found[: len(calls)]]
    assert [status for status in valid if status != 200] == [400, 400]  # the images that claim to be large
    assert {answer.status_code for answer in found} <= {200, 400, 404, 405, 413, 415}
    for answer in found:
        if answer.status_code != 200:
            assert json.loads(answer.text)["error"]["message"].isprintable()


def test_table__says_which_bars_are_missed(script: ModuleType) -> None:
    lines = [script.Line("a", "1", "2", True), script.Line("b", "3", "4", False)]
    assert script.table_of(lines).splitlines()[2:] == ["| a | 1 | 2 |", "| b | 3 | 4: **not met** |"]


@pytest.mark.slow
def test_stop__loses_no_request(script: ModuleType) -> None:
    (line,) = script.stop("stellar-tiny", 3)
    assert line.met, line


@pytest.mark.slow
def test_agreement__is_exact_under_load(script: ModuleType) -> None:
    (line,) = script.agreement("stellar-tiny", 24)
    assert line.met, line


def test_call__sends_what_it_is_given(script: ModuleType) -> None:
    class Connection:
        def request(self, *given: Any) -> None:
            self.given = given

        def getresponse(self) -> Any:
            return type("Answer", (), {"status": 200, "read": lambda self: b"x"})()

    connection = Connection()
    assert script.call(connection, script.Call("/encode", "image/jpeg", b"y")) == (200, b"x")
    assert connection.given[2:] == (b"y", {"Content-Type": "image/jpeg", "Accept": "application/safetensors"})
