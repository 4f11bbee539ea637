"""Whether a table holds what it must: the questions of `noetl.executor.stores.sql.consistency`, asked of items.

The table is read through once for what belongs to nothing. Each run is then read for itself. A table is not read at one
moment, so what seems wrong with a run counts when it is still so after a while.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from noetl.executor.errors import StoreError
from noetl.executor.model.run import DEADLINE, NEVER, RunStatus, VisitStatus
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.run_items import is_over
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, read_snapshot
from noetl.executor.stores.dynamo.visit_items import ACTIVE, VisitItem
from noetl.executor.stores.finding import Finding
from noetl.executor.stores.sql.consistency import limited
from noetl.executor.stores.sqs.messages import MessageQueue

LOOKS = 3
BETWEEN_SECONDS = 0.3

_TOLD = ("pk", "sk", "run", "plan", "parent", "expires", "version", "removed")
_DONE = (VisitStatus.SUCCEEDED, VisitStatus.FAILED)
_COMPLETE = (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS)


class ConsistencyCheck:
    """Examines a store."""

    def __init__(self, core: DynamoContext) -> None:
        self._core = core

    def check_consistency(self) -> list[Finding]:
        """What is wrong with the store. Runs may be at work meanwhile; nothing is written."""
        found = _TableScan()
        for item in self._core.table.scan(_TOLD):
            found.note(item)
        ids = sorted(found.heads)
        told = [*self._beside(), *found.findings()]
        for findings in self._core.in_parallel(self._examine_run, ids):
            told += findings
        return limited(told)

    def _beside(self) -> Iterable[Finding]:
        """What is wrong with the bucket and the queue that stand beside the table."""
        looks = {"bucket": self._core.blobs.check_access}
        if isinstance(self._core.messages, MessageQueue):
            looks["queue"] = self._core.messages.check_access
        for check, look in looks.items():
            try:
                look()
            except StoreError as error:
                yield Finding(check, str(error))

    def _examine_run(self, run_id: str) -> list[Finding]:
        head = self._core.table.get(keys.head(run_id))
        lacking = None if head is None else self._without_plan(head)
        if lacking is not None:
            # Nothing else can be known of a run without its plan.
            return [lacking]
        found: list[Finding] = []
        for look in range(LOOKS):
            if look:
                time.sleep(BETWEEN_SECONDS)
            whole = read_snapshot(self._core, run_id)
            seen = [] if whole is None else list(self._findings(whole))
            found = seen if look == 0 else [one for one in found if one in seen]
            if not found:
                break
        return found

    def _without_plan(self, head: Item) -> Finding | None:
        if self._core.table.get(keys.plan(head["plan"])) is not None:
            return None
        run_id = head["pk"][2:]
        return Finding(
            "unknown plans", f"run {run_id} of `{head['playbook']}` has a plan that is not there", run_id
        )

    def _findings(self, whole: RunSnapshot) -> Iterable[Finding]:
        head = whole.head
        run_id, status = head["pk"][2:], RunStatus(head["status"])
        left = [one for one in whole.shown if one.visit.status in ACTIVE and one.visit.step != DEADLINE]
        if not is_over(head) and not left:
            message = f"run {run_id} has not ended, and nothing is left that could go on with it"
            yield Finding("stuck", message, run_id)
        elif not is_over(head) and not any(self._goes_on(one) for one in left):
            yield Finding(
                "waits in vain", f"run {run_id} waits, and nobody can give the answer any more", run_id
            )
        for record in left if is_over(head) else ():
            message = f"run {run_id} has ended, and step `{record.visit.step}` is still to be done"
            yield Finding("goes on after its end", message, run_id)
        is_complete = status in _COMPLETE
        for join, live in sorted(whole.counts.joins.items()):
            if live < 0 or (live > 0 and is_complete):
                message = f"run {run_id} counts {live} branches on the way to the join `{join}`"
                yield Finding("counters of joins", message, run_id)
        live = whole.counts.live
        if live < 0 or (live > 0 and is_complete):
            yield Finding("counters of runs", f"run {run_id} counts {live} branches", run_id)
        for join in sorted(join for join, came in whole.counts.arrived.items() if came and is_complete):
            message = f"run {run_id} has ended, and branches still stand before the join `{join}`"
            yield Finding("arrivals", message, run_id)
        if is_over(head) != status.is_final:
            message = f"run {run_id} is {status}, which does not go with whether it has an end"
            yield Finding("endings of runs", message, run_id)
        for record in whole.records:
            visit = record.visit
            if (visit.finished_at is not None) != (visit.status in _DONE):
                message = (
                    f"run {run_id} has a visit of `{visit.step}` that is {visit.status}, which does not go with whether it"
                    " has an end"
                )
                yield Finding("endings of visits", message, run_id)
        if "parent" in head and self._core.table.get(keys.head(head["parent"][0])) is None:
            message = f"run {run_id} belongs to run {head['parent'][0]}, which is not there"
            yield Finding("unknown parents", message, run_id)

    def _goes_on(self, record: VisitItem) -> bool:
        """Whether a visit is due some time, or somebody can answer what it waits for."""
        visit = record.visit
        if visit.due_at < NEVER:
            return True
        if visit.status is not VisitStatus.WAITING:
            return False
        pk = keys.visit(visit.run_id, visit.id, self._core.spread(visit.run_id)).pk
        waits = self._core.table.query(pk, f"W#{visit.id}#")
        if any("answered" not in wait and "closed" not in wait for wait in waits):
            return True
        links = self._core.table.query(keys.partition_key(visit.run_id), f"K#{visit.id}#")
        heads = self._core.table.get_many([keys.head(link["sk"].split("#", 2)[2]) for link in links])
        return any(not is_over(head) for head in heads.values())


@dataclass(slots=True)
class _TableScan:
    """Which runs and plans there are, and which items belong to which."""

    heads: set[str] = field(default_factory=set)
    plans: set[str] = field(default_factory=set)
    of_runs: dict[str, set[str]] = field(default_factory=dict)
    of_plans: dict[str, str] = field(default_factory=dict)

    def note(self, item: Item) -> None:
        kind, _, rest = item["pk"].partition("#")
        if "expires" in item:
            return
        if kind == "R" and item["sk"] == "H":
            self.heads.add(rest)
        elif kind == "R":
            self.of_runs.setdefault(rest.partition("#")[0], set()).add(item["sk"].partition("#")[0])
        elif kind in ("T", "I"):
            self.of_runs.setdefault(item["run"], set()).add(kind)
        elif kind == "P":
            self.plans.add(rest)
        elif kind == "B" and item["sk"].startswith("V#") and "removed" not in item:
            name = rest.partition(".")[2][int(rest.partition(".")[0]) :]
            self.of_plans.setdefault(
                item["plan"], f"version {item['version']} of playbook `{name}` has a plan that is not there"
            )

    def findings(self) -> Iterable[Finding]:
        for run_id in sorted(self.of_runs.keys() - self.heads):
            for kind in sorted(self.of_runs[run_id]):
                message = f"`{_KINDS.get(kind, kind)}` holds rows of run {run_id}, which is not there"
                yield Finding("unknown runs", message, run_id)
        for plan in sorted(self.of_plans.keys() - self.plans):
            yield Finding("unknown plans", self.of_plans[plan])


_KINDS = {
    "C": "counters",
    "E": "history",
    "I": "idempotency keys",
    "J": "joins",
    "K": "children",
    "N": "visit counts",
    "P": "parts",
    "T": "tokens",
    "V": "visits",
    "W": "waits",
    "X": "past",
}
