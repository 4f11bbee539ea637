"""The page in a real Chromium: `python -m benchmarks.page [first recolour filter scroll clients]`.

Measures on a service with SQLite, which is a process of its own:

- first: from the start of the navigation until the graph of a run of nearly 200 steps is painted, with an
  empty cache;
- recolour: the work of the main thread when the states of nearly 200 shown steps change at once, from the
  answer with them until their colours are final;
- filter: from the click on a status until the list of 50,000 runs shows only runs of it;
- scroll: the work of the main thread in a frame, while a timeline with 10,000 bars scrolls;
- clients: the time of a chain of steps, while 500 clients read as pages do, next to the same chain without
  them. `service` and `clients` are the shares of a processor that their processes use meanwhile.

The work of the main thread is the processor time of all its tasks in a trace of Chromium. It contains
scripts, styles, layout and paint, and no waiting. A frame is the time between two frames of the main thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, Route

from benchmarks import report
from benchmarks.lists import OPEN_RUNS, add_runs
from benchmarks.streams import cpu_seconds, service
from noetl.executor.stores import open_store
from noetl.executor.stores.sqlite.store import SqliteStore
from tests.ui.browser import running_browser

REPETITIONS = 5
SHOWN_STEPS = 197
"""Steps of a run whose graph shows all of them. From 200 steps, a graph is folded."""

SETTLE_MS = 1_500
"""How long a page rests after its first paint, in milliseconds."""

COLOURED_MS = 500
"""How long a page rests after new states, in milliseconds. It draws all frames of their colours meanwhile.

Nothing in the page waits for the last frame: this would be part of the work that is measured.
"""

BROKEN = """\
name: broken
input: {n: {type: integer, default: 0}}
steps:
- {name: a, run: [{action: set, set: {x: "{{ 1 / input.n }}"}}]}
"""
YAML = {"Content-Type": "application/yaml"}
FINAL = ("succeeded", "failed", "completed_with_errors")
TRACE = ["disabled-by-default-devtools.timeline"]
TASK = "RunTask"
FRAME = "Commit"

COLUMNS: Sequence[report.Column] = (
    ("what", lambda row: row["what"]),
    ("size", lambda row: row["size"]),
    ("median", lambda row: f"{row['median'] * 1e3:,.1f} ms"),
    ("worst", lambda row: f"{row['worst'] * 1e3:,.1f} ms"),
)
CLIENT_COLUMNS: Sequence[report.Column] = (
    ("clients", lambda row: f"{row['clients']:,}"),
    ("streams refused", lambda row: f"{row['refused']:,}"),
    ("answers", lambda row: f"{row['answers']:,}"),
    ("a step without", lambda row: f"{row['alone'] * 1e3:,.2f} ms"),
    ("a step with", lambda row: f"{row['watched'] * 1e3:,.2f} ms"),
    ("step rate", lambda row: f"{row['alone'] / row['watched']:.0%}"),
    ("service without", lambda row: f"{row['alone_share']:.0%}"),
    ("service with", lambda row: f"{row['watched_share']:.0%}"),
    ("clients", lambda row: f"{row['clients_share']:.0%}"),
)

_PAINTED = """
(selector) => new Promise((resolve) => {
  const look = () => document.querySelector(selector)
    ? requestAnimationFrame(() => setTimeout(() => resolve(performance.now())))
    : requestAnimationFrame(look);
  look();
})
"""
_COLOURED = """
([state, count]) => document.getAnimations().length === 0
  && document.querySelectorAll(`.graph .node.${state}`).length === count
