"""Budget of the cost of a step on DynamoDB and SQS, which is the same at each place of a run."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from benchmarks import cost, run_cost, trigger_cost
from benchmarks.meter import PRICES, AwsMeter, AwsUsage, lambda_dollars
from noetl.executor.model.gates import SlotOwner, own_gate
from noetl.executor.model.ids import ORDERED, ordered_id
from noetl.executor.model.run import END, Run, RunEnding, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import encode_item
from noetl.executor.stores.dynamo.blobs import INLINE_BYTES
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.planner.plan import Plan
from noetl.planner.syntax.limits import MAX_STEPS
from noetl.planner.syntax.reader import MAX_BYTES
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract import gates
from noetl.testing.store_contract.operations import (
    CYCLE,
    LEASE,
    action_events,
    claim_visit,
    start_run,
    succeed,
    suspend_claim,
)
from noetl.testing.store_contract.outbox import channel, claim_end, entry, finish, start_late_run
from noetl.testing.store_contract.trigger_lookups import run_end
from noetl.testing.store_contract.triggers import advance_by, declare, fire, read_trigger, register
from tests.aws import Client
from tests.tool_environments import ROOT

STEPS = 305
REQUESTS = 4
"""Number of requests to DynamoDB and SQS for a step, without receiving and deleting its message."""

DOLLARS_A_MILLION = 3.6


@pytest.fixture
def queue(aws: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    upgrade("noetl")
    url = str(aws("sqs").create_queue(QueueName="noetl")["QueueUrl"])
    monkeypatch.setenv("NOETL_QUEUE", url)
    monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
    return url


def test_a_firing_is_two_requests_after_the_read_of_its_trigger(queue: str) -> None:
    """Read whether it has joined a run. Write the head of the run twice as dear as a start does, the trigger
    with its index, and the firing.
    """
    store = open_store()
    register(store, declare())
    fire(store, advance_by(read_trigger(store), 61.0))
    start_run(store)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        start_run(store)
        started = meter.read()
        fire(store, advance_by(read_trigger(store), 121.0))
        fired = meter.read()
    assert fired.requests == {("dynamodb", "GetItem"): 2, ("dynamodb", "TransactWriteItems"): 1}
    assert (fired.read_units, fired.write_units - started.write_units) == (2.0, 7.0)


def test_what_triggers_and_notifications_add_is_measured(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        additions = trigger_cost.measure_additions(store, meter)
    triggered = ("firings of a webhook", "notifications", "partitions of a backfill")
    debounced = ("starts that wait for further ones", "starts that join a run")
    limited = [f"steps {words} a {kind}" for kind in ("limit", "rate") for words in ("with", "that wait for")]
    assert list(additions) == [*triggered, *limited, *debounced]
    assert all(1 < additions[name] < 20 for name in (*triggered, *debounced)), additions
    for kind in ("limit", "rate"):
        assert 1 < additions[f"steps with a {kind}"] < additions[f"steps that wait for a {kind}"] < 50


def test_the_subscribers_of_an_end_are_one_read(queue: str) -> None:
    store = open_store()
    register(store, *(run_end(f"e{number}", "p") for number in range(10)))
    for number in range(3):
        assert store.channels.put(channel(f"c{number}", events=("failed", "late")), None)
    with AwsMeter().attached("dynamodb") as meter:
        subscribers = store.outbox.subscribers("default", "p")
        usage = meter.read()
    assert (subscribers.has_triggers, len(subscribers.channels)) == (True, 3)
    assert (usage.requests, usage.read_units) == ({("dynamodb", "GetItem"): 1}, 1.0)


def test_the_end_of_a_run_pays_only_for_its_entries(queue: str) -> None:
    """An entry takes two units in the transaction, and one in each of two indexes."""
    store = open_store()
    spent = []
    for entries in ((), (entry("a"),), (entry("b"), entry("c", due_at=None))):
        claim = claim_end(store)
        with AwsMeter().attached("dynamodb", "sqs") as meter:
            finish(store, claim, *entries)
            spent.append(meter.read())
    requests = {("dynamodb", "GetItem"): 1, ("dynamodb", "TransactWriteItems"): 1}
    assert [usage.requests for usage in spent] == [requests] * 3
    assert [usage.write_units - spent[0].write_units for usage in spent] == [0.0, 4.0, 7.0]


def test_the_start_of_a_run_that_may_be_late_is_one_request(queue: str) -> None:
    store = open_store()
    spent = []
    for number, late_at in enumerate((None, None, 9.0)):
        with AwsMeter().attached("dynamodb") as meter:
            start_late_run(store, late_at, f"r{number}")
            spent.append(meter.read())
    assert spent[1].requests == {("dynamodb", "PutItem"): 1}
    assert spent[2].requests == {("dynamodb", "TransactWriteItems"): 1}
    assert spent[2].write_units - spent[1].write_units == 5.0


def test_a_limited_step_makes_these_requests(queue: str) -> None:
    """The first slot of a run marks its head. A gate without slots is removed with the last one."""
    store = open_store()
    spent = []
    for limits in (0, 1, 1, 2):
        requests = [gates.ask(own_gate("default", "play", "a", number, None)) for number in range(limits)]
        claim = claim_visit(store, start_run(store))
        with AwsMeter().attached("dynamodb", "sqs") as meter:
            owner = SlotOwner(claim.run.id, claim.visit.id)
            slots = store.gates.acquire(claim, owner, requests, 1.0) if requests else []
            acquired = meter.read()
            store.queue.commit(replace(succeed(store, claim), gives_back=bool(slots)), 1.0)
            committed = meter.read()
            assert [store.gates.grant(slot.gate, 1.0) for slot in slots] == [0] * limits
            granted = meter.read()
        spent.append((acquired, committed, granted))
    plain, _, limited, twice = spent
    names = ("GetItem", "BatchGetItem", "Query", "UpdateItem", "TransactWriteItems")
    counts = [[usage.count("dynamodb", name) for name in names] for usage in (*plain, *limited, *twice)]
    assert counts == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 0, 1],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 0, 1],
        [2, 0, 0, 0, 0],
    ]
    units = [sum(usage.write_units for usage in part) for part in (plain, limited, twice)]
    assert [more - units[0] for more in units] == [0.0, 15.0, 25.0]


def test_a_step_that_waits_for_a_limit_makes_these_requests(queue: str) -> None:
    """Queue up, be suspended, be granted, ask again and give back. Others give back meanwhile."""
    store = open_store()
    holder = gates.hold(store)
    claim = claim_visit(store, start_run(store))
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        (slot,) = gates.acquire(store, claim)
        acquired = meter.read()
        gates.suspend_queued(store, claim, slot)
        suspended = meter.read()
        gates.give_back(store, holder)
        left = meter.read()
        assert store.gates.grant(slot.gate, 3.0) == 1
        granted = meter.read()
        again = claim_visit(store, claim.run, 3.0)
        meter.read()
        assert gates.acquire(store, again)[0].is_held
        acquired_again = meter.read()
    usages = acquired, suspended, left, granted, acquired_again
    counts = [(sum(usage.requests.values()), usage.write_units) for usage in usages]
    assert counts == [(3, 13.0), (4, 8.0), (4, 9.0), (6, 12.0), (1, 0.0)]


def test_runs_without_limits_pay_nothing_at_their_end(queue: str) -> None:
    store = open_store()
    spent = []
    for is_limited in (False, True):
        claim = claim_visit(store, start_run(store))
        if is_limited:
            gates.acquire_for_run(store, claim)
        while claim.visit.step != END:
            store.queue.commit(succeed(store, claim, case=0), 1.0)
            claim = claim_visit(store, claim.run, 1.0)
        with AwsMeter().attached("dynamodb", "sqs") as meter:
            store.queue.finish(claim, RunEnding(RunStatus.SUCCEEDED, None, []), 1.0)
            spent.append(meter.read())
    plain, limited = spent
    assert plain.requests == {("dynamodb", "GetItem"): 1, ("dynamodb", "TransactWriteItems"): 1}
    assert limited.requests == {**plain.requests, ("dynamodb", "Query"): 1}
    assert limited.write_units - plain.write_units == 5.0


@pytest.mark.timeout(600)
def test_each_step_of_a_chain_costs_the_same(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        spent = [usage for usage, _ in cost.measure_chain(store, queue, STEPS, meter, lambda: 1.0)]
    middle = spent[1:-1]  # the first starts the run, the last ends it
    rows = [cost.make_row(number, usage, 0.0) for number, usage in enumerate(middle, 2)]
    assert {row["requests"] for row in rows} == {REQUESTS}
    assert {row["all_requests"] for row in rows} == {REQUESTS + 2}
    assert {(row["write_units"], row["read_units"]) for row in rows} == {(3.0, 2.0)}
    assert max(row["dollars_a_million"] for row in rows) <= DOLLARS_A_MILLION
    # Only names and numbers of steps grow, by a digit or two.
    sent = [statistics.mean(row["sent_bytes"] for row in part) for part in (rows[8:18], rows[-10:])]
    assert sent[1] - sent[0] < 64


def test_a_step_makes_these_requests(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        _, (usage, _), _ = cost.measure_chain(store, queue, 3, meter, lambda: 1.0)
    assert usage.requests == {
        ("sqs", "ReceiveMessage"): 1,
        ("dynamodb", "UpdateItem"): 2,
        ("dynamodb", "BatchGetItem"): 1,
        ("sqs", "SendMessage"): 1,
        ("sqs", "DeleteMessage"): 1,
    }


def test_steps_in_one_invocation_cost_less(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        spent = cost.measure_chain(store, queue, 12, meter, lambda: 1.0, same_invocation=True)
    rows = [cost.make_row(number, usage, 0.0) for number, (usage, _) in enumerate(spent, 1)][1:10]
    assert {row["all_requests"] for row in rows} == {3}
    assert max(row["dollars_a_million"] for row in rows) <= 2.1


def test_the_largest_plan_is_read_once(aws: Client) -> None:
    upgrade("noetl")
    store = open_store("dynamodb://noetl")
    plan = compile_text("steps: [{name: a, run: [{action: log, message: '{{ run.id }}'}]}]")
    steps = {f"s{number}": plan.steps["a"] for number in range(MAX_STEPS)}
    largest = Plan(plan.header, steps, plan.tasks, "x" * MAX_BYTES)
    store.plans.save(largest)
    with AwsMeter().attached("dynamodb") as meter:
        store.plans.step(largest.hash, "s0")
        assert meter.read().requests
        store.plans.step(largest.hash, f"s{MAX_STEPS - 1}")
        assert not meter.read().requests


def test_a_renewal_makes_one_request(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    run = start_run(store)
    claim = claim_visit(store, run)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        assert store.queue.renew(claim.visit, 60.0)
        plain = meter.read()
        assert store.queue.renew(claim.visit, 60.0, action_events(claim, 0, 1))
        with_events = meter.read()
    assert (plain.requests, plain.write_units) == ({("dynamodb", "UpdateItem"): 1}, 1.0)
    assert (with_events.requests, with_events.write_units) == ({("dynamodb", "TransactWriteItems"): 1}, 4.0)


def test_prices_of_requests() -> None:
    usage = AwsUsage(read_units=8.0, write_units=2.0)
    usage.requests.update({("sqs", "SendMessage"): 3, ("s3", "PutObject"): 1, ("s3", "GetObject"): 1})
    assert usage.dollars * 1e6 == pytest.approx(8 * 0.125 + 2 * 0.625 + 3 * 0.4 + 5.0 + 0.4)
    assert lambda_dollars(0.1) * 1e6 == pytest.approx(0.2 + 0.1 * 0.25 * 13.3334)


@pytest.mark.timeout(600)
def test_the_cost_of_a_branch_does_not_grow_with_the_fork(queue: str) -> None:
    """Several threads execute each branch once, and the join once."""
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        narrow, wide = (cost.measure_fork(store, queue, branches, meter) for branches in (100, 300))
    assert wide["requests"] <= min(narrow["requests"] + 0.5, 8)
    assert wide["write_units"] <= narrow["write_units"] <= 6
    # A commit that empties the counter of a partition reads all counters. Several threads may do so.
    assert wide["looks"] <= 4 * 63


def test_the_end_of_a_run_reads_its_visits_once(queue: str) -> None:
    """A wide fork has many visits, in several partitions."""
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        assert cost.measure_fork(store, queue, 40, meter)["queries"] == 3


def test_a_step_in_sequential_mode_makes_these_requests(aws: Client) -> None:
    """The stack is read, and the outcome, the stack and the next visit are one transaction."""
    text = """
        mode: sequential
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: set, set: {x: 1}}]}
        - {name: c, run: [{action: log, message: "{{ x }}"}]}
    """
    upgrade("noetl")
    store = open_store("dynamodb://noetl")
    run = start_run(store, text)
    store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
    claim = claim_visit(store, run, 1.0)
    commit = succeed(store, claim, case=None, saved={"x": 1})
    with AwsMeter().attached("dynamodb") as meter:
        assert store.queue.commit(commit, 1.0, LEASE).following is not None
        usage = meter.read()
    assert usage.requests == {
        ("dynamodb", "GetItem"): 1,
        ("dynamodb", "TransactWriteItems"): 1,
        ("dynamodb", "UpdateItem"): 1,
        ("dynamodb", "BatchGetItem"): 1,
    }


def test_lists_of_runs_make_these_requests(aws: Client) -> None:
    """Read a page of a list. Runs that wait take no requests of their own."""
    upgrade("noetl")
    store = open_store("dynamodb://noetl")
    runs = [start_run(store, now=float(number)) for number in range(12)]
    for run in runs[:4]:
        store.queue.commit(suspend_claim(claim_visit(store, run, 100.0)), 100.0)
    shards = keys.SHARDS + 1
    with AwsMeter().attached("dynamodb") as meter:
        store.runs.find(RunFilter(statuses=(RunStatus.QUEUED,), limit=2))
        queued = meter.read()
        assert len(store.runs.find(RunFilter(statuses=(RunStatus.WAITING,), limit=4))[0]) == 4
        waiting = meter.read()
        store.maintenance.probe()
        probe = meter.read()
        store.runs.live_runs("default", "play", [runs[0].plan_hash], 10)
        live = meter.read()
        assert store.runs.summary("default", runs[0].id) is not None
        summary = meter.read()
        assert store.runs.overview("default", runs[0].id) is not None
        overview = meter.read()
    one_page = {("dynamodb", "Query"): shards, ("dynamodb", "BatchGetItem"): 2}  # heads and counters
    # Runs that sleep have partitions of their own. These runs are local.
    assert live.requests == {("dynamodb", "Query"): shards + keys.SHARDS}
    assert probe.requests == {("dynamodb", "GetItem"): 1, ("dynamodb", "PutItem"): 1}
    assert summary.requests == {("dynamodb", "GetItem"): 1, ("dynamodb", "BatchGetItem"): 1}
    assert overview.requests == {("dynamodb", "GetItem"): 2, ("dynamodb", "Query"): 1}
    assert waiting.requests == one_page
    assert queued.requests == one_page


def test_the_status_of_a_long_run_costs_little(aws: Client) -> None:
    """Compare one visit with 100 and with 2,000. The visits between are copies of the last ones."""
    upgrade("noetl")
    store = open_store("dynamodb://noetl")
    assert isinstance(store, DynamoStore)
    run = start_run(store, CYCLE)
    units: dict[int, float] = {}
    with AwsMeter().attached("dynamodb") as meter:
        for count in (1, 100, 2000):
            if count > 1:
                for _ in range(4):
                    claim = claim_visit(store, run, 100.0)
                    store.queue.commit(succeed(store, claim, saved={"text": "x" * 600}), 1.0)
                _copy_visits(store, run, count)
            meter.read()
            overview = store.runs.overview("default", run.id)
            usage = meter.read()
            assert overview is not None
            units[count] = usage.read_units
            assert usage.count("dynamodb") <= 5 + 2  # the steps on the cycle
        assert store.runs.visits(run.id)
        assert meter.read().read_units > 10 * units[2000]
    assert max(units.values()) <= 3 * units[1]


def _copy_visits(store: DynamoStore, run: Run, count: int) -> None:
    """Add visits of the steps on the cycle that were before the last ones, up to `count` visits."""
    table = store.context.table
    items = [item for item in table.query(keys.partition_key(run.id), "V#") if "finished" in item]
    copied = [item for item in items if item["sk"].startswith(f"V#{ORDERED}")][:2]
    copies = []
    for number in range(count - len(items)):
        item = copied[number % 2]
        key = keys.visit(run.id, ordered_id(item["step"], 0, f"{number:012}"), 1)
        copies.append({"PutRequest": {"Item": encode_item(item | key._asdict())}})
    for start in range(0, len(copies), 25):
        table.client.batch_write_item(RequestItems={table.name: copies[start : start + 25]})


def test_a_pause_makes_these_requests(aws: Client) -> None:
    """The suspension and the claim after it are transactions with the counter of the run."""
    upgrade("noetl")
    store = open_store("dynamodb://noetl")
    run = start_run(store)
    claim = claim_visit(store, run)
    commit = suspend_claim(claim)
    with AwsMeter().attached("dynamodb") as meter:
        store.queue.commit(commit, 1.0)
        suspension = meter.read()
        claim_visit(store, run, commit.visit.due_at)
        resumption = meter.read()
    assert suspension.requests["dynamodb", "TransactWriteItems"] == 1
    assert suspension.requests["dynamodb", "UpdateItem"] == 0
    assert resumption.requests["dynamodb", "TransactWriteItems"] == 1


def test_the_costs_on_the_page_are_those_of_runs(queue: str) -> None:
    store = open_store()
    assert isinstance(store, DynamoStore)
    with AwsMeter().attached("dynamodb", "sqs") as meter:
        rows = run_cost.measure_shapes(store, queue, meter, repeats=1)
    page = (ROOT / "docs" / "how-to" / "aws.md").read_text("utf-8").splitlines()
    shown = set(page)
    # The time of functions differs, and so does the order of branches. The rest is the same each time.
    exact = ("DynamoDB", "SQS", "Logs", "API")
    for part in exact:
        [cells] = [line.split("|")[2:-1] for line in page if line.startswith(f"| {part} |")]
        for cell, row in zip(cells, rows, strict=True):
            has_branches = row["name"] in ("fork of 10", "portable.yaml")
            assert float(cell) == pytest.approx(
                row["dollars"][part], abs=0.01, rel=0.5 if has_branches else 0
            )
    tables = run_cost.render_tables(rows)
    computed = [
        line for line in tables.splitlines() if line.startswith(("| Step Functions", "| alarms", "| its log"))
    ]
    assert len(computed) == 4
    assert shown.issuperset(computed)


def test_a_value_is_stored_where_it_costs_less() -> None:
    prices = PRICES["per_million"]
    bucket = prices["s3_puts"] + prices["s3_gets"]

    def item(kilobytes: int) -> float:
        reads = -(-kilobytes // 4)
        return float(kilobytes * prices["dynamodb_write_units"] + reads * prices["dynamodb_read_units"])

    longest = INLINE_BYTES // 1024
    assert item(longest) < bucket < item(longest + 1)
