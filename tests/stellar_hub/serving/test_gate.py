"""Who may come in."""

from typing import Any

import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`

from .conftest import Ask, message_of

LOCAL = ("127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic right"}, 401),
        ({"authorization": "Bearer right, Bearer wrong"}, 401),
        ({"authorization": "bearer right"}, 200),
    ],
)
def test_key__is_asked_for_everywhere_but_in_health(ask: Ask, headers: dict[str, str], status: int) -> None:
    health, *others = ask(
        ("GET", "/health", {}), *[("GET", path, {"headers": headers}) for path in ("/", "/metrics")], key="right"
    )
    assert health.status_code == 200
    assert [answer.status_code for answer in others] == [status] * 2
    if status == 401:
        assert others[0].headers["www-authenticate"] == "Bearer"
        assert "right" not in message_of(others[0])


@pytest.mark.parametrize(("host", "status"), [("localhost:9", 200), ("127.0.0.1", 200), ("example.org", 421)])
def test_hosts__keep_other_sites_out(ask: Ask, host: str, status: int) -> None:
    (answer,) = ask(("GET", "/", {"headers": {"host": host}}), hosts=LOCAL)
    assert answer.status_code == status


def test_requests__are_counted_by_known_paths_alone(ask: Ask, make_service: Any) -> None:
    service = make_service()
    answers = ask(("GET", "/health", {}), ("GET", "/a/b", {}), ("GET", "/c?d", {}), service=service)
    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)
    text = service.metrics.text().decode()
    assert 'stellar_hub_requests_total{endpoint="/health",status="200"} 1.0' in text
    assert 'stellar_hub_requests_total{endpoint="other",status="404"} 2.0' in text


def test_stopping__asks_clients_to_close(ask: Ask, make_service: Any) -> None:
    service = make_service()
    service.stopping = True
    (answer,) = ask(("GET", "/health", {}), service=service)
    assert answer.headers["connection"] == "close"
    assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
