"""What a rate of runs takes: by hand for small ones, and in proportion for large ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from noetl.executor.actions import catalogue
from noetl.infra.capacity import Load, Shape, dollars_of, limits_of, main, needs_of, shape_of
from noetl.planner.compile import compile_playbook

from benchmarks.playbooks import fan_out

ROOT = Path(__file__).resolve().parents[2]
CHAIN = Shape(10, 0, 0)


def test_the_units_of_a_chain_are_those_that_were_counted() -> None:
    # Runs of 1, 11 and 31 steps took 18, 38 and 78 write units in the emulator, and 11, 31 and 71 read units.
    for steps, writes, reads in ((1, 18, 11), (11, 38, 31), (31, 78, 71)):
        needs = needs_of(Load(Shape(steps, 0, 0), 1.0))
        assert (needs.write_units, needs.read_units, needs.messages) == (writes, reads, steps + 1)


@pytest.mark.parametrize(("branches", "writes", "reads"), [(4, 51, 37), (16, 111, 97)])
def test_the_units_of_a_fork_are_those_that_were_counted(branches: int, writes: int, reads: int) -> None:
    needs = needs_of(Load(Shape(branches + 2, branches, 1), 1.0))
    assert (needs.write_units, needs.read_units) == (writes, reads)


@pytest.mark.parametrize(("branches", "writes", "reads"), [(100, 565, 663), (1_000, 5_380, 14_400)])
def test_the_units_of_a_wide_fork_are_about_those_that_were_counted(
    branches: int, writes: float, reads: float
) -> None:
    plan = compile_playbook(fan_out(branches), catalogue()).plan
    assert plan is not None
    needs = needs_of(Load(shape_of(plan), 1.0))
    assert needs.write_units == pytest.approx(writes, rel=0.02)
    # How many look at all counters depends on how many of them end at once.
    assert needs.read_units == pytest.approx(reads, rel=0.15)


def test_the_shape_of_a_plan() -> None:
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
    assert shape_of(plan) == Shape(4, 2, 1, 2)


@pytest.mark.parametrize("times", [10, 1_000])
def test_twice_as_much_takes_twice_as_much(times: int) -> None:
    one, many = (Load(CHAIN, rate) for rate in (1.0, float(times)))
    assert sum(dollars_of(many).values()) == pytest.approx(times * sum(dollars_of(one).values()))
    for before, after in zip(sorted(vars_of(one)), sorted(vars_of(many)), strict=True):
        assert after == pytest.approx(before) or after == pytest.approx(times * before)


def vars_of(load: Load) -> list[float]:
    needs = needs_of(load)
    return [needs.at_once, needs.write_units, needs.read_units, needs.messages, needs.index_writes]


@pytest.mark.parametrize(
    ("load", "first"),
    [
        (Load(CHAIN, 400.0, step_seconds=0.0), "write units of the table"),
        (Load(Shape(1_000, 0, 0), 10.0, step_seconds=5.0), "invocations at once in an account"),
        (Load(Shape(10_000, 0, 0), 10.0, step_seconds=0.0, result_bytes=10_000), "write units of the table"),
        (Load(Shape(100_000, 0, 0), 0.001, step_seconds=0.0, result_bytes=100_000), "write units of one run"),
    ],
)
def test_which_limit_comes_first(load: Load, first: str) -> None:
    limits = limits_of(load)
    assert limits[0].name == first
    assert [limit.share for limit in limits] == sorted((limit.share for limit in limits), reverse=True)
    assert all(limit.cure and limit.most > 0 for limit in limits)


def test_runs_are_spread_over_the_indexes() -> None:
    [limit] = [limit for limit in limits_of(Load(CHAIN, 2_000.0)) if "index" in limit.name]
    assert (limit.most, limit.share) == (8_000, 0.5)


def test_a_hundred_thousand_steps_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(ROOT / "examples" / "portable.yaml"), "--runs-per-second", "20000"])
    out = capsys.readouterr().out
    assert "100,000 steps a second" in out
    assert "The first limit is that of write units of the table, at 930 runs" in out
    assert "dollars a month" in out


@pytest.mark.parametrize("rate", ["0.1", "1", "930"])
def test_the_first_limit_is_the_same_for_every_rate(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(ROOT / "examples" / "portable.yaml"), "--runs-per-second", rate])
    out = capsys.readouterr().out
    assert "The first limit is that of write units of the table, at 930 runs" in out
    assert "by itself" not in out


def test_what_one_run_takes_too_much_of_is_told_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    of_steps = ["--step-seconds", "0", "--result-bytes", "100000"]
    main([str(ROOT / "examples" / "portable.yaml"), "--runs-per-second", "1", *of_steps])
    out = capsys.readouterr().out
    assert "A run by itself comes up against write units of one run: longer steps, or several runs." in out
    assert "The first limit is that of write units of the table, at" in out


def test_it_costs_what_the_budget_allows() -> None:
    load = Load(Shape(1_000, 0, 0), 1.0, step_seconds=0.03, result_bytes=1_024)
    assert sum(dollars_of(load).values()) / load.steps_per_second * 1e6 <= 5.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs-per-second", "0"],
        ["--runs-per-second", "nan"],
        ["--runs-per-second", "1", "--step-seconds", "901"],
    ],
)
def test_rates_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["examples/portable.yaml", *arguments])
    assert ended.value.code == 2


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="cannot read"):
        main([str(tmp_path / "nothing.yaml"), "--runs-per-second", "1"])
    (tmp_path / "bad.yaml").write_text("name: x")
    with pytest.raises(SystemExit, match="has errors"):
        main([str(tmp_path / "bad.yaml"), "--runs-per-second", "1"])
