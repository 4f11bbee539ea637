"""The benchmarks measure what they say; how long it takes is nothing a test could know."""

from __future__ import annotations

import gc
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import (
    calls,
    continuation,
    growth,
    guards,
    held_snapshot,
    killing,
    limits,
    lists,
    memory,
    metrics,
    outage,
    pictures,
    planner,
    reading,
    report,
    retention,
    runtime,
    speed,
    step_guards,
    streams,
    waiting,
)
from benchmarks.answers import running_answers
from benchmarks.checks import __main__ as checks
from benchmarks.checks.corpus import CorpusPlaybook
from benchmarks.checks.mutants import Original
from benchmarks.checks.operators import OPERATORS
from benchmarks.playbooks import SHAPES
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra import dynamodb
from noetl.planner.compile import compile_playbook
from tests.aws import Client


@pytest.mark.parametrize(
    ("shape", "forks", "joins"), [("chain", 0, 0), ("ladder", 66, 67), ("wide", 2, 2), ("nested", 64, 65)]
)
def test_shapes(shape: str, forks: int, joins: int) -> None:
    compilation = compile_playbook(SHAPES[shape](200), catalogue())
    assert compilation.plan is not None
    assert compilation.diagnostics == ()
    statistics = compilation.plan.header.statistics
    assert (statistics["steps"], statistics["forks"], statistics["joins"]) == (200, forks, joins)


SMALL: Mapping[str, tuple[Mapping[str, object], str]] = {
    "commits": ({"THREADS": (1, 2)}, "--rounds 1"),
    "guards": ({"measure": partial(guards.measure, rounds=1, seconds=0.001)}, "access loop"),
    "large_json": ({"VALUES": {"numbers": lambda: [*range(1_000)]}}, ""),
    "migration": ({}, "--runs 2"),
    "neighbours": ({}, "--store SQLite --case does\\ nothing --seconds 0.2 --rounds 1"),
    "reading": ({"VISITS": (1, 3), "ITEMS": (2, 4), "CALLS": 1}, ""),
    "requests": ({"LISTED_RUNS": 1}, "--rounds 1 --count 1"),
    "starts": ({"PARTITIONS": 2}, "--rounds 1"),
    "triggers": ({"LEAD_SECONDS": 1.0}, "--triggers 2 --workers 1"),
}
"""The constants and arguments with which a benchmark takes seconds."""


@pytest.mark.parametrize("name", SMALL)
def test_a_small_benchmark_runs(
    name: str,
    account: None,
    postgres_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = import_module(f"benchmarks.{name}")
    constants, arguments = SMALL[name]
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(arguments)])
    for constant, value in constants.items():
        monkeypatch.setattr(module, constant, value)
    for user in (module, limits):
        monkeypatch.setattr(user, "running_server", partial(use_server, postgres_server), raising=False)
    interval = sys.getswitchinterval()
    try:
        module.main()
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
    assert len(capsys.readouterr().out.splitlines()) >= 2


@contextmanager
def use_server(dsn: str, **options: str) -> Iterator[SimpleNamespace]:
    """Yield the server of the test instead of a new one."""
    yield SimpleNamespace(dsn=dsn)


def test_rows_of_the_planner() -> None:
    row = planner._row("ladder", 10, 1)
    assert row["ratio"] == pytest.approx(row["compile_seconds"] / row["load_seconds"])
    assert "ladder" in report.table("Compiling", report.PLANNER, [row])


def test_rows_of_pictures() -> None:
    row = pictures.measure("chain", 210)
    assert (row["shape"], row["steps"]) == ("chain", 210)
    assert row["folded"]["nodes"] < 10
    assert row["unfolded"]["seconds"] > 0
    assert "chain" in report.table("Pictures", pictures.COLUMNS, [row])


