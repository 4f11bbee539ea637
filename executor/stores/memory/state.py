"""The state of the store in memory: dictionaries of the records of the model, and one lock.

The author of a store decides here which tables it has, which of them belong to a run, and what makes a write
atomic. In memory there is no rollback. So each operation holds the lock, and checks everything before its
first change.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from noetl.executor.model.branch_stack import BranchStack
from noetl.executor.model.cached_results import CacheEntry, CacheHolder
from noetl.executor.model.channels import Channel
from noetl.executor.model.events import Event
from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Gate, GateKey, Slot, SlotOwner
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.metrics import FactTotal
from noetl.executor.model.outbox import OutboxEntry
from noetl.executor.model.registry import ApiKey, PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.run import Branch, Pointers, Run, Visit, Wait, WaitKey
from noetl.executor.model.run_transition import shown_status, unknown_run
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.triggers import Firing, LiveTrigger
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.model.visit_transition import is_held, is_waiting
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.cursors import write_event_id
from noetl.executor.stores.damage import missing_plan
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan


@dataclass
class RunRecord:
    """A run and everything that belongs to it. A deletion of the record deletes all of it.

    `visits` are in the order of their creation, and `entered_at` are its times. Of each join, `live` is the
    number of branches that can still reach it. `waves` is how often it has fired, and `clocks` the greatest
    clock of what it has waited for. `wait_ranks` has the waits with a token.
    `names_of_joins` are the names of the branch that left it last. `batches` are results of loops, by visit,
    loop and first item. In sequential mode, `stack` has the branches, and the joins have nothing.
    """

    run: Run
    visits: dict[str, Visit] = field(default_factory=dict)
    entered_at: dict[str, float] = field(default_factory=dict)
    visit_counts: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    live: Counter[str] = field(default_factory=Counter)
    waves: Counter[str] = field(default_factory=Counter)
    clocks: Counter[str] = field(default_factory=Counter)
    names_of_joins: dict[str, Pointers] = field(default_factory=dict)
    arrivals: dict[str, dict[str, Branch]] = field(default_factory=dict)
    batches: dict[str, dict[str, dict[int, Sequence[Any]]]] = field(default_factory=dict)
    waits: dict[WaitKey, Wait] = field(default_factory=dict)
    closed_waits: set[WaitKey] = field(default_factory=set)
    wait_ranks: dict[WaitKey, float] = field(default_factory=dict)
    stack: BranchStack | None = None
    damage: str | None = None
    has_own_pause: bool = False
    history: list[Event] = field(default_factory=list)

    def put(self, *visits: Visit) -> None:
        """Write visits, new or changed."""
        for visit in visits:
            self.visits[visit.id] = visit

    def delete_visits(self, *steps: str | None) -> None:
        """Delete the visits of steps."""
        for visit in [visit for visit in self.visits.values() if visit.step in steps]:
            del self.visits[visit.id]

    def find_active(self) -> list[Visit]:
        """Return the visits that are due now or later. A store needs an index of them by due time."""
        return [visit for visit in self.visits.values() if visit.status in ACTIVE]

    def append(self, events: Sequence[Event]) -> None:
        """Append events to the history. Their ids are in its order, in the form that cursors have."""
        for event in events:
            self.history.append(replace(event, id=write_event_id(self.run.id, (len(self.history) + 1, 0))))


@dataclass(frozen=True)
class RegistryEntry:
    """A version of a playbook. `number` orders versions; a removed one stays, so that it is never reused."""

    number: int
    playbook: RegisteredPlaybook
    is_removed: bool = False


@dataclass(frozen=True)
class CacheRecord:
    """An entry of the cache: the JSON of its result, if there is one, and the visit that computes another."""

    entry: CacheEntry
    text: str | None
    holder: CacheHolder | None


class WaitToken(NamedTuple):
    """The wait that a token answers, and the declared fields of the answer."""

    key: WaitKey
    declared: AnswerDeclaration | None


class MemoryState:
    """The records of the store, shared by its parts."""

    def __init__(self, limits: PayloadLimits, retention_seconds: float | None) -> None:
        self.limits = limits
        self.retention_seconds = retention_seconds
        self.clock: Callable[[], float] = time.time
        self.lock = threading.RLock()
        self.changes = ChangeSignal()
        self.work = ChangeSignal()
        self.plans: dict[str, Plan] = {}
        self.plan_uses: dict[str, float] = {}
        """Time of the last use of each plan. A store that writes it to a disk does so every ten minutes."""
        self.runs: dict[str, RunRecord] = {}
        self.idempotency_keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.debounced: dict[str, str] = {}
        """The run that starts with a key join while it is pending, by the key."""
        self.tokens: dict[str, WaitToken] = {}
        self.playbooks: dict[tuple[str, str], dict[str, RegistryEntry]] = {}
        self.aliases: dict[tuple[str, str], dict[str, PlaybookAlias]] = {}
        self.triggers: dict[tuple[str, str, str], LiveTrigger] = {}
        """Triggers by tenant, playbook and name."""
        self.firings: dict[tuple[str, str, str], dict[str, Firing]] = {}
        """Firings of each trigger, by their positions."""
        self.gates: dict[GateKey, Gate] = {}
        self.slots: dict[tuple[GateKey, SlotOwner], Slot] = {}
        self.flows: dict[tuple[GateKey, str], Flow] = {}
        self.outbox: dict[tuple[str, str], OutboxEntry] = {}
        """Entries of the outbox, by tenant and id."""
        self.channels: dict[tuple[str, str], Channel] = {}
        """Channels by tenant and name."""
        self.keys: dict[str, ApiKey] = {}
        self.request_counts: dict[str, dict[int, int]] = {}
        """Requests of each caller in the slots of its window."""
        self.cached_results: dict[tuple[str, str], CacheRecord] = {}
        """Results of work, by tenant and digest."""
        self.fact_totals: dict[str, dict[tuple[str, str, str, int], FactTotal]] = {}
        """Totals for metrics of each tenant, by label, kind, status and bucket."""
        self.child_runs: dict[str, tuple[int, float]] = {}
        """Number of child runs of each root, and the time of the last start."""

    @contextmanager
    def change_runs(self, due: int | None = None) -> Iterator[None]:
        """Run this block with the lock, and signal afterwards that runs changed and `due` visits are due.

        A store that several processes use sends these signals to all of them, or lets them poll.
        """
        with self.lock:
            yield
        self.work.notify(due)
        self.changes.notify()

    def plan(self, plan_hash: str) -> Plan:
        if plan_hash not in self.plans:
            raise missing_plan(plan_hash)
        return self.plans[plan_hash]

    def use_plan(self, plan_hash: str) -> None:
        """Record a use of a plan, which is then kept for an hour."""
        self.plan_uses[plan_hash] = self.clock()

    def record(self, run_id: str) -> RunRecord:
        if run_id not in self.runs:
            raise unknown_run(run_id)
        return self.runs[run_id]

    def delete_runs(self, run_ids: Collection[str]) -> None:
        """Delete runs with everything that belongs to them, and that is not in their records."""
        for run_id in run_ids:
            del self.runs[run_id]
            self.child_runs.pop(run_id, None)
        kept = self.runs.keys()
        self.tokens = {hash: token for hash, token in self.tokens.items() if token.key.run_id in kept}
        self.idempotency_keys = {k: entry for k, entry in self.idempotency_keys.items() if entry[1] in kept}
        self.debounced = {key: run_id for key, run_id in self.debounced.items() if run_id in kept}

    def find_held(self, run_id: str, visit_id: str, fence: int) -> tuple[RunRecord, Visit] | None:
        """Return the visit of a claim and its run, or None if the claim is lost.

        Every write of a claim checks this. A store without a lock writes under this condition instead.
        """
        record = self.runs.get(run_id)
        visit = None if record is None else record.visits.get(visit_id)
        return (record, visit) if record is not None and visit is not None and is_held(visit, fence) else None

    def find_active(self, queue: str) -> list[tuple[RunRecord, Visit]]:
        """Return the active visits of a queue with their runs, in the order in which they are due."""
        open_runs = (record for record in self.runs.values() if record.run.finished_at is None)
        records = (r for r in open_runs if r.run.queue == queue and r.damage is None)
        active = ((record, visit) for record in records for visit in record.find_active())
        return sorted(active, key=lambda entry: entry[1].due_at)


def shown_run(record: RunRecord) -> Run:
    """Return the run with the status that readers see."""
    active = [visit for visit in record.find_active() if not is_pseudo_step(visit.step)]
    waiting = sum(map(is_waiting, active))
    run = record.run
    return replace(run, status=shown_status(run.status, run.stop, len(active), waiting))
