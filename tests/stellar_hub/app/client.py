"""A user without a browser: it calls the page as its scripts do."""

import json
import uuid
from pathlib import Path
from typing import Any

import httpx


class Client:
    """One user of a page.

    Attributes:
        http: Its connection.
        config: The configuration that the page has for browsers.
    """

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=address, timeout=120, trust_env=False)
        self.config = self.http.get("/config").json()
        self.session = uuid.uuid4().hex

    def part(self, elem_id: str) -> int:
        """The number of a part."""
        return next(part["id"] for part in self.config["components"] if part["props"].get("elem_id") == elem_id)

    def load(self) -> list[Any]:
        """Opens the page."""
        return self._join(next(each for each in self.config["dependencies"] if each["targets"][0][1] == "load"), [], {})

    def do(self, elem_id: str, event: str, data: Any = None, values: tuple[Any, ...] = ()) -> list[Any]:
        """Does something; returns the values of all outputs."""
        number = self.part(elem_id)
        wanted = next(each for each in self.config["dependencies"] if [number, event] in map(list, each["targets"]))
        return self._join(wanted, list(values), data)

    def upload(self, path: Path) -> list[Any]:
        """Uploads a file and opens it."""
        with path.open("rb") as file:
            answer = self.http.post("/gradio_api/upload", files={"files": (path.name, file)})
        answer.raise_for_status()
        return self.do("upload", "upload", {"name": path.name, "file": answer.json()[0]})

    def _join(self, wanted: dict[str, Any], values: list[Any], data: Any) -> list[Any]:
        body = {
            "data": [None, *values],
            "event_data": data,
            "fn_index": wanted["id"],
            "session_hash": self.session,
            "trigger_id": wanted["targets"][0][0],
        }
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return list(message["output"]["data"])
        raise AssertionError("the page gave no answer")
