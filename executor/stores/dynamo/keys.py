"""Under which keys the table keeps what: `docs/dynamodb.md` lists who asks for it.

Everything of a run lies under the run's id: in one partition, or spread over several where the plan forks widely, so that
a thousand branches do not write to one place.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from noetl.executor.model.run import SERVICE

MAX_PARTITIONS = 64
"""Over how many partitions a run is spread at most: one transaction reads and writes a counter of each."""

BRANCHES_PER_PARTITION = 16
"""How many branches of a fork share a partition of their run."""

SHARDS = 8
"""Over how many partitions of an index the runs of a tenant are spread, and those of the service that have not ended: each takes
a thousand writes a second.
"""


class ItemKey(NamedTuple):
    """The primary key of an item."""

    pk: str
    sk: str


SCHEMA = ItemKey("S#schema", "S")
"""Where a table says of which version its items are."""


def partition(run_id: str, number: int = 0) -> str:
    return f"R#{run_id}" if number == 0 else f"R#{run_id}#{number}"


def home_of(visit_id: str, spread: int) -> int:
    """The number of the partition that keeps a visit, in a run that is spread over so many."""
    if spread == 1:
        return 0
    return int.from_bytes(hashlib.blake2b(visit_id.encode(), digest_size=4).digest(), "big") % spread


def head(run_id: str) -> ItemKey:
    return ItemKey(partition(run_id), "H")


def counter(run_id: str, number: int) -> ItemKey:
    return ItemKey(partition(run_id, number), "C")


def visit(run_id: str, visit_id: str, spread: int) -> ItemKey:
    return ItemKey(partition(run_id, home_of(visit_id, spread)), f"V#{visit_id}")


def past(run_id: str, visit_id: str, fence: int, spread: int) -> ItemKey:
    """The history that a visit had when a claim of it ended without an outcome."""
    return ItemKey(partition(run_id, home_of(visit_id, spread)), f"X#{visit_id}#{fence:08d}")


def told(run_id: str, visit_id: str, fence: int, first: int, spread: int) -> ItemKey:
    """What a claim has told while it was at work, from its event with this index on."""
    pk, sk = past(run_id, visit_id, fence, spread)
    return ItemKey(pk, f"{sk}#{first:08d}")


def wait(run_id: str, visit_id: str, id: str, spread: int) -> ItemKey:
    return ItemKey(partition(run_id, home_of(visit_id, spread)), f"W#{visit_id}#{id}")


def part(run_id: str, visit_id: str, loop: str, first: int, spread: int) -> ItemKey:
    return ItemKey(partition(run_id, home_of(visit_id, spread)), f"P#{visit_id}#{loop}#{first:012d}")


def join(run_id: str, step: str) -> ItemKey:
    return ItemKey(partition(run_id), f"J#{step}")


def number(run_id: str, step: str) -> ItemKey:
    """How often a step was visited by branches of a run that has forked."""
    return ItemKey(partition(run_id), f"N#{step}")


def child(run_id: str, visit_id: str, child_id: str) -> ItemKey:
    return ItemKey(partition(run_id), f"K#{visit_id}#{child_id}")


def entry(run_id: str, number: int) -> ItemKey:
    """A page of the history, as its first reader has put it in order."""
    return ItemKey(partition(run_id), f"E#{number:08d}")


def plan(plan_hash: str, block: int = 0) -> ItemKey:
    return ItemKey(f"P#{plan_hash}", f"B#{block:04d}")


def token(token_hash: str) -> ItemKey:
    return ItemKey(f"T#{token_hash}", "T")


def idempotency(tenant: str, key: str) -> ItemKey:
    return ItemKey(
        f"I#{hashlib.sha256(f'{len(tenant)}.{tenant}{key}'.encode('utf-8', 'surrogatepass')).hexdigest()}",
        "I",
    )


def playbook(tenant: str, name: str) -> ItemKey:
    """The newest version of a playbook, in the order of names."""
    return ItemKey(f"B#{tenant}", f"N#{name}")


def version(tenant: str, name: str, version: str) -> ItemKey:
    return ItemKey(f"B#{len(tenant)}.{tenant}{name}", f"V#{version}")


ANY_API_KEY = ItemKey("A#", "any")
"""Where the table says that it was ever given an API key."""


def api_key(id: str) -> ItemKey:
    return ItemKey(f"A#{id}", "A")


def api_key_of(tenant: str, at: float, id: str) -> ItemKey:
    """Where a tenant finds its keys, the oldest first."""
    return ItemKey(f"O#{tenant}", f"A#{created(at, id)}")


def shard(of: str, run_id: str) -> str:
    """Under what an index keeps a run, which is one of a tenant or of the service."""
    number = hashlib.blake2b(run_id.encode(), digest_size=4).digest()[0] % SHARDS
    return f"{of}#{number}"


def shards(of: str) -> list[str]:
    """Under what an index keeps the runs of a tenant or of the service: spread, and those of before under the name itself."""
    return [of, *(f"{of}#{number}" for number in range(SHARDS))]


def open_under(queue: str, run_id: str) -> str:
    """Under what the index of open runs keeps a run of a queue. Queues of local runs hold few."""
    return shard(queue, run_id) if queue == SERVICE else queue


def open_in(queue: str) -> list[str]:
    """Under what the index of open runs keeps those of a queue."""
    return shards(queue) if queue == SERVICE else [queue]


def created(at: float, run_id: str) -> str:
    """The place of a run among those of its tenant and its queue: by when it was created, then by its id."""
    return f"{at:020.6f}#{run_id}"