"""
_FILTER = """
() => new Promise((resolve) => {
  const buttons = [...document.querySelectorAll('.chips button')];
  const button = buttons.find((one) => one.textContent.includes('Failed'));
  const began = performance.now();
  button.click();
  const look = () => {
    const rows = [...document.querySelectorAll('.rows .row')];
    const isDone = rows.length > 0 && rows.every((row) => row.textContent.includes('Failed'));
    isDone ? setTimeout(() => resolve(performance.now() - began)) : requestAnimationFrame(look);
  };
  look();
})
"""


@dataclass(frozen=True)
class Place:
    """A running service and a browser."""

    browser: Browser
    http: httpx.Client
    port: int
    process_id: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, playbook: str) -> dict[str, Any]:
        """Run a playbook to its end, and return the state of the run."""
        answer = self.http.post("/workflows/run", content=playbook, headers=YAML)
        answer.raise_for_status()
        address = f"/workflows/status/{answer.json()['workflow_id']}"
        while True:
            state: dict[str, Any] = self.http.get(address, headers={"Prefer": "wait=10"}).json()
            if state["status"] in FINAL:
                return state
            time.sleep(0.05)


@contextmanager
def open_page(place: Place, path: str) -> Iterator[Page]:
    """Yield a page of a new context of the browser, whose cache is empty."""
    context = place.browser.new_context(viewport={"width": 1400, "height": 880})
    try:
        page = context.new_page()
        page.goto(f"{place.url}{path}", wait_until="commit")
        yield page
    finally:
        context.close()


def layers(steps: int) -> str:
    """Return a playbook of a fork into four chains, which has a multiple of four steps and one more."""
    lines = ["name: layers", "steps:"]
    for number in range(0, steps - 1, 4):
        names = [f"s{number + place}" for place in range(4)]
        following = [f"s{number + 4 + place}" for place in range(4)] if number + 4 < steps - 1 else []
        for place, name in enumerate(names):
            rule = f", rule: [{{case: default, run: [{following[place]}]}}]" if following else ""
            lines.append(f"- {{name: {name}, run: [{{action: log, message: x}}]{rule}}}")
    first = ", ".join(f"s{place}" for place in range(4))
    start = (
        f"- {{name: start, run: [{{action: log, message: x}}], rule: [{{case: default, run: [{first}]}}]}}"
    )
    return "\n".join([*lines[:2], start, *lines[2:]]) + "\n"


def chain(steps: int) -> str:
    lines = ["name: chain", "steps:"]
    for number in range(steps):
        rule = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f"- {{name: s{number}, run: [{{action: set, set: {{n: {number}}}}}]{rule}}}")
    return "\n".join(lines) + "\n"


def cycle(steps: int, rounds: int) -> str:
    """Return a playbook whose steps are visited `rounds` times each, one after the other."""
    lines = [
        "name: cycle",
        "steps:",
        "- {name: start, run: [{action: set, set: {n: 0}}], rule: [{case: default, run: [s0]}]}",
    ]
    for number in range(steps):
        work = "run: [{action: set, set: {n: '{{ n + 1 }}'}}], " if number == 0 else ""
        case, target = ("default", f"s{number + 1}")
        if number + 1 == steps:
            case, target = (f"'{{{{ n < {rounds} }}}}'", "s0")
        rule = f"rule: [{{case: {case}, run: [{target}]}}]"
        lines.append(f"- {{name: s{number}, max_visits: {rounds}, {work}{rule}}}")
    return "\n".join(lines) + "\n"


def measure_first(place: Place, steps: int, repetitions: int) -> list[report.Row]:
    """Return the time until the graph of a run is painted."""
    run_id = place.run(layers(steps))["workflow_id"]
    times = []
    for _ in range(repetitions):
        with open_page(place, f"/ui/runs/{run_id}") as page:
            times.append(page.evaluate(_PAINTED, ".graph .node") / 1e3)
    return [make_row("first paint of a run", f"{steps} steps", times)]


def measure_recolour(place: Place, steps: int, repetitions: int) -> list[report.Row]:
    """Return the work of the main thread in all frames until the new colours of all steps are final."""
    run_id = place.run(layers(steps))["workflow_id"]
    address = re.compile(rf"/workflows/{run_id}\?include=graph")
    times = []
    with open_page(place, f"/ui/runs/{run_id}?view=graph") as page:
        page.evaluate(_PAINTED, ".graph .node")
        page.wait_for_timeout(SETTLE_MS)
        states = {"now": ""}
        page.route(address, answer_in_state(states))
        for number in range(repetitions):
            states["now"] = "failed" if number % 2 == 0 else "succeeded"
            place.browser.start_tracing(page=page, categories=TRACE)
            with page.expect_response(address):
                page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            page.wait_for_timeout(COLOURED_MS)
            while not page.evaluate(_COLOURED, [states["now"], steps]):
                page.wait_for_timeout(COLOURED_MS)
            times.append(sum(task_seconds(read_trace(place.browser))))
    return [make_row("recolouring, main thread", f"{steps} steps", times)]


def answer_in_state(states: Mapping[str, str]) -> Callable[[Route], None]:
    """Return a handler that answers each request for a run as if all steps had the state that is `now`."""

    def answer(route: Route) -> None:
        response = route.fetch()
        run = response.json()
        for node in run["graph"]["nodes"]:
            node["state"] = states["now"]
        route.fulfill(response=response, json=run)

    return answer


def measure_filter(place: Place, runs: int, repetitions: int) -> list[report.Row]:
    """Return the time from the click on a status until the list shows the runs of it."""
    place.run(BROKEN)
    times = []
    for _ in range(repetitions):
        with open_page(place, "/ui/runs?since=all") as page:
            page.wait_for_selector(".rows .row")
            page.wait_for_timeout(SETTLE_MS)
            times.append(page.evaluate(_FILTER) / 1e3)
    return [make_row("a filter over the list", f"{runs:,} runs", times)]


def measure_scroll(place: Place, steps: int, rounds: int, frames: int) -> list[report.Row]:
    """Return the work of the main thread in each frame while a timeline scrolls."""
    state = place.run(cycle(steps, rounds))
    with open_page(place, f"/ui/runs/{state['workflow_id']}?view=timeline") as page:
        page.wait_for_selector(".timeline [role=row]")
        page.wait_for_timeout(SETTLE_MS)
        box = page.locator(".timeline .scroller").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        place.browser.start_tracing(page=page, categories=TRACE)
        for number in range(frames):
            page.mouse.wheel(0, 120 if number % 40 < 20 else -120)
            page.evaluate("new Promise(requestAnimationFrame)")
        trace = read_trace(place.browser)
    return [make_row("a frame of a scrolled timeline", f"{steps * rounds:,} bars", frame_seconds(trace))]


def measure_clients(place: Place, clients: int, steps: int, repetitions: int) -> list[report.Row]:
    """Return the time of a step of a chain with and without many clients and two pages, by turns."""
    alone, watched, counts = [], [], Counter[str]()
    shares = []
    place.run(chain(steps))
    for _ in range(repetitions):
        alone.append(measure_chain(place, steps))
        with reading_clients(place, clients) as counted, two_pages(place):
            watched.append(measure_chain(place, steps))
        shares.append(counted.pop("share"))
        counts.update({name: int(value) for name, value in counted.items()})
    return [
        {
            "clients": clients,
            "alone": median(seconds for seconds, _ in alone),
            "watched": median(seconds for seconds, _ in watched),
            "alone_share": median(share for _, share in alone),
            "watched_share": median(share for _, share in watched),
            "clients_share": median(shares),
            **counts,
        }
    ]


@contextmanager
def two_pages(place: Place) -> Iterator[None]:
    """Show the list of runs and the newest run in two pages during a block."""
    run_id = place.http.get("/workflows", params={"limit": 1}).json()["items"][0]["workflow_id"]
    with open_page(place, "/ui/runs") as first, open_page(place, f"/ui/runs/{run_id}") as second:
        first.wait_for_selector(".rows .row")
        second.wait_for_selector(".graph .node")
        second.wait_for_timeout(SETTLE_MS)
        yield


def measure_chain(place: Place, steps: int) -> tuple[float, float]:
    """Return the time of a step of a chain, and the share of a processor that the service uses meanwhile."""
    began, work = time.monotonic(), cpu_seconds(place.process_id)
    seconds = step_seconds(place.run(chain(steps)), steps)
    return seconds, (cpu_seconds(place.process_id) - work) / (time.monotonic() - began)


@contextmanager
def reading_clients(place: Place, clients: int) -> Iterator[dict[str, float]]:
    """Run clients in a process of their own. The yielded counts are filled at the end."""
    command = [sys.executable, "-m", "benchmarks.page_clients", str(place.port), str(clients)]
    counts: dict[str, float] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("The clients did not start.")
        try:
            yield counts
        finally:
            counts |= json.loads(process.communicate("stop\n")[0])


def step_seconds(state: Mapping[str, Any], steps: int) -> float:
    """Return the mean time of a step of a run that has ended."""
    began, ended = (datetime.fromisoformat(state[name]) for name in ("started_at", "finished_at"))
    return (ended - began).total_seconds() / steps


def read_trace(browser: Browser) -> list[dict[str, Any]]:
    """End the trace, and return the events of the main thread of the page, in the order of time."""
    events = json.loads(browser.stop_tracing())["traceEvents"]
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    # A browser has further renderers, for example of its own tabs. That of the page has most to do.
    threads = [(event["pid"], event["tid"]) for event in events if event["name"] == TASK]
    thread = max(mains, key=threads.count)
    return sorted(
        (event for event in events if (event["pid"], event["tid"]) == thread and "ts" in event),
        key=lambda event: float(event["ts"]),
    )


def task_seconds(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the processor time of each task of a thread."""
    return [event["tdur"] / 1e6 for event in events if event["name"] == TASK and "tdur" in event]


