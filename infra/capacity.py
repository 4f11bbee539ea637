"""Capacity planning: demand, cost and first limit of a rate of runs in an AWS account.

    python -m noetl.infra.capacity FILE --runs-per-second 50 [--step-seconds 0.05] [--memory 256]
                                   [--result-bytes 1024] [--maximum-concurrency 100]
                                   [--api-concurrency 100]

Problem: estimate the demand of a playbook at a rate of runs, without a load test.

Algorithm: a linear model. Each step, branch, fork and run needs a constant number of DynamoDB units,
measured by `python -m benchmarks.cost` in an emulator. Steps in progress follow from Little's law (Little
1961). Quotas and prices are the defaults that AWS publishes for us-east-1.

Cost: linear in the steps of the plan.

`--maximum-concurrency` and `--api-concurrency` are those of the stack (`template.yaml`).

Limits: it is an estimate. Each step counts as an invocation, but one invocation executes several short
steps of a chain. Each step counts as visited once, so cycles are not included.
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
"""Units of the start and the end of a run."""

STEP_WRITES, STEP_READS = 2.0, 2.0
"""Units of a step in a chain with a small result: its claim and its commit."""

BRANCH_WRITES, BRANCH_READS = 3.0, 3.0
"""Additional units of a step between a fork and its join, whose commit updates counters."""

FORK_WRITES, FORK_READS = 11.0, 4.0
"""Additional units of a fork and its join."""

PARTITION_WRITES, COUNTER_READS = 5.5, 2.0
"""Additional units of a wide fork, which spreads its run over partitions.

