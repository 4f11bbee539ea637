"""Clients that read as the page does: `python -m benchmarks.page_clients PORT CLIENTS`.

Half of them show the list of runs, the others one of the runs that wait. Each has one event stream, reads
what the page reads when it is opened, and polls as often. The command prints `ready` once all streams are
open. It ends after a line on its input, and then prints its counts as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from contextlib import suppress

from benchmarks.streams import PATIENT, StreamListener

RUNS = 25
POLL_SECONDS = 15.0
LIST_READS = ("/workflows?limit=200",)
LIST_POLLS = ("/workflows/counts", "/workflows/histogram?step=15m", "/inbox?order=expires")
RUN_POLLS = ("/inbox?order=expires",)


async def request(port: int, path: str, body: str = "") -> bytes:
    """Send a request on a connection of its own, and return the body of the answer.

    Raises:
        RuntimeError: the answer is no success.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    method, type = ("POST", "Content-Type: application/yaml\r\n") if body else ("GET", "")
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{type}"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    answer = await reader.read()
    writer.close()
    top, _, content = answer.partition(b"\r\n\r\n")
    if top.split()[1][:1] != b"2":
        raise RuntimeError(answer.decode())
    return content


class PageClient:
    """A client that reads as one page in a browser."""

    def __init__(self, port: int, run_id: str, counts: Counter[str]) -> None:
        run = f"/workflows/{run_id}"
        self._port = port
        self._counts = counts
        self._reads = (f"{run}?include=graph", f"{run}/source") if run_id else LIST_READS
        self._polls = RUN_POLLS if run_id else LIST_POLLS
        self._stream = StreamListener(port, f"{run}/events" if run_id else "/events?limit=200")

    async def open(self) -> None:
        """Read what the page reads first, and open the stream."""
        await self._read(*self._reads, *self._polls)
        self._counts["refused"] += await self._stream.open() != 200

    async def follow(self, first_poll: float) -> None:
        """Read the stream, and poll from `first_poll` on, in seconds."""
        stream = asyncio.create_task(self._stream.drain())
        try:
            await asyncio.sleep(first_poll)
            while True:
                await self._read(*self._polls)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            stream.cancel()
            self._stream.close()

    async def _read(self, *paths: str) -> None:
        for path in paths:
            await request(self._port, path)
            self._counts["answers"] += 1


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    arguments = parser.parse_args()
    answers = [await request(arguments.port, "/workflows/run", PATIENT) for _ in range(RUNS)]
    run_ids = [json.loads(answer)["workflow_id"] for answer in answers]
    counts: Counter[str] = Counter(refused=0, answers=0)
    clients = [
        PageClient(arguments.port, run_ids[number % RUNS] if number % 2 else "", counts)
        for number in range(arguments.clients)
    ]
    for client in clients:
        await client.open()
    following = [
        asyncio.create_task(client.follow(number / len(clients) * POLL_SECONDS))
        for number, client in enumerate(clients)
    ]
    counts["answers"] = 0
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for task in following:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*following)
    print(json.dumps(counts))


if __name__ == "__main__":
    asyncio.run(main())
