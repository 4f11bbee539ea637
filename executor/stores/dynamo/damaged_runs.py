"""Damaged runs of a DynamoDB store: no message about them is claimed, and no sweep reads them.

Problem: a run that cannot be read fails each claim of its visits and each sweep.

Algorithm: the head gets the attribute `damage`. A run of the service moves to a partition of the index of
open runs that no sweep reads, as if it slept. A claim that finds the attribute ends, and its message is done.

Cost: one write of the head. A claim reads the head in any case.

Limits: the run is found again by a scan of the table, since it is rare.
"""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run import SERVICE_QUEUE
from noetl.executor.stores.damage import log_set_aside, reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.run_items import has_ended, run_id_of
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot

_SCANNED = ("pk", "sk", "damage")


def set_aside(context: DynamoContext, run_id: str, reason: str) -> bool:
    """Set a damaged run aside, and return False if it was before, or does not exist."""
    head = context.table.get(keys.head(run_id), ("pk", "sk", "queue", "plan", "open", "damage"))
    if head is None or "damage" in head:
        return False
    sets: Item = {"damage": reason}
    if "open" in head and head["queue"] == SERVICE_QUEUE:
        context.plan_uses.require(head["plan"])
        sets["open"] = keys.asleep_shard(run_id)
    is_new = (PRESENT, ("damage", "absent", None), ("finished", "absent", None))
    try:
        context.table.update(Update(keys.head(run_id), sets, when=is_new))
    except ConditionFailed:
        return False
    log_set_aside(run_id, reason)
    return True


def put_back(context: DynamoContext, now: float) -> list[str]:
    """Put all runs back that were set aside, announce their visits, and return the ids of the runs."""
    items = [item for item in context.table.scan(_SCANNED) if item["sk"] == "H" and "damage" in item]
    run_ids = sorted(run_id_of(item) for item in items)
    for run_id in run_ids:
        head = context.heads.read(run_id)
        sets: Item = {"damage": None}
        if "open" in head:
            context.plan_uses.require(head["plan"])
            sets["open"] = keys.open_shard(head["queue"], run_id)
        context.table.update(Update(keys.head(run_id), sets, when=(PRESENT,)))
        try:
            _announce(context, run_id, now)
        except DamagedRunError as error:
            set_aside(context, run_id, error.message)
    return run_ids


def _announce(context: DynamoContext, run_id: str, now: float) -> None:
    with reading_run(run_id):
        snapshot = read_snapshot(context, run_id)
        if snapshot is not None and not has_ended(snapshot.head):
            context.announcer.announce(snapshot.head, snapshot.active_items, now)
