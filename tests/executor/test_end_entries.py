"""The entries of the outbox that the ends of runs write: those of triggers, and those of channels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from noetl.executor.model.channels import Channel
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness, compile_text

AFTER = """
name: after
triggers: [{name: done, type: run, playbook: play}]
steps: [{name: a, run: [{action: log, message: hello}]}]
"""

FAILING = """
notify: {failed: [ops, audit], succeeded: audit}
input: {fails: {type: boolean, default: true}}
steps:
- {name: a, run: [{action: fail, if: "{{ fails }}", message: no rows}, {action: log, message: hello}]}
"""


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    store = MemoryStore()
    plan = compile_text(AFTER)
    store.plans.save(plan)
    playbook = RegisteredPlaybook("default", "after", None, plan.hash, 0.0)
    store.registry.register(playbook, triggers=plan.header.triggers)
    yield store


def entries_of(store: MemoryStore) -> list[OutboxEntry]:
    return store.outbox.due(list(OutboxKind), 1e12, 100)


def channels_of(store: MemoryStore) -> list[tuple[str, str]]:
    """Return the channel and the event of each notification, in order."""
    found = [entry.record for entry in entries_of(store) if entry.kind is OutboxKind.NOTIFICATION]
    return sorted((record["channel"], record["event"]) for record in found)


def test_an_end_writes_one_entry_for_triggers_and_one_for_each_channel(store: MemoryStore) -> None:
    run = RunHarness(store, FAILING, origin="service").finish()
    assert channels_of(store) == [("audit", "failed"), ("ops", "failed")]
    kinds = [entry.kind for entry in entries_of(store)]
    assert sorted(kinds) == [OutboxKind.NOTIFICATION, OutboxKind.NOTIFICATION, OutboxKind.RUN_ENDED]
    assert {entry.record["run_id"] for entry in entries_of(store)} == {run.id}
    assert {entry.created_at for entry in entries_of(store)} == {run.run.finished_at}


def test_a_channel_of_the_operator_receives_ends_of_all_playbooks(store: MemoryStore) -> None:
    channel = Channel("default", "all", "webhook", "https://example.org", 0.0, events=("succeeded",))
    assert store.channels.put(channel, None)
    RunHarness(store, FAILING, {"fails": False}, origin="service").finish()
    assert channels_of(store) == [("all", "succeeded"), ("audit", "succeeded")]


def test_a_local_run_notifies_no_channel(store: MemoryStore) -> None:
    RunHarness(store, FAILING).finish()
    assert entries_of(store) == []


def test_a_resumed_run_that_ends_again_writes_further_entries(store: MemoryStore) -> None:
    run = RunHarness(store, FAILING, origin="service").finish()
    run.resume(fails=False).finish()
    assert channels_of(store) == [("audit", "failed"), ("audit", "succeeded"), ("ops", "failed")]
    assert sum(entry.kind is OutboxKind.RUN_ENDED for entry in entries_of(store)) == 2