Writes: for a fork and its join, in each additional partition. Reads: for each counter in a scan of all
counters by a worker that empties one of them.
"""

RUN_INDEX_WRITES = 2.0
"""Units in each index: a run is added, and updated or removed when it ends."""

INVOCATION_SECONDS = 0.02
"""Time of a step in addition to its work: reads, commit and message."""

REQUEST_SECONDS = 0.05
"""Time of the request that starts a run, in the function of the API."""

ACCOUNT_CONCURRENCY = 1_000
"""Concurrent invocations of all functions of an account, unless it has a higher quota."""

BATCH_MESSAGES = 10
"""Messages in a batch of a queue that is never empty. Each leads to a step at the same time."""

MAX_CONCURRENCY = 1_000
"""The highest MaximumConcurrency of an event source of Lambda."""

UNIT_BYTES = 1024
MONTH_SECONDS = 30 * 24 * 3600.0

DOLLARS_PER_WRITE_UNIT, DOLLARS_PER_READ_UNIT = 0.625e-6, 0.125e-6
DOLLARS_PER_MESSAGE_REQUEST = 0.40e-6
REQUESTS_PER_MESSAGE = 1.0 + 2.0 / 10
"""A message is sent alone. Under load, ten messages are received and deleted in one request each."""

DOLLARS_PER_INVOCATION = 0.20e-6
DOLLARS_PER_GIGABYTE_SECOND = 0.0000133334
DOLLARS_PER_API_REQUEST = 1.0e-6


@dataclass(frozen=True, slots=True)
class RunShape:
    """Counts of a run: steps, steps between a fork and its join, forks, and branches of the widest fork."""

    steps: int
    branch_steps: int
    forks: int
    max_branches: int = 1

    @property
    def partitions(self) -> int:
        """Number of partitions of the table that hold the run."""
        return min(max(-(-self.max_branches // BRANCHES_PER_PARTITION), 1), MAX_PARTITIONS)


@dataclass(frozen=True, slots=True)
class Workload:
    """Runs of one shape at a constant rate, in a stack.

    A step works for `step_seconds` in a function with `memory` megabytes, and saves `result_bytes`.
    `max_concurrency` and `api_concurrency` are the parameters MaximumConcurrency and ApiConcurrency.
    """

    shape: RunShape
    runs_per_second: float
    step_seconds: float = 0.05
    memory: int = 256
    result_bytes: int = 256
    max_concurrency: int = 100
    api_concurrency: int = 100

    @property
    def steps_per_second(self) -> float:
        return self.runs_per_second * self.shape.steps


@dataclass(frozen=True, slots=True)
class Demand:
    """Demand of a workload: steps and requests in progress at the same time; all others for each second.

    `run_writes` are the write units of one run.
    """

    concurrent_steps: float
    concurrent_requests: float
    write_units: float
    read_units: float
    messages: float
    index_writes: float
    run_writes: float
    gigabyte_seconds: float


@dataclass(frozen=True, slots=True)
class CapacityLimit:
    """A limit of a resource, and the share of it that a workload uses.

    `remedy` says what to do before the limit is reached. The use of a limit for one run does not grow with
    the rate of runs.
    """

    name: str
    amount: float
    share: float
    remedy: str
    grows_with_rate: bool = True


def measure_shape(plan: Plan) -> RunShape:
    """Return the shape of a run that visits every step of the plan once."""
    widths = [max((len(case.targets) for case in step.cases), default=0) for step in plan.steps.values()]
    forks = sum(width > 1 for width in widths)
    branch_steps = sum(bool(step.regions) for step in plan.steps.values())
    return RunShape(len(plan.steps), branch_steps, forks, max(widths, default=1))


def compute_demand(load: Workload) -> Demand:
    """Return the demand of a workload."""
    shape = load.shape
    result_units = max(load.result_bytes - UNIT_BYTES // 4, 0) / UNIT_BYTES
    additional_partitions = shape.partitions - 1
    counter_reads = shape.forks * shape.partitions**2 * COUNTER_READS if additional_partitions else 0.0
    writes = shape.steps * (STEP_WRITES + result_units) + shape.branch_steps * BRANCH_WRITES
    writes += shape.forks * (FORK_WRITES + additional_partitions * PARTITION_WRITES)
    reads = shape.steps * (STEP_READS + result_units) + shape.branch_steps * BRANCH_READS
    reads += shape.forks * FORK_READS + counter_reads
    seconds = load.step_seconds + INVOCATION_SECONDS
    return Demand(
        concurrent_steps=load.steps_per_second * seconds,
        concurrent_requests=load.runs_per_second * REQUEST_SECONDS,
        write_units=load.runs_per_second * (RUN_WRITES + writes),
        read_units=load.runs_per_second * (RUN_READS + reads),
        messages=load.runs_per_second * (shape.steps + 1),
        index_writes=load.runs_per_second * RUN_INDEX_WRITES,
        run_writes=(STEP_WRITES + result_units) / seconds,
        gigabyte_seconds=load.steps_per_second * seconds * load.memory / 1024,
    )


def rank_limits(load: Workload) -> list[CapacityLimit]:
    """Return all limits, starting with the one that the workload uses most."""
    demand = compute_demand(load)
    raise_quota = "request a higher quota of"
    index_remedy = (
        "use fewer and longer runs, or several stacks: the runs of a tenant share eight partitions,"
        " and so do all open runs"
    )
    is_highest = load.max_concurrency >= MAX_CONCURRENCY
    queue_remedy = "deploy a second stack" if is_highest else "raise MaximumConcurrency"
    rows = (
        (
            "concurrent invocations that the API leaves of an account",
            max(ACCOUNT_CONCURRENCY - load.api_concurrency, 1),
            demand.concurrent_steps,
            f"{raise_quota} Lambda concurrency",
        ),
        (
            f"concurrent steps with MaximumConcurrency {load.max_concurrency:,}",
            BATCH_MESSAGES * load.max_concurrency,
            demand.concurrent_steps,
            queue_remedy,
        ),
        (
            f"concurrent requests with ApiConcurrency {load.api_concurrency:,}",
            load.api_concurrency or ACCOUNT_CONCURRENCY,
            demand.concurrent_requests,
            "raise ApiConcurrency" if load.api_concurrency else f"{raise_quota} Lambda concurrency",
        ),
        ("write units of the table", 40_000, demand.write_units, f"{raise_quota} the table"),
        ("read units of the table", 40_000, demand.read_units, f"{raise_quota} the table"),
        ("write units of the partitions of an index", SHARDS * 1_000, demand.index_writes, index_remedy),
        ("messages in flight", 120_000, demand.concurrent_steps, "deploy a second stack"),
        ("requests to the API", 10_000, load.runs_per_second, f"{raise_quota} API Gateway"),
    )
    limits = [CapacityLimit(name, amount, used / amount, remedy) for name, amount, used, remedy in rows]
    run_share = demand.run_writes / 1_000
    run_remedy = "use longer steps, or several runs"
    limits.append(
        CapacityLimit("write units of one run", 1_000, run_share, run_remedy, grows_with_rate=False)
    )
    return sorted(limits, key=lambda limit: -limit.share)


def estimate_cost(load: Workload) -> dict[str, float]:
    """Return dollars a second at list price, for each service."""
    demand = compute_demand(load)
    compute = demand.gigabyte_seconds * DOLLARS_PER_GIGABYTE_SECOND
    return {
        "DynamoDB": demand.write_units * DOLLARS_PER_WRITE_UNIT + demand.read_units * DOLLARS_PER_READ_UNIT,
        "SQS": demand.messages * REQUESTS_PER_MESSAGE * DOLLARS_PER_MESSAGE_REQUEST,
        "Lambda": load.steps_per_second * DOLLARS_PER_INVOCATION + compute,
        "API Gateway": load.runs_per_second * DOLLARS_PER_API_REQUEST,
    }


def render_report(load: Workload) -> str:
    """Return demand, cost and limits as text."""
    demand, dollars, limits = compute_demand(load), estimate_cost(load), rank_limits(load)
    total = sum(dollars.values())
    first = next(limit for limit in limits if limit.grows_with_rate)
    max_runs, max_steps = load.runs_per_second / first.share, load.steps_per_second / first.share
    total_per_month, per_million = total * MONTH_SECONDS, total / load.steps_per_second * 1e6
    runs, steps = f"{load.runs_per_second:,.6g}", f"{load.steps_per_second:,.6g}"
    lines = [
        f"{runs} runs a second of {load.shape.steps:,} steps: {steps} steps a second",
        "",
        f"  concurrent steps         {demand.concurrent_steps:>12,.1f}",
        f"  concurrent requests      {demand.concurrent_requests:>12,.1f}",
        f"  write units a second     {demand.write_units:>12,.0f}",
        f"  read units a second      {demand.read_units:>12,.0f}",
        f"  messages a second        {demand.messages:>12,.0f}",
        "",
        *(f"  {name:<24} {rate * MONTH_SECONDS:>12,.2f} dollars a month" for name, rate in dollars.items()),
        f"  {'total':<24} {total_per_month:>12,.2f} dollars a month, {per_million:,.2f} a million steps",
        "",
        *(f"  {limit.share:>8.1%} of {limit.amount:>9,.0f} {limit.name}" for limit in limits),
        "",
        f"The first limit is {first.name}, at {max_runs:,.0f} runs and {max_steps:,.0f} steps a second:",
        f"{first.remedy}.",
        *(
            f"One run exceeds the limit of {limit.name}: {limit.remedy}."
            for limit in limits
            if limit.share > 1 and not limit.grows_with_rate
        ),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Estimate what a rate of runs needs of an AWS account, and which limit it reaches first."
    )
    parser.add_argument("file", type=Path, help="a playbook")
    parser.add_argument("--runs-per-second", type=float, required=True)
    parser.add_argument("--step-seconds", type=float, default=0.05, help="how long a step works")
    parser.add_argument("--memory", type=int, default=256, help="megabytes of the function")
    parser.add_argument("--result-bytes", type=int, default=256, help="how much a step saves")
    parser.add_argument(
        "--maximum-concurrency", type=int, default=100, help="MaximumConcurrency of the stack"
    )
    parser.add_argument("--api-concurrency", type=int, default=100, help="ApiConcurrency of the stack")
    options = parser.parse_args(arguments)
    is_valid = (
        0 < options.runs_per_second < 1e9
        and 0 <= options.step_seconds <= 900
        and options.memory > 0 <= options.result_bytes
        and 2 <= options.maximum_concurrency <= MAX_CONCURRENCY
        and options.api_concurrency >= 0
    )
    if not is_valid:
        parser.error(
            "rates and sizes must be positive, a step takes at most 900 seconds, and MaximumConcurrency is"
            f" from 2 to {MAX_CONCURRENCY}"
        )
    load = Workload(
        _read_shape(options.file),
        options.runs_per_second,
        options.step_seconds,
        options.memory,
        options.result_bytes,
        options.maximum_concurrency,
        options.api_concurrency,
    )
    print(render_report(load))


def _read_shape(file: Path) -> RunShape:
    from noetl.executor.actions import catalogue
    from noetl.planner.compile import compile_playbook

    try:
        plan = compile_playbook(file.read_bytes(), catalogue()).plan
    except OSError as error:
        sys.exit(f"cannot read {file}: {error.strerror}")
    if plan is None:
        sys.exit(f"{file} has errors: run `noetl check {file}`")
    return measure_shape(plan)


if __name__ == "__main__":
    main()
