"""Consistency checks of a DynamoDB store: the checks of `sql/consistency.py`, on items.

Problem: a scan does not read the table as of one moment, so an active run may look inconsistent.

Algorithm: reference checking, as in fsck (McKusick and Kowalski 1994). One scan finds items that belong to
no run and no plan. Each run is then read by itself. A finding about a run is reported if it is found again
in each of CHECKS_PER_RUN reads.

Cost: one scan of the table, and one read of each run, or CHECKS_PER_RUN reads of a run with findings. Two
reads and a query for each tenant with triggers. Reads of all gates and slots (`gate_checks.py`). Then a
request to the bucket for each of up to MAX_CHECKED_PAYLOADS values of open runs.

Limits: an inconsistency that lasts longer than the reads of an active run is reported although it would
vanish.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from noetl.executor.errors import StoreError
from noetl.executor.model.gates import GateKey
from noetl.executor.model.run import DEADLINE, NEVER, RunStatus, Visit, VisitStatus
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import NO_BUCKET, is_in_bucket
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.due_index import DueIndex
from noetl.executor.stores.dynamo.gate_checks import (
    Differences,
    confirmed_findings,
    find_gate_differences,
)
from noetl.executor.stores.dynamo.playbooks import decode_aliases
from noetl.executor.stores.dynamo.run_items import has_ended, is_paused, run_id_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, read_snapshot
from noetl.executor.stores.dynamo.slot_returns import QueuedSuspension
from noetl.executor.stores.dynamo.triggers import find_wrong_lookups
from noetl.executor.stores.finding import (
    LOST_TRIGGER,
    UNKNOWN_PLAN_OF_VERSION,
    CheckedRun,
    Finding,
    find_contradictions,
    finding_of_run,
    limit_findings,
)
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.planner.catalogue import LIVE

CHECKS_PER_RUN = 3
MAX_CHECKED_PAYLOADS = 1_000
"""The number of values of open runs whose objects are looked up in the bucket."""

PAUSE_SECONDS = 0.3
"""Pause between two reads of a run."""

_SCANNED = ("pk", "sk", "run", "plan", "parent", "expires", "version", "removed", "aliases", "at")


class ConsistencyCheck:
    """A consistency check of a table, its bucket and its queue."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def check_consistency(self) -> list[Finding]:
        """Return all inconsistencies. Runs may be active meanwhile; nothing is written."""
        scan = _TableScan()
        for item in self._context.table.scan(_SCANNED):
            scan.add(item)
        findings = [*self._check_services(), *scan.findings()]
        for tenant in sorted(scan.tenants_with_lookups):
            findings += self._check_lookups(tenant)
        findings += self._check_gates(scan)
        payloads: list[_Payload] = []
        for findings_of_run, payloads_of_run in self._context.in_parallel(
            self._check_run, sorted(scan.heads)
        ):
            findings += findings_of_run
            payloads += payloads_of_run
        if "bucket" not in {finding.check for finding in findings}:
            findings += self._check_payloads(payloads)
        return limit_findings(findings)

    def _check_payloads(self, payloads: Sequence[_Payload]) -> Iterable[Finding]:
        """Yield findings about values of open runs that are not in the bucket, of MAX_CHECKED_PAYLOADS."""
        if payloads and self._context.blobs.bucket is None:
            yield Finding("bucket", NO_BUCKET)
            return
        checked = payloads[:MAX_CHECKED_PAYLOADS]
        exist = self._context.in_parallel(
            lambda payload: self._context.blobs.has_object(payload.stored), checked
        )
        for payload, exists in zip(checked, exist, strict=True):
            if not exists:
                key = payload.stored[1:].decode("ascii")
                counts = {"checked": len(checked), "count": len(payloads)}
                yield finding_of_run("lost payloads", payload.run_id, key=key, **counts)

    def _check_lookups(self, tenant: str) -> list[Finding]:
        """Return findings about triggers and what leads to them, which CHECKS_PER_RUN reads have found."""
        confirmed = find_wrong_lookups(self._context, tenant)
        for _ in range(1, CHECKS_PER_RUN):
            if not confirmed:
                break
            time.sleep(PAUSE_SECONDS)
            again = find_wrong_lookups(self._context, tenant)
            confirmed = [message for message in confirmed if message in again]
        return [Finding("lookups of triggers", message) for message in confirmed]

    def _check_gates(self, scan: _TableScan) -> list[Finding]:
        """Return findings about gates and slots that CHECKS_PER_RUN reads have found."""
        reads: list[Differences] = []
        while len(reads) < CHECKS_PER_RUN and (not reads or reads[-1]):
            time.sleep(PAUSE_SECONDS if reads else 0.0)
            reads.append(find_gate_differences(self._context, scan.gates, scan.slots))
        return confirmed_findings(reads)

    def _check_services(self) -> Iterable[Finding]:
        """Yield findings about the bucket, the index of due visits and the queue of the store."""
        checks = {
            "bucket": self._context.blobs.check_access,
            "index": DueIndex(self._context).check_access,
        }
        if isinstance(self._context.announcer.message_queue, MessageQueue):
            checks["queue"] = self._context.announcer.message_queue.check_access
        for name, check_access in checks.items():
            try:
                check_access()
            except StoreError as error:
                yield Finding(name, str(error))

    def _check_run(self, run_id: str) -> tuple[list[Finding], list[_Payload]]:
        """Return the findings about a run, and its values in the bucket if it is open."""
        head = self._context.table.get(keys.head(run_id))
        if head is not None and "damage" in head:
            return [finding_of_run("set aside", run_id, reason=head["damage"])], []
        if head is not None and self._context.table.get(keys.plan(head["plan"])) is None:
            # Without its plan, nothing else can be checked.
            return [finding_of_run("unknown plans", run_id, playbook=head["playbook"])], []
        confirmed: list[Finding] = []
        payloads: list[_Payload] = []
        for check in range(CHECKS_PER_RUN):
            if check:
                time.sleep(PAUSE_SECONDS)
            snapshot = read_snapshot(self._context, run_id)
            findings = [] if snapshot is None else list(self._findings(snapshot))
            payloads = [] if snapshot is None else _payloads_of(snapshot)
            confirmed = findings if check == 0 else [finding for finding in confirmed if finding in findings]
            if not confirmed:
                break
        return confirmed, payloads

    def _findings(self, snapshot: RunSnapshot) -> Iterable[Finding]:
        head, counts = snapshot.head, snapshot.counts
        run_id, current = head["pk"][2:], [item.visit for item in snapshot.current_items]
        run = CheckedRun(
            run_id,
            RunStatus.PAUSED if is_paused(head) else RunStatus(head["status"]),
            has_ended(head),
            [item.visit for item in snapshot.items],
            [visit for visit in current if visit.status in ACTIVE and visit.step != DEADLINE],
            counts.live,
            counts.joins,
            [join for join, arrivals in counts.arrivals.items() if arrivals],
        )
        yield from find_contradictions(run, self._can_continue)
        if "parent" in head and self._context.table.get(keys.head(head["parent"][0])) is None:
            yield finding_of_run("unknown parents", run_id, parent_run=head["parent"][0])

    def _can_continue(self, visit: Visit) -> bool:
        """Return whether a visit is due some time, or an answer to it can still arrive."""
        if visit.due_at < NEVER:
            return True
        if visit.status is not VisitStatus.WAITING:
            return False
        pk = keys.visit(visit.run_id, visit.id, self._context.heads.spread(visit.run_id)).pk
        if QueuedSuspension(self._context.table, visit.run_id, visit.id, "").is_queued:
            return True
        waits = self._context.table.query(pk, f"W#{visit.id}#")
        if any("answered" not in wait and "closed" not in wait for wait in waits):
            return True
        links = self._context.table.query(keys.partition_key(visit.run_id), f"K#{visit.id}#")
        heads = self._context.table.get_many([keys.head(link["sk"].split("#", 2)[2]) for link in links])
        return any(not has_ended(head) for head in heads.values())


