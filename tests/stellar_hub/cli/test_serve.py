"""`stellar-hub serve`."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

import stellar_hub.serving

from .conftest import Command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be served: the service, and the arguments after it."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.delenv("STELLAR_HUB_API_KEY", raising=False)

    def serve(service: Any, host: str, port: int, key: str | None, without_key: bool, ready: Any) -> int:
        calls.append((service, host, port, key, without_key))
        ready(f"http://{host}:{port}")
        return port - 8000  # images that had no answer

    monkeypatch.setattr(stellar_hub.serving, "serve", serve)
    return calls


def test_serve__takes_its_options(command: Command, model_folder: Path, served: list[tuple[Any, ...]]) -> None:
    batching = ("--max-batch-size", 4, "--max-wait-ms", 2.5, "--max-queue", 9, "--num-workers", 3)
    seconds = ("--timeout", 7, "--shutdown-timeout", 8)
    result = command("serve", "-m", model_folder, "--devices", "cpu,CPU", "--fit", "pad", *batching, *seconds)
    assert result.exit_code == 0, result.output
    service, *rest = served[0]
    assert rest == ["127.0.0.1", 8000, None, False]
    settings = service.settings
    assert (settings.max_batch_size, settings.max_wait_ms, settings.max_queue, settings.num_workers) == (4, 2.5, 9, 3)
    assert (settings.timeout, settings.shutdown_timeout, settings.precision) == (7, 8, "float32")
    assert (service.health()["devices"], service.processor.fit) == (["cpu", "cpu"], "pad")
    assert f"serving {model_folder.parent.name} at http://127.0.0.1:8000" in result.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("--port", "70000"),
        ("--devices", ","),
        ("--devices", "cpu,abacus"),
        ("--model", "no-such"),
        ("--max-batch-size", "0"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--max-wait-ms", "99999999"),
        ("--precision", "float8"),
        ("--host", "0.0.0.0"),
    ],
)
def test_serve__refuses_wrong_usage_before_it_loads(
    command: Command, wrong: tuple[str, str], served: list[tuple[Any, ...]]
) -> None:
    result = command("serve", *wrong)
    assert result.exit_code == 2, result.output
    assert "loading" not in result.stderr
    assert served == []


def test_serve__lets_others_in_with_a_key_or_without_one_on_purpose(
    command: Command, model_folder: Path, served: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("serve", "--model", model_folder, "--host", "0.0.0.0")
    assert "no key" in command(*options, "--without-key").stderr
    monkeypatch.setenv("STELLAR_HUB_API_KEY", "secret-key")
    result = command(*options)
    assert result.exit_code == 0, result.output
    assert [call[3:] for call in served] == [(None, True), ("secret-key", False)]
    assert "secret-key" not in result.output
    assert command(*options, "--without-key").exit_code == 2


def test_serve__fails_if_it_could_not_answer_all(
    command: Command, model_folder: Path, served: list[tuple[Any, ...]]
) -> None:
    result = command("serve", "--model", model_folder, "--port", 8003)
    assert result.exit_code == 1
    assert "3 images" in result.stderr
