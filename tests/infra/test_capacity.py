"""Capacity planning agrees with measured runs, and scales with the rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.playbooks import fan_out
from noetl.executor.actions import catalogue
from noetl.infra.capacity import (
    RunShape,
    Workload,
    compute_demand,
    estimate_cost,
    main,
    measure_shape,
    rank_limits,
)
from noetl.planner.compile import compile_playbook

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = str(ROOT / "examples" / "portable.yaml")
CHAIN = RunShape(10, 0, 0)
INVOCATIONS = "concurrent invocations that the API leaves of an account"


def test_the_units_of_a_chain_are_those_measured() -> None:
    # Measured in the emulator: runs of 1, 11 and 31 steps needed 18, 38 and 78 write units.
    # They needed 11, 31 and 71 read units.
    for steps, writes, reads in ((1, 18, 11), (11, 38, 31), (31, 78, 71)):
        demand = compute_demand(Workload(RunShape(steps, 0, 0), 1.0))
        assert (demand.write_units, demand.read_units, demand.messages) == (writes, reads, steps + 1)


@pytest.mark.parametrize(("branches", "writes", "reads"), [(4, 51, 37), (16, 111, 97)])
def test_the_units_of_a_fork_are_those_measured(branches: int, writes: int, reads: int) -> None:
    demand = compute_demand(Workload(RunShape(branches + 2, branches, 1), 1.0))
    assert (demand.write_units, demand.read_units) == (writes, reads)


@pytest.mark.parametrize(("branches", "writes", "reads"), [(100, 565, 663), (1_000, 5_380, 14_400)])
def test_the_units_of_a_wide_fork_are_close_to_those_measured(
    branches: int, writes: float, reads: float
) -> None:
    plan = compile_playbook(fan_out(branches), catalogue()).plan
    assert plan is not None
    demand = compute_demand(Workload(measure_shape(plan), 1.0))
    assert demand.write_units == pytest.approx(writes, rel=0.02)
    # The number of scans of all counters depends on how many of them become empty at the same time.
    assert demand.read_units == pytest.approx(reads, rel=0.15)


def test_the_shape_of_a_plan_counts_steps_branch_steps_forks_and_branches() -> None:
    text = """
        name: x
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [{action: set, set: {z: 1}}]}
    """
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    assert measure_shape(plan) == RunShape(4, 2, 1, 2)


@pytest.mark.parametrize("factor", [10, 1_000])
def test_demand_and_cost_are_proportional_to_the_rate(factor: int) -> None:
    small, large = (Workload(CHAIN, rate) for rate in (1.0, float(factor)))
    assert sum(estimate_cost(large).values()) == pytest.approx(factor * sum(estimate_cost(small).values()))
    for before, after in zip(sorted(demand_values(small)), sorted(demand_values(large)), strict=True):
        assert after == pytest.approx(before) or after == pytest.approx(factor * before)


def demand_values(load: Workload) -> list[float]:
    """Return the parts of the demand that depend on the rate."""
    demand = compute_demand(load)
    return [
        demand.concurrent_steps,
        demand.write_units,
        demand.read_units,
        demand.messages,
        demand.index_writes,
    ]


@pytest.mark.parametrize(
    ("load", "first"),
    [
        (Workload(CHAIN, 400.0, step_seconds=0.0), "write units of the table"),
        (Workload(RunShape(1_000, 0, 0), 10.0, step_seconds=5.0), INVOCATIONS),
        (
            Workload(CHAIN, 3.0, step_seconds=5.0, max_concurrency=10),
            "concurrent steps with MaximumConcurrency 10",
        ),
        (Workload(CHAIN, 200.0, api_concurrency=2), "concurrent requests with ApiConcurrency 2"),
        (
            Workload(RunShape(10_000, 0, 0), 10.0, step_seconds=0.0, result_bytes=10_000),
            "write units of the table",
        ),
        (
            Workload(RunShape(100_000, 0, 0), 0.001, step_seconds=0.0, result_bytes=100_000),
            "write units of one run",
        ),
    ],
)
def test_limits_are_ranked_by_the_share_that_is_used(load: Workload, first: str) -> None:
    limits = rank_limits(load)
    assert limits[0].name == first
    assert [limit.share for limit in limits] == sorted((limit.share for limit in limits), reverse=True)
    assert all(limit.remedy and limit.amount > 0 for limit in limits)


def test_the_remedy_depends_on_the_parameters_of_the_stack() -> None:
    def find_remedies(**stack: int) -> list[str]:
        limits = rank_limits(Workload(CHAIN, 1.0, **stack))
        return sorted(limit.remedy for limit in limits if "oncurrency" in limit.name)

    assert find_remedies() == ["raise ApiConcurrency", "raise MaximumConcurrency"]
    highest = find_remedies(max_concurrency=1_000, api_concurrency=0)
    assert highest == ["deploy a second stack", "request a higher quota of Lambda concurrency"]


def test_runs_are_spread_over_the_partitions_of_an_index() -> None:
    [limit] = [limit for limit in rank_limits(Workload(CHAIN, 2_000.0)) if "index" in limit.name]
    assert (limit.amount, limit.share) == (8_000, 0.5)


def test_the_report_of_a_hundred_thousand_steps_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    main([PLAYBOOK, "--runs-per-second", "20000"])
    out = capsys.readouterr().out
    assert "100,000 steps a second" in out
    assert "The first limit is write units of the table, at 930 runs" in out
    assert "dollars a month" in out


@pytest.mark.parametrize("rate", ["0.1", "1", "930"])
def test_the_first_limit_is_the_same_for_every_rate(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([PLAYBOOK, "--runs-per-second", rate])
    out = capsys.readouterr().out
    assert "The first limit is write units of the table, at 930 runs" in out
    assert "One run exceeds" not in out


def test_a_limit_that_one_run_exceeds_is_reported_separately(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--step-seconds", "0", "--result-bytes", "100000"]
    main([PLAYBOOK, "--runs-per-second", "1", *options])
    out = capsys.readouterr().out
    message = "One run exceeds the limit of write units of one run: use longer steps, or several runs."
    assert message in out
    assert "The first limit is write units of the table, at" in out


def test_a_million_steps_cost_at_most_five_dollars() -> None:
    load = Workload(RunShape(1_000, 0, 0), 1.0, step_seconds=0.03, result_bytes=1_024)
    assert sum(estimate_cost(load).values()) / load.steps_per_second * 1e6 <= 5.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs-per-second", "0"],
        ["--runs-per-second", "nan"],
        ["--runs-per-second", "1", "--step-seconds", "901"],
        ["--runs-per-second", "1", "--maximum-concurrency", "1001"],
        ["--runs-per-second", "1", "--api-concurrency", "-1"],
    ],
)
def test_invalid_rates_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["examples/portable.yaml", *arguments])
    assert ended.value.code == 2


def test_a_missing_or_invalid_playbook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot read"):
        main([str(tmp_path / "nothing.yaml"), "--runs-per-second", "1"])
    (tmp_path / "bad.yaml").write_text("name: x")
    with pytest.raises(SystemExit, match="has errors"):
        main([str(tmp_path / "bad.yaml"), "--runs-per-second", "1"])
