"""What a rate of runs takes of an AWS account: invocations at once, units of DynamoDB, messages, dollars; and which limit comes
first.

    python -m noetl.infra.capacity FILE --runs-per-second 50 [--step-seconds 0.05] [--memory 256] [--result-bytes 1024]

The units of a run are what `python -m benchmarks.cost` and runs in an emulator have counted, and quotas and prices those that
AWS publishes as defaults (us-east-1): an estimate to plan with. A step counts as an invocation of its own; where steps are
short, an invocation walks several of a chain, and it takes less.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION, MAX_PARTITIONS, SHARDS
from noetl.planner.plan import Plan

RUN_WRITES, RUN_READS = 16.0, 9.0
"""Units for the beginning and the end of a run."""

STEP_WRITES, STEP_READS = 2.0, 2.0
"""Units for a step of a chain that saves little: its claim and its commit, and what both read."""

BRANCH_WRITES, BRANCH_READS = 3.0, 3.0
FORK_WRITES, FORK_READS = 11.0, 4.0
"""Units besides: for a step between a fork and its join, whose commit counts; for a fork and the join behind it."""

SPREAD_WRITES, LOOK_READS = 5.5, 2.0
"""Units besides, where a fork is so wide that its run is spread over partitions: for a fork and its join, in each of the others;
and for each counter that a look at all of them reads, as whoever empties one does.
"""

RUN_INDEX_WRITES = 2.0
"""Units in each index: a run is put there, and changed or taken out when it ends."""

INVOCATION_SECONDS = 0.02
"""What a step takes besides its work: its reads, its commit and its message."""

UNIT_BYTES = 1024
MONTH_SECONDS = 30 * 24 * 3600.0

WRITE_UNIT, READ_UNIT = 0.625e-6, 0.125e-6
MESSAGE_REQUEST = 0.40e-6
MESSAGE_REQUESTS = 1.0 + 2.0 / 10
"""Requests for a message: it is sent by itself, and received and deleted with others, ten at a time under load."""

INVOCATION = 0.20e-6
GIGABYTE_SECOND = 0.0000133334
API_REQUEST = 1.0e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """How much there is to do in a run: steps in all, those between a fork and its join, and forks; and how many branches the
    widest one has.
    """

    steps: int
    branch_steps: int
    forks: int
    widest: int = 1

    @property
    def partitions(self) -> int:
        """Over how many partitions of the table a run is spread."""
        return min(max(-(-self.widest // BRANCHES_PER_PARTITION), 1), MAX_PARTITIONS)


@dataclass(frozen=True, slots=True)
class Load:
    """Runs of a shape, so many a second; a step works for `step_seconds` in a function of `memory` megabytes and saves
    `result_bytes`.
    """

    shape: Shape
    runs_per_second: float
    step_seconds: float = 0.05
    memory: int = 256
    result_bytes: int = 256

    @property
    def steps_per_second(self) -> float:
        return self.runs_per_second * self.shape.steps


@dataclass(frozen=True, slots=True)
class Needs:
    """What a load takes: steps at work at once, and what is asked of each service in a second."""

    at_once: float
    write_units: float
    read_units: float
    messages: float
    index_writes: float
    run_writes: float
    gigabyte_seconds: float


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that there is only so much of. `share` of it is taken; `cure` says what to do before all is. What one run takes
    for itself does not grow with how many there are.
    """

    name: str
    most: float
    share: float
    cure: str
    grows: bool = True


def shape_of(plan: Plan) -> Shape:
    """What a run of the plan does that visits every step once: more than most do, and less than one with cycles."""
    widths = [max((len(case.targets) for case in step.cases), default=0) for step in plan.steps.values()]
    forks = sum(width > 1 for width in widths)
    return Shape(
        len(plan.steps),
        sum(bool(step.regions) for step in plan.steps.values()),
        forks,
        max(widths, default=1),
    )