@dataclass(frozen=True, slots=True)
class _Payload:
    """A value of a run that its bucket holds."""

    run_id: str
    stored: bytes


def _payloads_of(snapshot: RunSnapshot) -> list[_Payload]:
    """Return the different values in the bucket that an open run names, in the order of its visits."""
    head = snapshot.head
    if has_ended(head):
        return []
    values = [head.get("given"), snapshot.counter.get("stack")]
    values += [item.attributes.get(name) for item in snapshot.items for name in ("told", "gave")]
    values += [item.attributes["fails"][0] for item in snapshot.items if "fails" in item.attributes]
    run_id = run_id_of(head)
    return [_Payload(run_id, value) for value in dict.fromkeys(values) if value and is_in_bucket(value)]


@dataclass(slots=True)
class _TableScan:
    """The runs and plans of a table, and the items that refer to them.

    A sweep will delete the items of the runs in `deleted`.
    """

    heads: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    plans: set[str] = field(default_factory=set)
    kinds_by_run: dict[str, set[str]] = field(default_factory=dict)
    messages_by_plan: dict[str, str] = field(default_factory=dict)
    live: dict[tuple[str, str], str] = field(default_factory=dict)
    triggers: dict[tuple[str, str, str], str] = field(default_factory=dict)
    tenants_with_lookups: set[str] = field(default_factory=set)
    gates: set[GateKey] = field(default_factory=set)
    slots: set[keys.ItemKey] = field(default_factory=set)

    def add(self, item: Item) -> None:
        """Add an item of the scan; items that will expire are ignored."""
        kind, _, rest = item["pk"].partition("#")
        if kind == "G":
            self.deleted.add(rest)
        if "expires" in item:
            return
        if kind in ("R", "T", "I"):
            self._add_part_of_run(item, kind, rest)
        elif kind == "X":
            self.gates.add(GateKey(item["sk"], rest))
        elif kind == "P" and item["sk"] != "U":
            self.plans.add(rest)
        elif kind == "B" and item["sk"].startswith("V#") and "removed" not in item:
            name = rest.partition(".")[2][int(rest.partition(".")[0]) :]
            message = UNKNOWN_PLAN_OF_VERSION.format(version=item["version"], name=name)
            self.messages_by_plan.setdefault(item["plan"], message)
        elif kind == "B" and "version" in item:
            self.live[rest, item["sk"][2:]] = decode_aliases(item).get(LIVE, item)["version"]
        elif kind == "L":
            playbook, _, name = item["sk"][2:].partition("\x00")
            self.triggers[rest, playbook, name] = item["version"]
            self.tenants_with_lookups.add(rest)
        elif kind == "H":
            self.tenants_with_lookups.add(rest.rpartition("#")[0])
        elif kind == "C" and item["sk"] == "S":
            self.tenants_with_lookups.add(rest)

    def _add_part_of_run(self, item: Item, kind: str, rest: str) -> None:
        if kind != "R":
            self.kinds_by_run.setdefault(item["run"], set()).add(kind)
        elif item["sk"] == "H":
            self.heads.add(rest)
        else:
            self.kinds_by_run.setdefault(rest.partition("#")[0], set()).add(item["sk"].partition("#")[0])
            if item["sk"].startswith(keys.slot_prefix()) and "at" in item:
                self.slots.add(keys.ItemKey(item["pk"], item["sk"]))

    def findings(self) -> Iterable[Finding]:
        """Yield findings about items of unknown runs and plans."""
        for run_id in sorted(self.kinds_by_run.keys() - self.heads - self.deleted):
            for kind in sorted(self.kinds_by_run[run_id]):
                yield finding_of_run("unknown runs", run_id, table=_KINDS.get(kind, kind))
        for plan_hash in sorted(self.messages_by_plan.keys() - self.plans):
            yield Finding("unknown plans", self.messages_by_plan[plan_hash])
        for (tenant, playbook, name), version in sorted(self.triggers.items()):
            if self.live.get((tenant, playbook)) != version:
                message = LOST_TRIGGER.format(name=name, version=version, playbook=playbook)
                yield Finding("lost triggers", message)


_KINDS = {
    "C": "counters",
    "E": "history",
    "I": "idempotency keys",
    "J": "joins",
    "K": "children",
    "N": "visit counts",
    "P": "parts",
    "S": "slots",
    "T": "tokens",
    "V": "visits",
    "W": "waits",
    "X": "events of claims",
}
"""Names of the kinds of items in messages, by the first letter of the sort key or the partition key."""
