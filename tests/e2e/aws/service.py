"""Client of a deployed service over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

import httpx

from tests.e2e.aws.stack import CONTENT

SECONDS = 90.0
FINAL = ("succeeded", "completed_with_errors", "failed", "cancelled", "timed_out")


def wait_for(condition: Callable[[], Any]) -> Any:
    """Call a function until it returns a value that is true, and return that."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, value
        time.sleep(0.2)
    return value


@dataclass(frozen=True)
class DeployedService:
    """A deployed service, by the client that sends its requests."""

    http: httpx.Client

    def start(self, text: str, input: Mapping[str, Any] | None = None, **headers: str) -> str:
        """Start a run, and return its id."""
        text = dedent(text)
        body = {
            "playbook": text if text.startswith("name:") else f"name: x\n{text}",
            "input": dict(input or {}),
        }
        answer = self.http.post("/workflows/run", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["workflow_id"])

    def register(self, text: str) -> dict[str, Any]:
        """Register a playbook, and return the answer."""
        answer = self.http.post("/playbooks", content=text, headers=CONTENT)
        assert answer.status_code in (200, 201), answer.text
        return dict(answer.json())

    def firings(self, trigger: str) -> list[dict[str, Any]]:
        """Return the firings of a trigger, the oldest first."""
        return list(self.http.get(f"/triggers/{trigger}/firings").json()["items"][::-1])

    def result(self, id: str, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait for the end of a run, and return its result."""
        deadline = time.monotonic() + seconds
        while True:
            answer = self.http.get(f"/workflows/result/{id}")
            if answer.status_code == 200:
                return dict(answer.json())
            assert answer.status_code == 202, answer.text
            assert time.monotonic() < deadline, self.status(id)
            time.sleep(0.2)

    def output(self, id: str, seconds: float = SECONDS) -> Any:
        """Wait for a run to succeed, and return its output."""
        found = self.result(id, seconds)
        assert (found["status"], found["errors"]) == ("succeeded", []), (
            found,
            self.status(id),
            self.events(id),
        )
        return found["result"]

    def run_to_end(self, text: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run a playbook, and return the result of the run."""
        return self.result(self.start(text, input))

    def status(self, id: str) -> dict[str, Any]:
        answer = self.http.get(f"/workflows/status/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def events(self, id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.http.get(
                f"/workflows/{id}/events", params={} if cursor is None else {"cursor": cursor}
            ).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def wait_for_step(self, id: str, step: str, status: str, seconds: float = SECONDS) -> dict[str, Any]:
        """Wait until a step has a status, and return its state."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.status(id)["steps"][step]
            if found["status"] == status:
                return dict(found)
            assert time.monotonic() < deadline, self.status(id)
            time.sleep(0.1)
