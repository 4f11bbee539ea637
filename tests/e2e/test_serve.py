"""The service as a process: it executes runs, survives a kill, and handles many requests at a time."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

YAML = {"Content-Type": "application/yaml"}


@contextmanager
def run_service(folder: Path, store: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the service with uvicorn on a free port, with a new SQLite store if none is given.

    Yield its process and its URL.
    """
    command = [sys.executable, "-m", "uvicorn", "noetl.api.app:app", "--port", "0", "--no-access-log"]
    environment = os.environ | {
        "NOETL_STORE": store or f"sqlite:///{folder / 'noetl.db'}",
        "NOETL_ALLOW_SHELL": "1",
        "NOETL_WORKERS": "2",
    }
    with subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        # A thread reads the log, so that the service never waits for a reader.
        drain = threading.Thread(target=lines.extend, args=(process.stderr,))
        drain.start()
        try:
            yield process, match[1]
        finally:
            process.terminate()
            process.wait()
            drain.join()
    assert "Traceback" not in "".join(lines)


def chain(length: int, held: int) -> dict[str, Any]:
    """Return a chain of steps that append their numbers to a file. Step `held` then reads from a pipe."""
    steps: list[dict[str, Any]] = []
    for number in range(length):
        command = f"echo {number} >> " + "{{ input.file }}"
        if number == held:
            command += " && cat {{ input.gate }}"
        step: dict[str, Any] = {"name": f"s{number}", "run": [{"action": "shell", "command": command}]}
        if number + 1 < length:
            step["rule"] = [{"case": "default", "run": [f"s{number + 1}"]}]
        steps.append(step)
    return {"name": "chain", "input": {"file": "string", "gate": "string"}, "steps": steps}


def test_runs_continue_after_the_service_is_killed(tmp_path: Path) -> None:
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    os.mkfifo(gate)
    body = {"playbook": chain(20, held=10), "input": {"file": str(trace), "gate": str(gate)}}
    with run_service(tmp_path) as (process, address):
        accepted = httpx.post(f"{address}/workflows/run", json=body)
        assert accepted.status_code == 202, accepted.text
        link = accepted.json()["links"]["result"]
        with open(gate, "w", encoding="utf-8"):
            # The pipe could be opened, so the held step reads from it.
            process.send_signal(signal.SIGKILL)
            process.wait()
    with run_service(tmp_path) as (process, address):
        gate.write_text("")
        with httpx.stream(
            "GET",
            f"{address}{accepted.json()['links']['events']}",
            headers={"Accept": "text/event-stream"},
            timeout=60,
        ) as events:
            assert "event: end" in "".join(events.iter_text())
        assert httpx.get(f"{address}{link}").json()["status"] == "succeeded"
    lines = trace.read_text().split()
    assert [line for line in lines if line != "10"] == [str(number) for number in range(20) if number != 10]
    assert lines.count("10") == 2


def test_a_stream_of_events_does_not_prevent_the_service_from_stopping(tmp_path: Path) -> None:
    step = {
        "name": "wait",
        "run": [{"action": "shell", "command": "false"}],
        "retry": {"attempts": 2, "delay": "1h"},
    }
    with run_service(tmp_path) as (process, address):
        accepted = httpx.post(
            f"{address}/workflows/run", json={"playbook": {"name": "patient", "steps": [step]}}
        )
        url = f"{address}{accepted.json()['links']['events']}"
        received = []
        with httpx.stream("GET", url, headers={"Accept": "text/event-stream"}, timeout=60) as events:
            for line in events.iter_lines():
                received.append(line)
                if line == "event: step.retrying":
                    process.terminate()
        assert process.wait() in (0, -signal.SIGTERM)
        assert "event: end" not in received


def test_two_hundred_concurrent_runs_finish(tmp_path: Path) -> None:
    playbook = """\
name: crowd
input: {number: integer}
steps:
  - name: double
    run: [{action: set, set: {doubled: "{{ input.number * 2 }}"}}]
    rule: [{case: default, run: [left, right]}]
  - name: left
    run: [{action: set, set: {a: "{{ doubled + 1 }}"}}]
    rule: [{case: default, run: [together]}]
  - name: right
    run: [{action: set, set: {b: "{{ doubled + 2 }}"}}]
    rule: [{case: default, run: [together]}]
  - name: together
    run: [{action: set, set: {sum: "{{ a + b }}"}}]
output: {sum: "{{ sum }}"}
"""

    async def run(http: httpx.AsyncClient, number: int) -> None:
        body = {"playbook": playbook, "input": {"number": number}}
        response = await http.post("/workflows/run", json=body, headers={"Prefer": "wait=25"})
        link = response.headers["location"].replace("/status/", "/result/")
        while response.status_code == 202:
            await asyncio.sleep(0.5)
            response = await http.get(link)
        assert response.status_code == 200, response.text
        assert response.json()["result"] == {"sum": 4 * number + 3}

    async def run_all(address: str) -> int:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as http:
            await asyncio.gather(*(run(http, number) for number in range(200)))
            page = await http.get("/workflows", params={"limit": 1000, "status": "succeeded"})
            return len(page.json()["items"])

    with run_service(tmp_path) as (_, address):
        assert asyncio.run(run_all(address)) == 200
