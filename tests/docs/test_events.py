"""The history of a run has the events and keys that its page lists, and no others."""

from __future__ import annotations

import re

from noetl.executor.channels.sender import Sender
from noetl.executor.engine.delivery import Courier
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.notifications import late_entries
from noetl.executor.model.outbox import Subscribers
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.reference import ROOT
from noetl.planner.continuation.switch_state import Switch
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.skips import skip_steps
from noetl.testing.store_contract.switches import judge

ROW = re.compile(
    r"^\| ((?:`(?:workflow|step|action|loop|notification)\.\w+`(?:, )?)+) \|[^|]*\|([^|]*)\|$", re.MULTILINE
)
WORD = re.compile(r"`([\w.]+)`")
TEXT = """
    input: {why: {type: string, default: odd}, seconds: {type: number, default: 0}}
    timeout: 50s
    steps:
    - name: a
      loop: {items: [1, 2], batch: 1, on_error: continue}
      run: [{action: set, set: {x: "{{ item }}"}}, {action: fail, message: "{{ 'y' * 9000 }}"}]
      rule: [{case: "{{ input.why == 'never' }}", run: [b]}, {case: default, run: [b]}]
    - name: b
      retry: {attempts: 2, delay: 1s}
      run:
      - {action: set, set: {z: 1}, cache: 1h}
      - {action: wait, seconds: "{{ input.seconds }}"}
      - {action: callback, title: Continue?, timeout: 1s, on_error: continue}
      - {action: log, message: "{{ 'long ' * 2000 }}", fields: {n: 1}}
      - {action: shell, command: "test {{ input.why }} = none", retry: {attempts: 2, delay: 1ms}}
      - {action: shell, command: "false", retry: {attempts: 2, delay: 20s}, on_error: continue}
      rule: [{case: "{{ error.type == 'Never' }}", run: []}, {case: default, run: []}]
"""


def documented_events() -> dict[str, set[str]]:
    page = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
    return {
        type: set(WORD.findall(keys)) for types, keys in ROW.findall(page) for type in WORD.findall(types)
    }


def switch_run(store: SqliteStore) -> RunHarness:
    """Return a run that goes on in another version, where an action is done again and a name is given."""
    text = """
        version: "1"
        steps: [{name: a, run: [{action: log, message: a}, {action: shell, command: "false"}]}]
    """
    harness = RunHarness(store, text).finish()
    corrected = text.replace('shell, command: "false"', 'log, message: "{{ k }}"').replace(
        "version: 1", "input: {k: string}"
    )
    new = compile_text(corrected.replace("name: a,", "name: b,"))
    store.plans.save(new)
    request = SwitchRequest(new, Switch({"a": "b"}, {"k": "v"}), "2", caller="ann")
    assert PlanSwitcher(store, harness.clock, judge).switch(harness.id, request).run is not None
    return harness.finish()


def undo_switch(store: SqliteStore) -> RunHarness:
    """Return a run that has returned from another version."""
    text = "steps: [{name: a, run: [{action: log, message: a}]}]"
    harness, new = RunHarness(store, text), compile_text(text.replace("message: a", "message: b"))
    store.plans.save(new)
    switcher = PlanSwitcher(store, harness.clock, judge)
    switcher.switch(harness.id, SwitchRequest(new, Switch()))
    switcher.undo(harness.id)
    return harness.finish()


def wait_for_limit(store: SqliteStore) -> RunHarness:
    """Return a run that has waited for another one to end."""
    text = """
    name: play
    concurrency: {limit: 1, key: "{{ run.playbook }}"}
    steps: [{name: a, run: [{action: wait, seconds: 1}]}]
    """
    first = RunHarness(store, text)
    second = RunHarness(store, text, clock=first.clock)
    for harness in (first, second):
        assert harness.execute_next()
    first.finish()
    return second.finish()


def skip_run(store: SqliteStore) -> RunHarness:
    """Return a run that a limit has skipped."""
    store.gates.set_limit(named_gate("default", "closed"), LimitKind.RUNS, 0)
    text = "concurrency: {use: closed, when_full: skip}\nsteps: [{name: a, run: [{action: log, message: a}]}]"
    return RunHarness(store, text).finish()


def leave_out_step(store: SqliteStore) -> RunHarness:
    """Return a run whose step had a full limit."""
    limit = '{limit: 1, per: 1h, key: "{{ run.playbook }}", when_full: skip}'
    text = f"name: left_out\nsteps: [{{name: a, rate: {limit}, run: [{{action: log, message: a}}]}}]"
    first = RunHarness(store, text).finish()
    return RunHarness(store, text, clock=first.clock).finish()


def give_up_notification(store: SqliteStore) -> RunHarness:
    """Return a run whose channel does not exist."""
    harness = RunHarness(store, "steps: [{name: a, run: [{action: log, message: a}]}]").finish()
    (entry,) = late_entries(harness.run, None, Subscribers(channels={"ops": ("late",)}), harness.clock())
    assert store.outbox.add(entry)
    assert Courier(store, Sender()).deliver(entry, harness.clock())
    return harness


def join_starts(store: SqliteStore) -> RunHarness:
    """Return a run that two starts share."""
    text = "debounce: {wait: 5s}\nsteps: [{name: a, run: [{action: log, message: a}]}]"
    first, _ = (RunHarness(store, text, origin="service", queue="joined") for _ in range(2))
    return first.finish()


def fire_run(store: SqliteStore) -> RunHarness:
    """Return a run that a trigger has fired."""
    text = "steps: [{name: a, run: [{action: log, message: a}]}]"
    return RunHarness(store, text, trigger={"name": "pushed", "type": "webhook"}).finish()


def test_the_page_lists_all_events_and_their_keys(store: SqliteStore) -> None:
    failed = RunHarness(store, TEXT).finish()
    failed.resume(why="none").finish()
    late = RunHarness(store, TEXT, {"seconds": 60}).finish()
    cancelled = RunHarness(store, TEXT)
    for change in (store.pauses.pause, store.pauses.unpause):
        change(cancelled.id, cancelled.clock(), "ann")
    store.runs.stop(cancelled.id, RunStatus.CANCELLED, cancelled.clock())
    cancelled.finish()
    skipped = skip_steps(RunHarness(store, TEXT).finish(), b=None).finish()
    assert skipped.status == "succeeded"
    assert (failed.status, late.status, cancelled.status) == ("succeeded", "timed_out", "cancelled")
    given_up = give_up_notification(store)
    limited = (wait_for_limit(store), skip_run(store), leave_out_step(store), join_starts(store), given_up)
    changed = (switch_run(store), undo_switch(store), fire_run(store))
    plays = (failed, late, cancelled, skipped, *changed, *limited)
    events = [event for play in plays for event in play.events]
    found = {
        type: set[str]().union(*(e.payload for e in events if e.type == type))
        for type in {e.type for e in events}
    }
    assert found == {**documented_events(), "workflow.started": {"playbook", "trigger"}}
    assert documented_events()["workflow.started"] == {"playbook", "resumed_from", "trigger"}
