"""Drafts of 200 steps of dense shapes: `python -m benchmarks.drafts [SHAPE ...]`.

Each draft is measured twice, as an editor requests it: with a new shape, and after a key that leaves the
shape as it is. `dot` and `Python` are the processor time of both programs for a new shape. `next key` is the
processor time after a key. These are times of the job of a draft in this process. `answer` is the time from
the request for a new shape to its response, from a service. Figures are medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

import httpx

from benchmarks import playbooks, report
from benchmarks.streams import service
from noetl.api.compute.draft_job import DraftJob
from noetl.api.service.compiler import PlaybookCompiler
from noetl.executor.actions import catalogue
from noetl.planner.gc_control import gc_paused

STEPS = 200
"""Steps of a dense shape. Their rules have several cases, so nothing is folded."""

OTHER_STEPS = 199
"""Steps of the other shapes. From 200 steps, they are folded."""

LABELLED = range(60, 64)
"""Numbers of steps of a dense shape whose guards have the seed."""

REPETITIONS = 9
LINE = 120

Targets = Callable[[int], Iterator[int]]
"""The steps to which a step of a number leads, next to the step after it."""


def dense(targets: Targets, seed: int) -> str:
    """Return a chain whose steps also have a guarded case to each of the further targets.

    Equal shapes of other seeds have labels of other widths.
    """
    lines = ["name: draft", "input: {n: integer}", "steps:"]
    for number in range(STEPS):
        further = [target for target in targets(number) if 0 <= target < STEPS and target != number + 1]
        cases = [
            f'{{case: "{{{{ x{number} == {seed if number in LABELLED else place} }}}}", run: [s{target}]}}'
            for place, target in enumerate(further)
        ]
        cases += [f"{{case: default, run: [s{number + 1}]}}"] if number + 1 < STEPS else []
        rule = f", rule: [{', '.join(cases)}]" if cases else ""
        visits = ", max_visits: 9" if min(further, default=STEPS) <= number else ""
        work = f'run: [{{action: set, set: {{x{number}: "{{{{ input.n + {number} }}}}"}}}}]'
        lines.append(f"- {{name: s{number}{visits}, {work}{rule}}}")
    return "\n".join([*lines, ""])


def _offsets(*distances: int) -> Targets:
    return lambda number: (number + distance for distance in distances)


def _random(count: int, farthest: int) -> Targets:
    def targets(number: int) -> Iterator[int]:
        chance = Random(number)
        yield from (number + chance.randint(2, farthest) for _ in range(count))

    return targets


DENSE: Mapping[str, Targets] = {
    "to step +7": _offsets(7),
    "to step +20": _offsets(20),
    "to step +50": _offsets(50),
    "to step +100": _offsets(100),
    "to steps +3, +9": _offsets(3, 9),
    "to steps +6, +100": _offsets(6, 100),
    "back to step -7": _offsets(-7),
    "back to step -50": _offsets(-50),
    "to the mirror": lambda number: iter([STEPS - 1 - number]),
    "to every 40th": lambda number: iter([number // 40 * 40 + 40]),
    "random, near": _random(1, 20),
    "random, far": _random(2, STEPS),
}
"""The shapes whose steps each have an arrow to another one than the next, by their names."""


def _with_seed(shape: Callable[[int], str], seed: int) -> str:
    # The label of a case has the seed, so that the layout is another one.
    return shape(OTHER_STEPS).replace("| length > 0", f"| length > {seed}", 1)


SHAPES: Mapping[str, Callable[[int], str]] = {
    **{name: partial(dense, targets) for name, targets in DENSE.items()},
    **{name: partial(_with_seed, shape) for name, shape in playbooks.SHAPES.items()},
}


def processor_seconds() -> tuple[float, float]:
    """Return the processor time of this process, and of all programs that it has started."""
    python, programs = (
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    return python, programs


def measure_job(text: str, compiler: PlaybookCompiler) -> tuple[float, float]:
    """Return the processor time of a draft, and that of dot."""
    with gc_paused():  # as in a compute process, which collects its garbage after its answer
        before = processor_seconds()
        DraftJob(text, LINE).perform(compiler)
        after = processor_seconds()
    return after[0] - before[0], after[1] - before[1]


def measure_answer(http: httpx.Client, text: str) -> float:
    """Return the time until the response to a draft."""
    began = time.perf_counter()
    response = http.post("/plan/draft", json={"text": text, "line": LINE})
    seconds = time.perf_counter() - began
    assert response.json()["drawing"] is not None, response.text[:2_000]
    return seconds


def measure(shape: str, compiler: PlaybookCompiler, http: httpx.Client, repetitions: int) -> report.Row:
    """Return the medians of the drafts of a shape."""
    new, keys, answers = [], [], []
    for repetition in range(repetitions):
        text = SHAPES[shape](10**repetition)
        new.append(measure_job(text, compiler))
        keys.append(sum(measure_job(text + "# a key\n", compiler)))
        answers.append(measure_answer(http, text))
    return {
        "shape": shape,
        "python": median(python for python, _ in new),
        "dot": median(dot for _, dot in new),
        "new": median(map(sum, new)),
        "key": median(keys),
        "answer": median(answers),
    }


COLUMNS: tuple[report.Column, ...] = (
    ("shape", lambda row: row["shape"]),
    ("Python", lambda row: f"{row['python'] * 1e3:,.0f} ms"),
    ("dot", lambda row: f"{row['dot'] * 1e3:,.0f} ms"),
    ("new shape", lambda row: f"{row['new'] * 1e3:,.0f} ms"),
    ("next key", lambda row: f"{row['key'] * 1e3:,.0f} ms"),
    ("answer", lambda row: f"{row['answer'] * 1e3:,.0f} ms"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drafts", description=__doc__)
    parser.add_argument("shapes", nargs="*", choices=[[], *SHAPES], metavar="SHAPE")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options = parser.parse_args()
    machine = ", ".join(f"{name} {value}" for name, value in report.machine().items())
    print(f"{machine}, load {os.getloadavg()[0]:.1f}\n")
    compiler = PlaybookCompiler(catalogue(), cache_bytes=0)
    measure_job(dense(_offsets(2), 1), compiler)
    with (
        tempfile.TemporaryDirectory() as folder,
        service(sys.executable, Path(folder)) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        measure_answer(http, dense(_offsets(2), 1))
        rows = [measure(shape, compiler, http, options.repetitions) for shape in options.shapes or SHAPES]
    print(report.table(f"Drafts of {STEPS} steps", COLUMNS, rows))


if __name__ == "__main__":
    main()
