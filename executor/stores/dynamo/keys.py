"""Primary keys of the items in the table.

The page docs/how-it-works/dynamodb.md lists which request reads which item.

Problem: a run whose plan forks into a thousand branches must not write to one partition, which accepts 1,000
write units a second.

Algorithm: write sharding. Source: Amazon DynamoDB Developer Guide. All items of a run are in one partition,
or are spread over up to MAX_PARTITIONS. A visit is in the partition that the hash of its id selects. The
`spread` of a run is the number of its partitions.

Cost: a read of the whole run takes one query for each partition.

Limits: the spread follows from the plan and never changes for a run. One transaction reads all counters of a
run, so MAX_PARTITIONS is below the 100 items that a transaction may have.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.gates import GateKey, SlotOwner
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import SERVICE_QUEUE

MAX_PARTITIONS = 64
"""Largest spread of a run: one transaction reads and writes a counter of each partition."""

BRANCHES_PER_PARTITION = 16
"""Number of branches of a fork that share a partition of their run."""

SHARDS = 8
"""Number of partitions of an index for the runs of a tenant, and for the unfinished runs of the service.

Each accepts a thousand writes a second.
"""

PATH_SHARDS = 16
"""Number of items that share the paths of webhooks of a tenant.

One transaction writes all of them, next to the triggers of two versions.
"""


class ItemKey(NamedTuple):
    """The primary key of an item: partition key and sort key."""

    pk: str
    sk: str


SENT_WAKEUPS = ItemKey("S#due", "S")
"""Key of the item that says up to which time the sweep has sent messages about visits in the index `due`."""

PLAN_DELETION = ItemKey("S#plans", "S")
"""Key of the item that says how far the deletion of unused plans is."""

LATE_EXPIRY = ItemKey("S#expiry", "S")
"""Key of the item that says how far the expiry of runs is that ended without a retention."""

DELETIONS = "deletions"
"""Partition of the index `due` with the records of deletions."""

TRIGGERS = "triggers"
"""Partition of the index `due` with the triggers that are due some time."""

OUTBOX_PREFIX = "Y#"
"""The begin of the partition keys of entries of the outbox. The id follows."""

END_OF_TEXTS = "\U0010ffff"
"""Text after all sort keys."""

SCHEMA = ItemKey("S#schema", "S")
"""Key of the item that holds the schema version of the table."""


def partition_key(run_id: str, number: int = 0) -> str:
    """Return the partition key of one partition of a run.

    >>> partition_key("r"), partition_key("r", 3)
    ('R#r', 'R#r#3')
    """
    return f"R#{run_id}" if number == 0 else f"R#{run_id}#{number}"


def partition_of_visit(visit_id: str, spread: int) -> int:
    """Return the number of the partition that holds a visit, in a run with this spread."""
    if spread == 1:
        return 0
    return int.from_bytes(hashlib.blake2b(visit_id.encode(), digest_size=4).digest(), "big") % spread


def head(run_id: str) -> ItemKey:
    """Return the key of the head: the run without its visits."""
    return ItemKey(partition_key(run_id), "H")


def counter(run_id: str, number: int) -> ItemKey:
    """Return the key of the branch counter of a partition."""
    return ItemKey(partition_key(run_id, number), "C")


def visit(run_id: str, visit_id: str, spread: int) -> ItemKey:
    """Return the key of a visit."""
    return ItemKey(_visit_partition(run_id, visit_id, spread), f"V#{visit_id}")


def claim_events(run_id: str, visit_id: str, fence: int, spread: int) -> ItemKey:
    """Return the key of the events of a claim that ended in a retry or a suspension."""
    return ItemKey(_visit_partition(run_id, visit_id, spread), f"X#{visit_id}#{fence:08d}")


def renewal_events(run_id: str, visit_id: str, fence: int, first: int, spread: int) -> ItemKey:
    """Return the key of the events that a renewal has written; `first` is the index of the first in its
    claim.
    """
    pk, sk = claim_events(run_id, visit_id, fence, spread)
    return ItemKey(pk, f"{sk}#{first:08d}")


def wait(run_id: str, visit_id: str, id: str, spread: int) -> ItemKey:
    """Return the key of a wait of a visit."""
    return ItemKey(_visit_partition(run_id, visit_id, spread), f"W#{visit_id}#{id}")


def loop_part(run_id: str, visit_id: str, loop: str, first: int, spread: int) -> ItemKey:
    """Return the key of the results of a loop batch; `first` is the index of its first item."""
    return ItemKey(_visit_partition(run_id, visit_id, spread), f"P#{visit_id}#{loop}#{first:012d}")


def join(run_id: str, step: str) -> ItemKey:
    """Return the key of the state of a join."""
    return ItemKey(partition_key(run_id), f"J#{step}")


def visit_count(run_id: str, step: str) -> ItemKey:
    """Return the key of the number of visits of a step by branches of a run that has forked."""
    return ItemKey(partition_key(run_id), f"N#{step}")


def child(run_id: str, visit_id: str, child_id: str) -> ItemKey:
    """Return the key of the link to a child run."""
    return ItemKey(partition_key(run_id), f"K#{visit_id}#{child_id}")


def child_prefix(visit_id: str | None = None) -> str:
    """Return what the sort keys of links to child runs begin with: those of a visit, or of all visits."""
    return "K#" if visit_id is None else f"K#{visit_id}#"


def child_runs(root: str, number: int) -> ItemKey:
    """Return the key of one of the counters of the child runs of a root."""
    return ItemKey(f"D#{root}#{number}", "D")


def byte_count(run_id: str, kind: ByteKind) -> ItemKey:
    """Return the key of the number of bytes that a run has logged or written."""
    return ItemKey(partition_key(run_id), f"B#{kind}")


def history_page(run_id: str, number: int) -> ItemKey:
    """Return the key of a page of the history, as its first reader has ordered it."""
    return ItemKey(partition_key(run_id), f"E#{number:08d}")


def deletion(run_id: str) -> ItemKey:
    """Return the key of the record of the deletion of a run."""
    return ItemKey(f"G#{run_id}", "G")


def plan(plan_hash: str, block: int = 0) -> ItemKey:
    """Return the key of one block of a plan."""
    return ItemKey(f"P#{plan_hash}", f"B#{block:04d}")


def plan_use(plan_hash: str) -> ItemKey:
    """Return the key of the use of a plan."""
    return ItemKey(f"P#{plan_hash}", "U")


def token(token_hash: str) -> ItemKey:
    """Return the key of a token that answers a wait."""
    return ItemKey(f"T#{token_hash}", "T")


def idempotency(tenant: str, key: str) -> ItemKey:
    """Return the key of an idempotency key of a tenant."""
    text = f"{len(tenant)}.{tenant}{key}".encode("utf-8", "surrogatepass")
    return ItemKey(f"I#{hashlib.sha256(text).hexdigest()}", "I")


def playbook(tenant: str, name: str) -> ItemKey:
    """Return the key of the newest version of a playbook; sort keys are in the order of names."""
    return ItemKey(f"B#{tenant}", f"N#{name}")


def version(tenant: str, name: str, version: str) -> ItemKey:
    """Return the key of one version of a playbook."""
    return ItemKey(f"B#{len(tenant)}.{tenant}{name}", f"V#{version}")


def trigger(tenant: str, playbook: str, name: str) -> ItemKey:
    """Return the key of a trigger; sort keys are in the order of playbooks and names."""
    return ItemKey(f"L#{tenant}", f"T#{playbook}\x00{name}")


def triggers(tenant: str, playbook: str | None = None) -> tuple[str, str]:
    """Return the partition of the triggers of a tenant, and the prefix of all, or of those of a playbook."""
    return f"L#{tenant}", "T#" if playbook is None else f"T#{playbook}\x00"


def firing(tenant: str, playbook: str, name: str, position: str) -> ItemKey:
    """Return the key of a firing of a trigger; sort keys are in the order of firings."""
    text = f"{len(tenant)}.{tenant}{len(playbook)}.{playbook}{name}".encode("utf-8", "surrogatepass")
    return ItemKey(f"F#{hashlib.sha256(text).hexdigest()}", position)


def path_shard(tenant: str, path: str) -> ItemKey:
    """Return the key of the item with a path of a webhook, of PATH_SHARDS for each tenant."""
    number = hashlib.blake2b(path.encode(), digest_size=4).digest()[0] % PATH_SHARDS
    return ItemKey(f"H#{tenant}#{number}", "P")


def path_shards(tenant: str) -> list[ItemKey]:
    """Return the keys of all items with paths of a tenant."""
    return [ItemKey(f"H#{tenant}#{number}", "P") for number in range(PATH_SHARDS)]


def outbox_entry(tenant: str, id: str) -> ItemKey:
    """Return the key of an entry of the outbox. Its sort key is its tenant."""
    return ItemKey(f"{OUTBOX_PREFIX}{id}", tenant)


def outbox_kind(kind: str) -> str:
    """Return the partition of the index `due` with the entries of a kind that are due some time."""
    return f"outbox#{kind}"


def outbox_list(tenant: str, kind: str) -> str:
    """Return the partition of the index `runs` with the entries of a kind of a tenant."""
    return f"outbox#{kind}#{tenant}"


def channel(tenant: str, name: str) -> ItemKey:
    """Return the key of a channel; sort keys are in the order of names."""
    return ItemKey(f"C#{tenant}", f"N#{name}")


def subscribers(tenant: str) -> ItemKey:
    """Return the key of the item with the triggers and channels that ends of runs of a tenant concern."""
    return ItemKey(f"C#{tenant}", "S")


def debounced(key: str) -> ItemKey:
    """Return the key of the item that names the pending run of starts with a key, which is a digest."""
    return ItemKey(f"J#{key}", "J")


def joined_request(run_id: str, request: ItemKey) -> ItemKey:
    """Return the key of the link from a run to the idempotency key of a start that has joined it."""
    return ItemKey(partition_key(run_id), f"I#{request.pk}")


def gate(key: GateKey) -> ItemKey:
    """Return the key of a gate; sort keys are in the order of ids."""
    return ItemKey(f"X#{key.tenant}", key.id)


def slot(gate: GateKey, owner: SlotOwner) -> ItemKey:
    """Return the key of a slot, in the first partition of its run."""
    return ItemKey(partition_key(owner.run_id), f"{slot_prefix(owner.visit_id)}{derived_id(*gate)}")


def slot_prefix(visit_id: str | None = None) -> str:
    """Return what the sort keys of slots begin with: those of a visit, or of all owners. A run has no id."""
    return "S#" if visit_id is None else f"S#{visit_id}#"


def queue(gate: GateKey) -> str:
    """Return the partition of the flows and the tickets of a gate."""
    return f"Z#{gate.tenant}#{gate.id}"


def flow(gate: GateKey, name: str) -> ItemKey:
    """Return the key of a flow of a gate."""
    return ItemKey(queue(gate), f"F#{name}")


def ticket(gate: GateKey, name: str, place: str) -> ItemKey:
    """Return the key of a place in a flow of a gate; sort keys are in the order of flows and places."""
    return ItemKey(queue(gate), f"T#{name}\x00{place}")


def gate_shard(gate: GateKey) -> str:
    """Return the partition of a gate with a queue in the index `due`, of SHARDS for all gates."""
    return shard("gates", "#".join(gate))


def gate_shards() -> list[str]:
    """Return all partitions of gates in the index `due`."""
    return shards("gates")[1:]


def held_slots(gate: GateKey) -> str:
    """Return the partition of the slots that are held at a gate, in the index `due`."""
    return f"slots#{gate.tenant}#{gate.id}"


def cached_result(tenant: str, digest: str) -> ItemKey:
    """Return the key of a cached result of work."""
    text = f"{len(tenant)}.{tenant}{digest}".encode("utf-8", "surrogatepass")
    return ItemKey(f"M#{hashlib.sha256(text).hexdigest()}", "M")


def cache_shard(tenant: str, digest: str) -> str:
    """Return the partition of a cached result in the index `due`, of SHARDS for each tenant."""
    return shard(f"cache#{tenant}", digest)


def cache_shards(tenant: str) -> list[str]:
    """Return all partitions of the cached results of a tenant in the index `due`."""
    return shards(f"cache#{tenant}")[1:]


def request_count(subject: str, place: int) -> ItemKey:
    """Return the key of the requests of a caller in one slot of time."""
    return ItemKey(f"Q#{subject}", f"{place:02d}")


ANY_API_KEY = ItemKey("A#", "any")
"""Key of the item that exists if the table was ever given an API key."""


def api_key(id: str) -> ItemKey:
    """Return the key of an API key."""
    return ItemKey(f"A#{id}", "A")


def api_key_link(tenant: str, created_at: float, id: str) -> ItemKey:
    """Return the key of the link from a tenant to its API key; sort keys are in the order of creation."""
    return ItemKey(f"O#{tenant}", f"A#{creation_sort_key(created_at, id)}")


def shard(owner: str, run_id: str) -> str:
    """Return the index partition of a run; `owner` is its tenant, or the queue of the service."""
    number = hashlib.blake2b(run_id.encode(), digest_size=4).digest()[0] % SHARDS
    return f"{owner}#{number}"


def shards(owner: str) -> list[str]:
    """Return all index partitions of an owner.

    The first, without a number, holds the runs of versions that did not spread them.

    >>> shards("t")[:3]
    ['t', 't#0', 't#1']
    """
    return [owner, *(f"{owner}#{number}" for number in range(SHARDS))]


def open_shard(queue: str, run_id: str) -> str:
    """Return the partition of a run in the index of open runs. Queues of local runs are small and are not
    spread.
    """
    return shard(queue, run_id) if queue == SERVICE_QUEUE else queue


def due_shard(run_id: str) -> str:
    """Return the partition of the visits of a run in the index of due visits, which has SHARDS partitions."""
    return shard(SERVICE_QUEUE, run_id)


def wait_shard(tenant: str, run_id: str) -> str:
    """Return the partition of the open waits of a run in the index `due`, of SHARDS for each tenant."""
    return shard(f"waits#{tenant}", run_id)


def wait_shards(tenant: str) -> list[str]:
    """Return all partitions of the open waits of a tenant in the index `due`."""
    return shards(f"waits#{tenant}")[1:]


def plan_shard(plan_hash: str) -> str:
    """Return the partition of the use of a plan in the index `due`, which has SHARDS partitions for uses."""
    return shard("plans", plan_hash)


def plan_shards() -> list[str]:
    """Return all partitions of the uses of plans in the index `due`."""
    return shards("plans")[1:]


def asleep_shard(run_id: str) -> str:
    """Return the partition of a run in the index of open runs while it only waits, and no sweep reads it.

    >>> asleep_shard("r") == "asleep#" + shard(SERVICE_QUEUE, "r")
    True
    """
    return f"asleep#{shard(SERVICE_QUEUE, run_id)}"


def asleep_shards(queue: str) -> list[str]:
    """Return all partitions of the runs of a queue that only wait, in the index of open runs."""
    return [f"asleep#{name}" for name in shards(queue)[1:]] if queue == SERVICE_QUEUE else []


def open_shards(queue: str) -> list[str]:
    """Return all partitions of a queue in the index of open runs."""
    return shards(queue) if queue == SERVICE_QUEUE else [queue]


def creation_sort_key(created_at: float, run_id: str) -> str:
    """Return the sort key of a run in the indexes: its time of creation, then its id.

    >>> creation_sort_key(1.5, "r")
    '0000000000001.500000#r'
    """
    return f"{created_at:020.6f}#{run_id}"


def _visit_partition(run_id: str, visit_id: str, spread: int) -> str:
    return partition_key(run_id, partition_of_visit(visit_id, spread))