def test_calls_of_a_step_do_not_grow_with_the_run(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/noetl.db")) as store:
        assert calls.count_step(store, 80) == pytest.approx(calls.count_step(store, 40), rel=0.1)


def test_calls_of_a_compilation_grow_with_the_playbook() -> None:
    assert calls.count_calls(lambda: None) <= 2
    assert calls.count_compilation(40) > 1.5 * calls.count_compilation(20)


def check_status_of_many_visits(store: Store) -> None:
    """Check that the status of a run of 2,000 visits costs as much as that of a run of one."""
    services = create_services(store, catalogue())
    single, many = lists.measure_status(services, "a store")
    assert (single["visits"], many["visits"]) == (1, 2_000)
    assert single["statements"] == many["statements"] == 2
    assert many["bytes"] <= 1.1 * single["bytes"]
    queried: list[str] = [run.workflow_id for run in services.runs.find(RunFilter()).items]
    first, second = (calls.count_calls(lambda: services.runs.report(id)) for id in queried)  # noqa: B023
    assert max(first, second) <= 1.1 * min(first, second)


def test_the_status_of_many_visits_on_sqlite(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/noetl.db")) as store:
        check_status_of_many_visits(store)


def test_the_status_of_many_visits_on_postgres(postgres_store_dsn: str) -> None:
    with closing(open_store(postgres_store_dsn)) as store:
        check_status_of_many_visits(store)


def test_rows_of_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "RUNS", (20, 120))
    monkeypatch.setattr(lists, "RARE", 100)
    monkeypatch.setattr(lists, "PAYLOAD_RUNS", 3)
    with closing(open_store(f"sqlite:///{tmp_path}/noetl.db")) as store:
        services = create_services(store, catalogue())
        assert {row["filter"] for row in lists.measure_filters(services, "SQLite")} > {"tag, rare"}
        for row in lists.measure_payloads(services, "SQLite"):
            assert row["bytes"] < lists.PAYLOAD_BYTES


@pytest.mark.parametrize("database", ["SQLite", "Postgres"])
def test_rows_of_the_executor(database: str) -> None:
    rows = speed.measure(database, steps=4, repetitions=1, sizes=(2048,), workers=(1, 2))
    assert [(row["playbook"], row["result_bytes"], row["workers"]) for row in rows] == [
        (f"{shape} of 4", 2048, workers) for shape in ("chain", "fan-out") for workers in (1, 2)
    ]
    assert all(row["rows_per_step"] == pytest.approx(row["step"] / row["row"]) for row in rows)
    assert "fan-out of 4" in report.table(speed.title(database), speed.COLUMNS, rows)


def test_steps_with_and_without_their_inputs() -> None:
    rows = speed.measure_inputs("SQLite", steps=4, repetitions=1, sizes=(2048,))
    assert [(row["playbook"], row["ratio"]) for row in rows] == [
        (f"{shape} of 4", pytest.approx(row["on"] / row["off"]))
        for shape, row in zip(speed.SHAPES, rows, strict=True)
    ]
    assert "fan-out of 4" in report.table("Inputs of steps", speed.INPUT_COLUMNS, rows)


def test_what_steps_ask(tmp_path: Path) -> None:
    rows = growth.measure(f"sqlite:///{tmp_path}/noetl.db", "SQLite", steps=120)
    assert [row["step"] for row in rows] == [10, 100]
    assert rows[0]["statements"] == rows[1]["statements"] == 7  # as benchmarks/README.md says


def test_branches_of_forks(postgres_store_dsn: str) -> None:
    rows = growth.measure_forks(postgres_store_dsn, {3: 2, 5: 1}, workers=2)
    assert [row["branches"] for row in rows] == [3, 5]
    assert all(row["branch"] > 0 for row in rows)
    assert "branches" in report.table("Forks", growth.FORK_COLUMNS, rows)


def test_who_follows_one_that_was_killed(tmp_path: Path) -> None:
    row = killing.measure_resume_command(tmp_path, kills=1, steps=2_000)
    assert row["latest"] == row["resumed"] > 0 < row["imports"]


def test_what_waits() -> None:
    found = waiting.measure(runs=5, items=2_500, spread_seconds=0.1)
    assert (found["items"], found["runs"]) == (2_500, 5)
    assert found["late_seconds_worst"] >= found["late_seconds_median"] >= 0


def test_new_runs_while_others_are_due_together(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        found = waiting.measure_due_together(store, runs=3, wait_seconds=0.5)
        assert found["new_runs"] >= 1
        assert found["first_step_seconds_worst"] >= found["first_step_seconds_median"] >= 0
        succeeded, _ = store.runs.find(RunFilter(statuses=(RunStatus.SUCCEEDED,)))
        assert len(succeeded) == 3 + found["new_runs"]
        assert store.maintenance.check_consistency() == []


def check_limits(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Check steps with limits, and that each run of a queue continues, whether it was started or copied."""
    for name, value in (("REPETITIONS", 1), ("SHORT_RUNS", 1), ("RELEASES", 4)):
        monkeypatch.setattr(limits, name, value)
    assert isinstance(store, SqlStore)
    with running_answers() as url:
        limits.measure_steps("a store", store, steps=1, url=url)
    queue = limits.WaitingRuns(store, tickets=3)
    limits.measure_releases("a store", {3: queue})
    assert store.maintenance.check_consistency() == []
    succeeded, _ = store.runs.find(RunFilter(playbook="queued", statuses=(RunStatus.SUCCEEDED,)))
    assert len(succeeded) == 4
    assert queue.claim.run.id not in {run.id for run in succeeded}
    printed = capsys.readouterr().out
    assert printed.count("a step takes") == len(limits.limit_cases(1, ""))
    assert printed.count("with 3 in the queue") == 1


def test_limits_on_sqlite(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with limits.open_sqlite() as store:
        check_limits(store, monkeypatch, capsys)


def test_limits_on_postgres(
    postgres_store_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(open_store(postgres_store_dsn)) as store:
        check_limits(store, monkeypatch, capsys)


def test_runs_that_are_kept_too_long() -> None:
    found = retention.measure("SQLite", seconds=0.3, keep_seconds=0.1, runs_a_second=20.0)
    assert 1 <= found["started"] <= 7
    assert 0 <= found["most_old"] <= found["started"]
    assert 0 <= found["left"] <= found["started"]


DIAMOND = """
name: diamond
steps:
- {name: a, rule: [{case: default, run: [b, c]}]}
- {name: b, run: [{action: shell, command: date, as: n}], rule: [{case: default, run: [d]}]}
- {name: c, run: [{action: set, set: {m: 1}}], rule: [{case: default, run: [d]}]}
- {name: d, run: [{action: log, message: "{{ n.stdout }} {{ m }}"}]}
"""


def judge_mutants(*operators: str) -> list[tuple[str, bool, bool, bool]]:
    """Return a row for each mutant of the diamond.

    The columns are the operator, and whether the mutant is worse, is detected, and is detected at the right
    place.
    """
    original = Original.compile(CorpusPlaybook("test", "diamond", DIAMOND))
    assert original is not None
    mutants = original.mutants(100, operators)
    return [(m.operator, bool(m.worse), m.is_detected, m.is_at_the_right_place) for m in mutants]


def test_mutants() -> None:
    assert judge_mutants("rename_target", "add_race", "duplicate_step") == [
        *[("rename_target", True, True, True)] * 4,
        ("add_race", True, True, True),
        *[("duplicate_step", True, True, True)] * 3,
    ]
    assert len(OPERATORS) >= 15


def test_what_changes_nothing_is_no_mistake() -> None:
    """Both branches lead to a step that reads nothing, so that it does not matter which of them comes."""
    original = Original.compile(
        CorpusPlaybook("test", "diamond", DIAMOND.replace("{{ n.stdout }} {{ m }}", "done"))
    )
    assert original is not None
    found = list(original.mutants(100, ["remove_as"]))
    assert [(mutant.is_wrong, mutant.is_detected) for mutant in found] == [(False, False)]


def test_the_judgement_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "checks.json"
    sizes = ["--valid", "3", "--generated", "1", "--chance", "5", "--choices", "2", "--sites", "1"]
    checks.main([*sizes, "--results", str(results)])
    written = json.loads(results.read_text("utf-8"))
    rows = {row["operator"]: row for row in written["mutants"]}
    assert rows.keys() == {*OPERATORS, "all"}
    assert rows["all"]["wrong"] == sum(row["wrong"] for name, row in rows.items() if name != "all") > 0
    assert rows["all"]["detected"] <= rows["all"]["wrong"] <= rows["all"]["mutants"]
    assert [row["playbooks"] for row in written["agreement"]] == [3, 5, 2]
    assert "rename_target" in capsys.readouterr().out


def test_streams_are_measured_in_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(streams, "STEPS", 2)
    measured = streams.measure(sys.executable, 12, 0.1)
    assert (measured["listeners"], measured["accepted"]) == (12, 12)
    assert 0 < measured["delay_ms_median"] <= measured["delay_ms_worst"]


def check_guards_of_a_step(url: str, guards: int) -> None:
    """Check the rows of a store with some guards, which make no statement."""
    with closing(open_store(url)) as store:
        assert isinstance(store, SqlStore)
        rows = step_guards.measure(store, steps=14)
        assert rows[-1]["guard"] == "all of them"
        assert len(rows) == guards
        for row in rows:
            assert row["bounds"][0] <= row["ratio"] <= row["bounds"][1]
            assert row["statements"] == row["statements_without"] > 0
        assert all(row["seconds"] > 0 for row in step_guards.measure_intervals(store, 2))
    assert "all of them" in report.table("Guards", step_guards.COLUMNS, rows)


def test_guards_of_a_step_on_sqlite(tmp_path: Path) -> None:
    with step_guards.opened_store("SQLite", str(tmp_path)) as store:
        assert isinstance(store, SqliteStore)
    check_guards_of_a_step(f"sqlite:///{tmp_path}/noetl.db", 8)


def test_guards_of_a_step_on_postgres(postgres_store_dsn: str) -> None:
    check_guards_of_a_step(postgres_store_dsn, 11)


def test_a_guard_is_as_before_after_its_measurement(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/noetl.db")) as store:
        patches = step_guards.ALL.patches(store)
        before = [vars(owner)[name] for owner, name, _ in patches]
        with step_guards.replaced(step_guards.ALL, store):
            now = [vars(owner)[name] for owner, name, _ in patches]
        assert all(replacement is not method for replacement, method in zip(now, before, strict=True))
        assert [vars(owner)[name] for owner, name, _ in patches] == before


def test_guards_add_no_request_to_a_step_on_dynamodb(account: None) -> None:
    (row,) = step_guards.measure_dynamodb(8, [step_guards.ALL])
    assert row["requests"] == row["requests_without"] == 3
    assert row["write_units"] == row["write_units_without"] == 2


def test_bounds_of_a_median() -> None:
    assert step_guards.median_bounds([2.0, 1.0, 3.0]) == (1.0, 3.0)
    ranks = [float(rank) for rank in range(1, 101)]
    assert step_guards.median_bounds(ranks) == (40.0, 61.0)


@pytest.fixture
def account(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account in which benchmarks run: that of the test, instead of one of a new emulator."""

    @contextmanager
    def use_account() -> Iterator[str]:
        dynamodb.upgrade("noetl")
        queue: str = aws("sqs").create_queue(QueueName="noetl")["QueueUrl"]
        monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
        monkeypatch.setenv("NOETL_QUEUE", queue)
        yield queue

    for module in (outage, memory, reading, step_guards):
        monkeypatch.setattr(module, "emulated_account", use_account)


def test_runs_survive_an_outage(account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "WARM_UP_SECONDS", 0.2)
    row = outage.measure("throttled", 0.3, runs=2, threads=2)
    assert (row["runs"], row["failed"], row["open"]) == (2, 0, 0)
    assert row["refused"] > 0
    assert outage.is_harmless(row)
    assert "throttled" in report.table("Outage", outage.COLUMNS, [row])
    assert not outage.is_harmless({**row, "failed": 1})


def test_a_batch_in_a_function_with_little_memory(account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with memory.limited_group(64 * memory.MEGABYTE):
            pass
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("NOETL_BUCKET", "")
    row = memory.measure("two values", memory.OBJECT, 2, 1_000, 256)
    assert (row["succeeded"], row["errors"], row["open"], row["status"]) == (2, {}, 0, 0)
    assert "two values" in report.table("Memory", memory.COLUMNS, [row])


def test_memory_needs_a_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    with pytest.raises(RuntimeError, match="cannot be limited by a cgroup"), memory.limited_group(1):
        pass


RUNTIME_CLIENT = """
import http.client, json, os
connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
while True:
    connection.request("GET", "/2018-06-01/runtime/invocation/next")
    response = connection.getresponse()
    event, id = json.load(response), response.headers["Lambda-Runtime-Aws-Request-Id"]
    kind = "response" if id else "error"
    connection.request("POST", f"/2018-06-01/runtime/invocation/{id}/{kind}", json.dumps({"got": event}))
    connection.getresponse().read()
"""


def test_the_runtime_api_has_the_headers_of_lambda(tmp_path: Path) -> None:
    (tmp_path / "awslambdaric.py").write_text(RUNTIME_CLIENT)
    with runtime.running(Path(sys.executable), tmp_path, "module.handle") as client:
        answers = [client.invoke({"number": number})[0] for number in range(2)]
    assert answers == [{"got": {"number": 0}}, {"got": {"number": 1}}]


@pytest.mark.parametrize("folder", [".", "unified"])
def test_memory_is_limited_by_cgroups_of_version_2(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    root = tmp_path / folder
    root.mkdir(exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    (root / "cgroup.subtree_control").write_text("cpu\n")
    with memory.limited_group(1_000) as group:
        assert group.parent == root
        assert (root / "cgroup.subtree_control").read_text() == "+memory"
        assert (group / "memory.max").read_text() == "1000"
        (group / "memory.max").unlink()


def test_the_allocator_returns_large_blocks() -> None:
    assert memory.read_allocator_settings() == {"MALLOC_MMAP_THRESHOLD_": str(memory.MEGABYTE)}


def test_runs_while_a_snapshot_is_held(postgres_store_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_snapshot, "RUNS_A_SECOND", 20.0)
    row = held_snapshot._run_for(postgres_store_dsn, 0.5, is_held=True)
    assert row["runs"] >= 2
    assert row["seconds"] > 0


def test_scrapes_are_measured_with_and_without_facts(tmp_path: Path) -> None:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        row = metrics.measure_scrape(store, playbooks=3, facts=240)
        read = store.facts.read("default", store.clock())
    assert read is not None
    assert {total.playbook for total in read.totals} == {f"playbook {number}" for number in range(10)}
    names = {"text", "OpenMetrics", "text after facts", "OpenMetrics after facts"}
    assert row["seconds"].keys() == row["processor"].keys() == names
    assert "SQLite" in report.table("Scrapes", metrics.SCRAPE, [{"store": "SQLite", **row}])


def test_a_wrong_counter_is_reported() -> None:
    assert metrics.differences({"a": 1.0, "b": 2.0}, {"a": 1.0 + 1e-9, "c": 1.0}) == {
        "b": (2.0, 0.0),
        "c": (0.0, 1.0),
    }


def test_times_and_counts_of_verdicts() -> None:
    assert continuation.measure_times(30, 4, 1).keys() == {
        "a live step corrected",
        "text of a done step, too",
        "what a done step saves",
    }
    counts = continuation.count_verdicts(3)
    assert counts["yes, no violation"] > 0
    assert "yes, violation" not in counts
