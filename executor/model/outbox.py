"""The outbox: work that follows from the end of a run, or from a run that is late, and backfills.

Problem: the end of a run starts other runs, and notifies people. The process that ends the run may die
before it has done so.

Algorithm: the commit that ends a run also writes entries into the outbox of its store (the pattern
"transactional outbox"). Every process of a service performs those that are due. An entry is removed after it
was performed, so it is performed at least once. A change requires the edition of the entry that was read.

Cost: one read at the end of a run, and one write for each entry.

Limits: an entry may be performed twice, so its effect has an id that follows from the entry.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field
from enum import StrEnum
from itertools import islice
from typing import Any

from noetl.planner.frozen import frozen, replace

POSTPONE_SECONDS = 10.0
"""After which time an entry that cannot be performed now is tried again."""


PERFORM_SECONDS = 0.25
"""After how long a performance of an entry leaves the rest of its firings to the next one.

Entries of other tenants have their turn in between.
"""


class OutboxKind(StrEnum):
    """The work that an entry of the outbox requests.

    `run_ended` fires the triggers that await the end of a run. `late` notifies of a run that has not ended by
    then. `notification` is delivered to one channel. `backfill` starts runs for many partitions, and
    `partitions` keeps a slice of its list. `release` makes notifications due that have waited for a channel.
    """

    RUN_ENDED = "run_ended"
    LATE = "late"
    NOTIFICATION = "notification"
    BACKFILL = "backfill"
    PARTITIONS = "partitions"
    RELEASE = "release"


_CAUSE_DIGITS = 16
_LANE_DIGITS = 8


def entry_id(run: str, *parts: object) -> str:
    """Return the id of an entry of the outbox that a run causes: 24 hexadecimal digits.

    >>> entry_id("run", "end 0") == entry_id("run", "end 0")
    True
    >>> entry_id("run", "end 0") == entry_id("run", "end 1")
    False
    """
    return _digest("outbox", run, *map(str, parts))[: _CAUSE_DIGITS + _LANE_DIGITS]


def notification_id(run: str, cause: str, tenant: str, channel: str) -> str:
    """Return the id of a notification of a run: 24 hexadecimal digits. The last ones are its lane.

    >>> notification_id("run", "end 0", "acme", "ops").endswith(lane_of("acme", "ops"))
    True
    """
    return _digest("outbox", run, cause, channel)[:_CAUSE_DIGITS] + lane_of(tenant, channel)


def lane_of(tenant: str, channel: str) -> str:
    """Return the lane of the notifications of a channel: 8 hexadecimal digits.

    Each store finds it in the keys of entries, so it groups them by channel without decoding them.
    It is short enough to be guessed. So only the pair of the tenant and the lane stands for a channel.
    """
    return _digest("lane", tenant, channel)[:_LANE_DIGITS]


def lane_in(id: str) -> str:
    """Return the lane of the channel of a notification, by its id."""
    return id[_CAUSE_DIGITS:]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@frozen
class OutboxEntry:
    """One entry of the outbox.

    Attributes:
        id: hexadecimal digits, which follow from the cause of the entry. Those of a notification end with the
            lane of its channel.
        created_at: when the cause was committed.
        due_at: when it is performed; None if it is not performed by itself any more.
        record: the data of its kind, as JSON.
        edition: the number of its changes. A write requires the edition that was read.
        expires_at: when it is deleted although it was not performed; None if never.
    """

    id: str
    tenant: str
    kind: OutboxKind
    created_at: float
    due_at: float | None
    record: Mapping[str, Any]
    edition: int = 1
    expires_at: float | None = None

    @property
    def lane(self) -> str:
        """Lane of the channel of a notification. For an entry of another kind, it is without meaning."""
        return lane_in(self.id)

    @property
    def position(self) -> str:
        """Place among the entries of its kind: when it was created, and its id."""
        return f"{self.created_at:020.6f} {self.id}"

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OutboxEntry:
        return cls(**{**data, "kind": OutboxKind(data["kind"])})


def postpone_entry(entry: OutboxEntry, due_at: float | None) -> OutboxEntry:
    """Return an entry that is due at another time; None: not by itself any more."""
    return replace(entry, due_at=due_at, edition=entry.edition + 1)


@frozen
class NotificationSearch:
    """A search for due notifications in which no tenant hides another one, and no channel hides another one.

    Tenants alternate in what is found. Of a tenant, the first notifications of all its channels come before
    the second ones, and so on. Between equals, the one that is due longer is first.

    Attributes:
        now: the time at which they are due.
        limit: how many are found at most.
        of_channel: how many of one lane are found at most.
        oldest: among how many is searched, those that are due longest.
        tenants: tenants that are left out.
        lanes: pairs of a tenant and a lane that are left out.
    """

    now: float
    limit: int
    of_channel: int
    oldest: int
    tenants: Collection[str] = ()
    lanes: Collection[tuple[str, str]] = ()

    def leaves_out(self, tenant: str, id: str) -> bool:
        return tenant in self.tenants or (tenant, lane_in(id)) in self.lanes

    def select(self, due: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return what is found of pairs of tenant and id, which are sorted by the time at which they are due.

        >>> search = NotificationSearch(now=0.0, limit=3, of_channel=2, oldest=9)
        >>> ops, audit = (lane_of("acme", name) for name in ("ops", "audit"))
        >>> ids = [f"{number:016}{lane}" for number, lane in enumerate([ops, ops, ops, audit])]
        >>> [int(id[:16]) for _, id in search.select(("acme", id) for id in ids)]
        [0, 3, 1]
        """
        counts = Counter[tuple[str, str]]()
        tenants = defaultdict[str, list[tuple[int, int, str]]](list)
        searched = (pair for pair in due if not self.leaves_out(*pair))
        for age, (tenant, id) in enumerate(islice(searched, self.oldest)):
            lane = tenant, lane_in(id)
            counts[lane] += 1
            if counts[lane] <= self.of_channel:
                tenants[tenant].append((counts[lane], age, id))
        ranked = [
            (rank, age, tenant, id)
            for tenant, found in tenants.items()
            for rank, (_, age, id) in enumerate(sorted(found))
        ]
        return [(tenant, id) for _, _, tenant, id in sorted(ranked)[: self.limit]]


@frozen
class Subscribers:
    """The triggers and channels that the end of a run of a playbook concerns.

    Attributes:
        has_triggers: whether a live trigger awaits the end of its runs.
        channels: the channels that receive events of all runs of the tenant: their events by name.
    """

    has_triggers: bool = False
    channels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