def needs_of(load: Load) -> Needs:
    """What the load takes."""
    shape = load.shape
    saved_units = max(load.result_bytes - UNIT_BYTES // 4, 0) / UNIT_BYTES
    others = shape.partitions - 1
    looks = shape.forks * shape.partitions**2 * LOOK_READS if others else 0.0
    writes = shape.steps * (STEP_WRITES + saved_units) + shape.branch_steps * BRANCH_WRITES
    writes += shape.forks * (FORK_WRITES + others * SPREAD_WRITES)
    reads = shape.steps * (STEP_READS + saved_units) + shape.branch_steps * BRANCH_READS
    reads += shape.forks * FORK_READS + looks
    seconds = load.step_seconds + INVOCATION_SECONDS
    return Needs(
        at_once=load.steps_per_second * seconds,
        write_units=load.runs_per_second * (RUN_WRITES + writes),
        read_units=load.runs_per_second * (RUN_READS + reads),
        messages=load.runs_per_second * (shape.steps + 1),
        index_writes=load.runs_per_second * RUN_INDEX_WRITES,
        run_writes=(STEP_WRITES + saved_units) / seconds,
        gigabyte_seconds=load.steps_per_second * seconds * load.memory / 1024,
    )


def limits_of(load: Load) -> list[Limit]:
    """The limits that the load comes up against, the one that is nearest first."""
    needs = needs_of(load)
    more = "ask for a higher quota of"
    indexes = "longer runs instead of more, or several stacks: the runs of a tenant share eight partitions, and so do all open ones"
    rows = (
        ("invocations at once in an account", 1_000, needs.at_once, f"{more} Lambda concurrency"),
        (
            "steps at once for one queue",
            10_000,
            needs.at_once,
            "set MaximumConcurrency to 1000, then deploy a second stack",
        ),
        ("write units of the table", 40_000, needs.write_units, f"{more} the table"),
        ("read units of the table", 40_000, needs.read_units, f"{more} the table"),
        ("write units of the partitions of an index", SHARDS * 1_000, needs.index_writes, indexes),
        ("messages that are at work", 120_000, needs.at_once, "deploy a second stack"),
        ("requests to the API", 10_000, load.runs_per_second, f"{more} API Gateway"),
    )
    found = [Limit(name, most, taken / most, cure) for name, most, taken, cure in rows]
    of_one = "longer steps, or several runs"
    found.append(Limit("write units of one run", 1_000, needs.run_writes / 1_000, of_one, grows=False))
    return sorted(found, key=lambda limit: -limit.share)


def dollars_of(load: Load) -> dict[str, float]:
    """Dollars a second at list price, for each service."""
    needs = needs_of(load)
    return {
        "DynamoDB": needs.write_units * WRITE_UNIT + needs.read_units * READ_UNIT,
        "SQS": needs.messages * MESSAGE_REQUESTS * MESSAGE_REQUEST,
        "Lambda": load.steps_per_second * INVOCATION + needs.gigabyte_seconds * GIGABYTE_SECOND,
        "API Gateway": load.runs_per_second * API_REQUEST,
    }


def report(load: Load) -> str:
    """All of it as text."""
    needs, dollars, limits = needs_of(load), dollars_of(load), limits_of(load)
    total = sum(dollars.values())
    first = next(limit for limit in limits if limit.grows)
    rates = (load.runs_per_second / first.share, load.steps_per_second / first.share)
    lines = [
        f"{load.runs_per_second:,.6g} runs a second of {load.shape.steps:,} steps: {load.steps_per_second:,.6g} steps a second",
        "",
        f"  steps at work at once    {needs.at_once:>12,.1f}",
        f"  write units a second     {needs.write_units:>12,.0f}",
        f"  read units a second      {needs.read_units:>12,.0f}",
        f"  messages a second        {needs.messages:>12,.0f}",
        "",
        *(
            f"  {name:<24} {amount * MONTH_SECONDS:>12,.2f} dollars a month"
            for name, amount in dollars.items()
        ),
        f"  {'in all':<24} {total * MONTH_SECONDS:>12,.2f} dollars a month, {total / load.steps_per_second * 1e6:,.2f} a million steps",
        "",
        *(f"  {limit.share:>8.1%} of {limit.most:>9,.0f} {limit.name}" for limit in limits),
        "",
        f"The first limit is that of {first.name}, at {rates[0]:,.0f} runs and {rates[1]:,.0f} steps a second:",
        f"{first.cure}.",
        *(
            f"A run by itself comes up against {limit.name}: {limit.cure}."
            for limit in limits
            if limit.share > 1 > limit.grows
        ),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="What a rate of runs takes of an AWS account, and which limit comes first."
    )
    parser.add_argument("file", type=Path, help="a playbook")
    parser.add_argument("--runs-per-second", type=float, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.05, help="how long a step works")
    parser.add_argument("--memory", type=int, default=256, help="megabytes of the function")
    parser.add_argument("--result-bytes", type=int, default=256, help="how much a step saves")
    given = parser.parse_args(arguments)
    if not (
        0 < given.runs_per_second < 1e9
        and 0 <= given.step_seconds <= 900
        and given.memory > 0 <= given.result_bytes
    ):
        parser.error("rates and sizes are positive, and a step takes at most 900 seconds")
    print(
        report(
            Load(
                _shape(given.file),
                given.runs_per_second,
                given.step_seconds,
                given.memory,
                given.result_bytes,
            )
        )
    )


def _shape(file: Path) -> Shape:
    from noetl.executor.actions import catalogue
    from noetl.planner.compile import compile_playbook

    try:
        plan = compile_playbook(file.read_bytes(), catalogue()).plan
    except OSError as error:
        sys.exit(f"cannot read {file}: {error.strerror}")
    if plan is None:
        sys.exit(f"{file} has errors: `noetl check` says which")
    return shape_of(plan)


if __name__ == "__main__":
    main()
