"""Event streams: the cost of idle listeners and the delay of events: `python -m benchmarks.streams`.

The service is a process of its own, on SQLite. Its listeners wait for runs that wait. CPU time is that of the
service process. The delay is from the time of an event to its arrival at a listener, among all idle ones.
`--python FILE` measures the version of NoETL that another Python has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx

LISTENERS = (64, 500)
LISTENERS_PER_RUN = 10
IDLE_SECONDS = 20.0
SETTLE_SECONDS = 3.0
STEPS = 20
PATIENT = "name: patient\nsteps:\n- {name: wait, run: [{action: wait, seconds: 3600}]}\n"


def chain(steps: int) -> str:
    """Return a playbook of steps that pause, so that events are written one by one."""
    lines = ["name: chain", "steps:"]
    for number in range(steps):
        rule = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f"- {{name: s{number}, run: [{{action: wait, seconds: 0.3}}]{rule}}}")
    return "\n".join(lines) + "\n"


class StreamListener:
    """A client of an event stream. `arrivals` are the delays of its events, in seconds."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.arrivals: list[float] = []

    async def open(self) -> int:
        """Connect, and return the status of the response."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        request = f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        self._writer.write(request.encode())
        await self._writer.drain()
        return int((await self._reader.readline()).split()[1])

    async def read(self) -> None:
        """Read events until the stream ends."""
        assert self._reader is not None
        while line := await self._reader.readline():
            if line.startswith(b"event: end"):
                return
            if line.startswith(b"data: "):
                written_at = datetime.fromisoformat(json.loads(line[6:])["at"]).timestamp()
                self.arrivals.append(time.time() - written_at)

    async def frames(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield the type and the data of each frame until the stream ends."""
        assert self._reader is not None
        frame_type = ""
        while line := await self._reader.readline():
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                frame_type = value
            elif name == "data":
                yield frame_type, json.loads(value)

    async def drain(self) -> None:
        """Read the stream until it ends, and keep nothing of it."""
        assert self._reader is not None
        while await self._reader.read(65_536):
            pass

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@contextmanager
def service(python: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the process id and the port of a service."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NOETL_", "PYTHON"))}
    command = [python, "-m", "uvicorn", "noetl.api.app:app", "--port", "0", "--no-access-log"]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            env=environ | {"NOETL_STORE": f"sqlite:///{folder / 'noetl.db'}", "NOETL_WORKERS": "2"},
            cwd=folder,
            stderr=log,
        )
        try:
            while not (match := re.search(r"running on http://[\d.]+:(\d+)", (folder / "log").read_text())):
                if process.poll() is not None:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.1)
            yield process.pid, int(match[1])
        finally:
            process.terminate()
            process.wait()


def cpu_seconds(process_id: int) -> float:
    """Return the CPU time that a process has used (Linux)."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(python: str, count: int, idle_seconds: float = IDLE_SECONDS) -> dict[str, Any]:
    """Measure `count` idle listeners, and the delay of the events of one run among them."""
    with tempfile.TemporaryDirectory() as name, service(python, Path(name)) as (process_id, port):
        return asyncio.run(_measure(process_id, port, count, idle_seconds))


async def _measure(process_id: int, port: int, count: int, idle_seconds: float) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=f"http://localhost:{port}", timeout=60) as http:

        async def start(playbook: str) -> str:
            response = await http.post(
                "/workflows/run", content=playbook, headers={"Content-Type": "application/yaml"}
            )
            return str(response.json()["links"]["events"])

        runs = [await start(PATIENT) for _ in range(-(-count // LISTENERS_PER_RUN))]
        await asyncio.sleep(SETTLE_SECONDS)
        alone = await _share(process_id, idle_seconds)
        listeners = [StreamListener(port, runs[number % len(runs)]) for number in range(count)]
        statuses = Counter([await listener.open() for listener in listeners])
        readers = [asyncio.create_task(listener.read()) for listener in listeners]
        await asyncio.sleep(SETTLE_SECONDS)
        idle = await _share(process_id, idle_seconds)
        # One of the open streams is closed, so that the limit of an earlier version leaves a place.
        listeners[0].close()
        await asyncio.sleep(SETTLE_SECONDS)
        active = StreamListener(port, await start(chain(STEPS)))
        status = await active.open()
        if status == 200:
            await active.read()
        for reader in readers:
            reader.cancel()
        for listener in (*listeners, active):
            listener.close()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*readers, return_exceptions=True)
        delays = sorted(active.arrivals) or [float("nan")]
        return {
            "listeners": count,
            "accepted": statuses[200],
            "core_percent_alone": alone,
            "core_percent_idle": idle,
            "delay_ms_median": median(delays) * 1000,
            "delay_ms_worst": delays[-1] * 1000,
        }


async def _share(process_id: int, seconds: float) -> float:
    """Return how much of a core a process uses, in percent."""
    before, started_at = cpu_seconds(process_id), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_seconds(process_id) - before) / (time.monotonic() - started_at) * 100


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--seconds", type=float, default=IDLE_SECONDS)
    arguments = parser.parse_args()
    for listeners in LISTENERS:
        for name, value in measure(arguments.python, listeners, arguments.seconds).items():
            print(f"{name:<24}{value:,.1f}" if isinstance(value, float) else f"{name:<24}{value:,}")
