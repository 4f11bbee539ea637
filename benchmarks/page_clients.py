"""Clients that read as the page does: `python -m benchmarks.page_clients PORT CLIENTS`.

Half of them show the list of runs, the others one of the runs that wait. Each has one event stream, and reads
what the page reads when it is opened. They poll as pages do that were opened some minutes ago: the open
questions each minute, and the counts after a run of the list has another status. The command prints `ready`
once all streams are open. It ends after a line on its input. Then it prints its counts and its share of a
processor as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from random import random

from benchmarks.streams import PATIENT, StreamListener

RUNS = 25
POLL_SECONDS = 15.0
MAX_POLL_SECONDS = 60.0
POLL_GROWTH = 1.5
LIST_READS = ("/workflows?limit=200",)
COUNT_READS = ("/workflows/counts", "/workflows/histogram?step=15m")
INBOX = "/inbox?order=expires"


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
        self._reads = (f"{run}?include=graph", f"{run}/source") if run_id else (*LIST_READS, *COUNT_READS)
        self._stream = StreamListener(port, f"{run}/events" if run_id else "/events?limit=200")
        self._has_list = not run_id
        self._statuses: dict[str, str] = {}
        self._changes = 0
        self._inbox = b""

    async def open(self) -> None:
        """Read what the page reads first, and open the stream."""
        for path in self._reads:
            await self._read(path)
        self._inbox = await self._read(INBOX)
        self._counts["refused"] += await self._stream.open() != 200

    async def follow(self, first_poll: float) -> None:
        """Read the stream, and poll from `first_poll` on, in seconds."""
        tasks = [asyncio.create_task(self._poll_inbox(first_poll))]
        if self._has_list:
            tasks.append(asyncio.create_task(self._read_list()))
            tasks.append(asyncio.create_task(self._poll_counts(first_poll)))
        else:
            tasks.append(asyncio.create_task(self._stream.drain()))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._stream.close()

    async def _read_list(self) -> None:
        async for frame_type, data in self._stream.frames():
            if frame_type == "run" and self._statuses.get(data["workflow_id"]) != data["status"]:
                self._statuses[data["workflow_id"]] = data["status"]
                self._changes += 1
            self._changes += frame_type == "gone"
            if frame_type == "ready":
                self._changes = 0

    async def _poll_counts(self, first_poll: float) -> None:
        """Read the counts within POLL_SECONDS after a change of the list, else every MAX_POLL_SECONDS."""
        clock = asyncio.get_running_loop().time
        changes, read_at, due = 0, clock(), clock() + first_poll
        while True:
            await asyncio.sleep(1)
            if changes != self._changes:
                changes = self._changes
                due = min(due, max(read_at + POLL_SECONDS, clock() + random() * POLL_SECONDS))
            if clock() >= due:
                for path in COUNT_READS:
                    await self._read(path)
                read_at, due = clock(), clock() + MAX_POLL_SECONDS

    async def _poll_inbox(self, first_poll: float) -> None:
        """Read the open questions, which are the same for some minutes already."""
        pause, last = MAX_POLL_SECONDS, self._inbox
        await asyncio.sleep(first_poll)
        while True:
            answer = await self._read(INBOX)
            pause = min(pause * POLL_GROWTH, MAX_POLL_SECONDS) if answer == last else POLL_SECONDS
            last = answer
            await asyncio.sleep(pause)

    async def _read(self, path: str) -> bytes:
        answer = await request(self._port, path)
        self._counts["answers"] += 1
        return answer


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
        asyncio.create_task(client.follow(number / len(clients) * MAX_POLL_SECONDS))
        for number, client in enumerate(clients)
    ]
    counts["answers"] = 0
    began, work = time.monotonic(), time.process_time()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    share = (time.process_time() - work) / (time.monotonic() - began)
    for task in following:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*following)
    print(json.dumps({**counts, "share": share}))


if __name__ == "__main__":
    asyncio.run(main())