def frame_seconds(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the work of a thread in each frame."""
    begins = [event["ts"] for event in events if event["name"] == FRAME]
    return [
        sum(task_seconds([event for event in events if begin <= event["ts"] < end]))
        for begin, end in pairwise(begins)
    ]


def make_row(title: str, size: str, times: Sequence[float]) -> report.Row:
    return {"what": title, "size": size, "median": median(times), "worst": max(times)}


@contextmanager
def running_place(browser: Browser, runs: int) -> Iterator[Place]:
    """Yield a service whose store has a number of runs, with a browser."""
    with tempfile.TemporaryDirectory() as name:
        store = open_store(f"sqlite:///{Path(name) / 'noetl.db'}")
        assert isinstance(store, SqliteStore)
        add_runs(store, range(OPEN_RUNS, OPEN_RUNS + runs))
        store.close()
        with (
            service(sys.executable, Path(name)) as (process_id, port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
        ):
            yield Place(browser, http, port, process_id)


MEASUREMENTS: Mapping[str, tuple[int, Sequence[report.Column], Callable[[Place], list[report.Row]]]] = {
    "first": (0, COLUMNS, lambda place: measure_first(place, SHOWN_STEPS, REPETITIONS)),
    "recolour": (0, COLUMNS, lambda place: measure_recolour(place, SHOWN_STEPS, 2 * REPETITIONS)),
    "filter": (50_000, COLUMNS, lambda place: measure_filter(place, 50_000, REPETITIONS)),
    "scroll": (0, COLUMNS, lambda place: measure_scroll(place, 100, 100, 120)),
    "clients": (0, CLIENT_COLUMNS, lambda place: measure_clients(place, 500, 1_000, 3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[[], *MEASUREMENTS])
    machine = ", ".join(f"{name} {value}" for name, value in report.machine().items())
    print(f"{machine}, load {os.getloadavg()[0]:.1f}\n")
    with running_browser() as browser:
        for name in parser.parse_args().what or MEASUREMENTS:
            runs, columns, measure = MEASUREMENTS[name]
            with running_place(browser, runs) as place:
                print(report.table(name, columns, measure(place)), flush=True)


if __name__ == "__main__":
    main()
