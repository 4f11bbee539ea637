"""Triggers of registered playbooks, and their firings.

Problem: several processes read the same due triggers. A crash must neither lose a firing nor perform it
twice.

Algorithm: a trigger is a row with the instant of its next firing. An `Advance` holds what a firing changes:
the row, and one record for each instant that was passed. A store writes it together with the run that the
firing starts. It requires that the `edition` of the row is the one that was read (optimistic concurrency).
The id of the run follows from the firing, so a firing starts one run at most.

Cost: one transaction for each firing.

Limits: an instant that has passed is not performed again, also if the rules of its zone change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from noetl.executor.errors import RejectedError, StoreAwayError, StoreError, TriggerChangedError
from noetl.executor.model.due_instants import DueInstants, count_passed, leave_instants
from noetl.executor.model.ids import derived_id
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.stored_json import encode_json
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Trigger, TriggerSource
from noetl.planner.schedules.schedule import CatchUpMode, Schedule
from noetl.planner.trigger_sources import RunEnd, Webhook

MAX_REASON_LENGTH = 500
"""How many characters of the reason of a firing are kept."""

PAUSED_REASON = "the trigger was paused"
LATE_REASON = "no service and no worker fired it in time"
CHANGED_REASON = "a version with another timing became live before it was performed"
REMOVED_REASON = "its trigger was removed before it was performed"
"""Why a firing was missed."""

MAX_EARLIER_WINDOWS = 5
"""For how many earlier values of `remember` a webhook looks for the run of a request."""

_TIMING_SEPARATOR = " "


class FiringOutcome(StrEnum):
    """The result of a firing."""

    STARTED = "started"
    SKIPPED = "skipped"
    FILTERED = "filtered"
    MISSED = "missed"
    REJECTED = "rejected"


@frozen
class LiveTrigger:
    """A trigger of the live version of a registered playbook.

    Attributes:
        timing: a hash of what decides when it fires. If `next_at` is of a version before with another one,
            the time of the change follows it, as `later_start` says.
        path: the address of a webhook, which no other trigger of the tenant has; None for other types.
        awaits: the playbook whose ended runs it fires at; None for other types.
        next_at: the instant of its next firing, without its jitter; None if there is none.
        due_at: when that firing is performed; None if there is none, or if the trigger is paused.
        is_paused: whether it is paused. Firings of that time are missed.
        edition: the number of its changes. A write requires the edition that was read.
        catch_up: what happens to firings that were missed while it was paused; None if its schedule says it.
        last_run: id of the run that its last firing has started. Only a schedule has this and the next two.
        last_at: the instant that it has performed or missed last.
        last_outcome: the outcome of that instant.
        changed_at: when it was last registered, paused or resumed.
        earlier_windows: for how many seconds earlier versions of a webhook remembered requests, each with the
            time of its end. Those whose requests are all forgotten are left out.
    """

    tenant: str
    playbook: str
    name: str
    type: str
    version: str
    plan_hash: str
    changed_at: float
    timing: str = ""
    path: str | None = None
    awaits: str | None = None
    next_at: float | None = None
    due_at: float | None = None
    is_paused: bool = False
    edition: int = 1
    catch_up: CatchUpMode | None = None
    last_run: str | None = None
    last_at: float | None = None
    last_outcome: FiringOutcome | None = None
    earlier_windows: tuple[tuple[float, float], ...] = ()

    @property
    def later_start(self) -> float | None:
        """After which time the instants that follow `next_at` are, or None if they follow it at once.

        If `next_at` is of a version before with another timing, those of this version begin at the change.
        The time of the change is part of `timing`, because later versions and pauses must not move it.
        """
        _, _, changed_at = self.timing.partition(_TIMING_SEPARATOR)
        return float(changed_at) if changed_at else None

    @property
    def timing_hash(self) -> str:
        """The hash of what decides when it fires."""
        return self.timing.partition(_TIMING_SEPARATOR)[0]

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format.

        Processes of earlier commits refuse a row with another name. So `earlier_windows` follows `timing`, of
        which they read the first word.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        windows = fields.pop("earlier_windows")
        if windows:
            fields["timing"] += _TIMING_SEPARATOR + encode_json(windows)
        return fields

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LiveTrigger:
        outcome, timing, windows = data["last_outcome"], data["timing"], data.get("earlier_windows", ())
        if data["type"] == "webhook":
            timing, _, text = timing.partition(_TIMING_SEPARATOR)
            windows = json.loads(text) if text else windows
        decoded = {
            "last_outcome": None if outcome is None else FiringOutcome(outcome),
            "timing": timing,
            "earlier_windows": tuple(tuple(window) for window in windows),
        }
        return cls(**{**data, **decoded})


@frozen
class Firing:
    """One firing of a trigger, or several that were missed together.

    Attributes:
        id: follows from the tenant, the playbook, the trigger and the key. It is the id of the started run.
        key: what tells it from the other firings of the trigger. For a schedule it is the instant.
        fired_at: when it was performed.
        scheduled_at: the instant of the schedule.
        count: the number of missed firings that it stands for, of which it is the newest.
        run_id: id of the run that was started.
        reason: why no run was started.
        ended_run: the run at whose end it was performed.
        backfill: the backfill that has performed it.
    """

    id: str
    tenant: str
    playbook: str
    trigger: str
    version: str
    key: str
    fired_at: float
    outcome: FiringOutcome
    scheduled_at: float | None = None
    count: int = 1
    run_id: str | None = None
    reason: str | None = None
    ended_run: str | None = None
    backfill: str | None = None

    @property
    def position(self) -> str:
        """Place among the firings of its trigger: when it was performed, its instant, its id and its outcome.

        A firing that is performed again after a crash has the same time. So an equal outcome is one record,
        and another outcome is another record.
        """
        return f"{position_at(self.fired_at)} {self.scheduled_at or 0:020.6f} {self.id} {self.outcome}"

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Firing:
        return cls(**{**data, "outcome": FiringOutcome(data["outcome"])})


@frozen
class Advance:
    """The change of a trigger by a firing: the row as it was read, the new one, and records of firings.

    If both are equal, only the records are written, and the write requires nothing of the row. A firing whose
    key alone decides whether it is new has such an advance, so such firings do not wait for each other.

    Of the firings of a tenant with the same `start_key`, one starts a run. The others get that run, whatever
    their ids are. A run with `debounce` does not consider it. `earlier_run` is the run that they get.
    """

    read: LiveTrigger
    written: LiveTrigger
    firings: Sequence[Firing] = field(default_factory=tuple)
    start_key: str | None = None
    earlier_run: str | None = None

    @property
    def changes_trigger(self) -> bool:
        """True if the row changes. It must then be as it was read."""
        return self.read.edition != self.written.edition


MANUAL_KEY = "manual "
"""What the key of a firing by hand begins with."""


def position_at(instant: float) -> str:
    """Return the text before the positions of all firings that were performed at an instant or later.

    >>> position_at(1_700_000_000.0)
    '0001700000000.000000'
    """
    return f"{instant:020.6f}"


def trigger_changed(trigger: LiveTrigger) -> TriggerChangedError:
    """Return the error of a firing whose trigger another process has changed."""
    return TriggerChangedError(
        f"trigger `{trigger.name}` of playbook `{trigger.playbook}` was changed by another process"
    )


def path_taken(path: str, playbook: str, trigger: str) -> RejectedError:
    """Return the error of a registration whose path belongs to another trigger."""
    message = f"path `{path}` belongs to trigger `{trigger}` of playbook `{playbook}`"
    return RejectedError("path_taken", message)


def firing_id(tenant: str, playbook: str, trigger: str, key: str) -> str:
    """Return the id of a firing and of its run: 24 hexadecimal digits."""
    parts = f"firing\x1f{tenant}\x1f{playbook}\x1f{trigger}\x1f{key}"
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def instant_key(instant: float) -> str:
    """Return the key of the firing of a schedule: its instant in UTC.

    >>> instant_key(1_700_000_000.0)
    '2023-11-14T22:13:20Z'
    """
    text = datetime.fromtimestamp(instant, UTC).isoformat()
    return text.replace("+00:00", "Z")


def jitter_of(tenant: str, playbook: str, trigger: str, jitter_seconds: float) -> float:
    """Return the constant delay of a trigger in whole milliseconds, less than `jitter_seconds`.

    >>> jitter_of("default", "p", "t", 0.0)
    0.0
    """
    digest = hashlib.sha256(f"jitter\x1f{tenant}\x1f{playbook}\x1f{trigger}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % max(int(jitter_seconds * 1000), 1) / 1000


def delay_of(trigger: LiveTrigger, schedule: Schedule) -> float:
    """Return how many seconds after its instants a trigger is due."""
    return jitter_of(trigger.tenant, trigger.playbook, trigger.name, schedule.jitter_seconds)


@frozen
class PlacedTriggers:
    """The triggers of a version that becomes live.

    Attributes:
        written: those that are new or change.
        removed: those that only the version before has.
        missed: records of the instants that a timing before or a removed trigger has left.
    """

    written: Sequence[LiveTrigger]
    removed: Sequence[LiveTrigger]
    missed: Sequence[Firing]


def place_triggers(
    current: Sequence[LiveTrigger],
    declared: Sequence[Trigger],
    playbook: RegisteredPlaybook,
    now: float,
    header_of: Callable[[str], Header],
) -> PlacedTriggers:
    """Return what changes of the triggers when `playbook` becomes the live version.

    `current` are those of the version that was live before. A trigger is known by its name. It stays
    paused, and keeps its next firing unless its timing has changed. A trigger of that version is not written
    again.

    If the timing changes, the newest instant that has passed is still due. Those before it are missed. In a
    pause, and if the trigger is no schedule any more or removed, all are. `header_of` reads the plan of the
    version before, which knows these instants.

    Raises:
        RejectedError: `path_taken`, if two of the triggers have the same path.
    """
    _check_paths(playbook.name, declared)
    known = {trigger.name: trigger for trigger in current}
    pairs = [(known.pop(trigger.name, None), trigger) for trigger in declared]
    written, missed = list[LiveTrigger](), list[Firing]()
    for earlier, trigger in pairs:
        if earlier is None or earlier.version != playbook.version:
            placed, left = _place_trigger(earlier, trigger, playbook, now, header_of)
            written.append(placed)
            missed += left
    removed = list(known.values())
    return PlacedTriggers(written, removed, [*missed, *record_removed(removed, now, header_of)])


def record_removed(
    removed: Sequence[LiveTrigger], now: float, header_of: Callable[[str], Header]
) -> list[Firing]:
    """Return records of the instants that removed triggers have not performed. All of them are missed."""
    missed = list[Firing]()
    for trigger in removed:
        if trigger.next_at is not None and trigger.next_at <= now:
            missed += _leave_timing(trigger, now, header_of, REMOVED_REASON, performs_newest=False)[1]
    return missed


def _check_paths(playbook: str, declared: Sequence[Trigger]) -> None:
    owners: dict[str, str] = {}
    for trigger in declared:
        if isinstance(trigger.source, Webhook):
            path = trigger.source.path
            if path in owners:
                raise path_taken(path, playbook, owners[path])
            owners[path] = trigger.name


def _place_trigger(
    current: LiveTrigger | None,
    declared: Trigger,
    playbook: RegisteredPlaybook,
    now: float,
    header_of: Callable[[str], Header],
) -> tuple[LiveTrigger, Sequence[Firing]]:
    source, placed = declared.source, _new_trigger(declared, playbook, now)
    if current is None:
        return (with_due_time(placed, source) if isinstance(source, Schedule) else placed), ()
    missed: Sequence[Firing] = ()
    has_same_timing = current.type == placed.type and current.timing_hash == placed.timing
    last = current
    if isinstance(source, Schedule) and has_same_timing:
        placed = replace(placed, timing=current.timing, next_at=current.next_at)
    elif current.next_at is not None and current.next_at <= now:
        performs_newest = isinstance(source, Schedule) and not current.is_paused
        last, missed = _leave_timing(current, now, header_of, CHANGED_REASON, performs_newest=performs_newest)
        # A firing may be postponed, or delayed by its jitter.
        if last.next_at is not None:
            timing = f"{placed.timing}{_TIMING_SEPARATOR}{now!r}"
            placed = replace(placed, timing=timing, next_at=last.next_at)
    placed = replace(
        placed,
        is_paused=current.is_paused,
        edition=current.edition + 1,
        catch_up=current.catch_up if has_same_timing else None,
        last_run=last.last_run,
        last_at=last.last_at,
        last_outcome=last.last_outcome,
        earlier_windows=_earlier_windows(current, source, now, header_of),
    )
    return (with_due_time(placed, source) if isinstance(source, Schedule) else placed), missed


def _new_trigger(declared: Trigger, playbook: RegisteredPlaybook, now: float) -> LiveTrigger:
    """Return a trigger that no version before has."""
    assert playbook.version is not None
    source = declared.source
    return LiveTrigger(
        playbook.tenant,
        playbook.name,
        declared.name,
        declared.type,
        playbook.version,
        playbook.plan_hash,
        now,
        timing=derived_id(*source.timing),
        path=source.path if isinstance(source, Webhook) else None,
        awaits=source.playbook if isinstance(source, RunEnd) else None,
        next_at=source.next_after(now) if isinstance(source, Schedule) else None,
        # A trigger that was removed and comes back must not have an edition that it had before.
        edition=int(now * 1000),
    )


def _leave_timing(
    current: LiveTrigger,
    now: float,
    header_of: Callable[[str], Header],
    reason: str,
    *,
    performs_newest: bool,
) -> tuple[LiveTrigger, Sequence[Firing]]:
    """Return a trigger whose timing ends now with its last due instant, and a record of the missed ones.

    Without `performs_newest`, all are missed. Without the plan of its version, only `next_at` is known.
    """
    assert current.next_at is not None
    schedule, next_at = _read_source(current, header_of), current.next_at
    if isinstance(schedule, Schedule):
        left = leave_instants(schedule, next_at, now, current.later_start, performs_newest=performs_newest)
    elif performs_newest:
        left = DueInstants(next_at, 0, None, None)
    else:
        left = DueInstants(None, 1, next_at, None)
    last = replace(current, next_at=left.performed)
    if left.newest_missed is None:
        return last, ()
    missed = _missed_firing(current, left, now, PAUSED_REASON if current.is_paused else reason)
    return replace(last, last_at=missed.scheduled_at, last_outcome=FiringOutcome.MISSED), (missed,)


def _earlier_windows(
    current: LiveTrigger, source: TriggerSource, now: float, header_of: Callable[[str], Header]
) -> tuple[tuple[float, float], ...]:
    """Return for how long the versions before now remembered the requests of a webhook."""
    if not isinstance(source, Webhook) or current.type != "webhook":
        return ()
    ended_at, before = dict(current.earlier_windows), _read_source(current, header_of)
    if isinstance(before, Webhook):
        ended_at[before.repeat_seconds] = now
    ended_at.pop(source.repeat_seconds, None)
    known = [(seconds, end) for seconds, end in ended_at.items() if now - end < seconds]
    return tuple(sorted(known, key=lambda window: window[1])[-MAX_EARLIER_WINDOWS:])


def _read_source(trigger: LiveTrigger, header_of: Callable[[str], Header]) -> TriggerSource | None:
    """Return the source of a trigger, or None if its plan cannot be read.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    try:
        declared = header_of(trigger.plan_hash).find_trigger(trigger.name)
    except StoreAwayError:
        raise
    except StoreError:
        return None
    return None if declared is None else declared.source


def with_due_time(trigger: LiveTrigger, schedule: Schedule) -> LiveTrigger:
    """Return the trigger with the due time that follows from its next firing, its jitter and its pause."""
    if trigger.is_paused or trigger.next_at is None:
        return replace(trigger, due_at=None)
    return replace(trigger, due_at=trigger.next_at + delay_of(trigger, schedule))


def advance_schedule(
    trigger: LiveTrigger, schedule: Schedule, due: DueInstants, now: float, *, was_paused: bool = False
) -> Advance:
    """Return the trigger after its passed instants, with a record of those that were missed.

    They were missed in a pause if `was_paused` is true, or if the end of a pause says what happens to them.
    """
    written = replace(trigger, next_at=due.next_at, edition=trigger.edition + 1)
    if due.next_at != trigger.next_at:
        written = replace(written, timing=trigger.timing_hash)
    if due.next_at is None or due.next_at > now - delay_of(trigger, schedule):
        # What the end of a pause says holds for the firings of that pause.
        written = replace(written, catch_up=None)
    firings: tuple[Firing, ...] = ()
    if due.newest_missed is not None:
        reason = PAUSED_REASON if was_paused or trigger.catch_up is not None else LATE_REASON
        firings = (_missed_firing(trigger, due, now, reason),)
        written = replace(written, last_at=due.newest_missed, last_outcome=FiringOutcome.MISSED)
    return Advance(trigger, with_due_time(written, schedule), firings)


def _missed_firing(trigger: LiveTrigger, due: DueInstants, now: float, reason: str) -> Firing:
    """Return the record of the missed instants of a trigger."""
    assert due.newest_missed is not None
    # The history is in the order of these times, and what was missed comes before what is performed.
    missed = fire_schedule(trigger, due.newest_missed, now - 1e-6)
    return replace(missed, outcome=FiringOutcome.MISSED, count=due.missed, reason=reason)


def fire_schedule(trigger: LiveTrigger, instant: float, now: float) -> Firing:
    """Return the firing of a trigger at an instant. Its outcome is not known yet."""
    return replace(new_firing(trigger, instant_key(instant), now), scheduled_at=instant)


def new_firing(trigger: LiveTrigger, key: str, now: float) -> Firing:
    """Return the firing of a trigger with a key. Its outcome is not known yet."""
    return Firing(
        firing_id(trigger.tenant, trigger.playbook, trigger.name, key),
        trigger.tenant,
        trigger.playbook,
        trigger.name,
        trigger.version,
        key,
        fired_at=now,
        outcome=FiringOutcome.STARTED,
    )


def is_known(trigger: LiveTrigger, firing: Firing) -> bool:
    """Return whether a trigger knows its newest firing itself: a schedule, if it has performed the firing.

    A person fires it now, or for an instant that has not come yet. A backfill fires it for earlier instants.
    """
    if trigger.type != "schedule":
        return False
    if firing.backfill is not None or firing.key.startswith(MANUAL_KEY):
        return False
    # A firing without an instant is from a time when the trigger had another type.
    return firing.scheduled_at is None or firing.scheduled_at <= (trigger.last_at or 0.0)


class FiringCause(StrEnum):
    """A cause of a firing other than the source of its trigger."""

    HAND = "hand"
    BACKFILL = "backfill"


def extra_cause(trigger: LiveTrigger, firing: Firing) -> FiringCause | None:
    """Return what has fired a trigger by a firing that it does not know itself, or None for its own source.

    A person may fire a schedule for an instant that has not come yet. A firing by hand at the end of a run is
    recorded as one of the trigger.
    """
    if firing.backfill is not None:
        return FiringCause.BACKFILL
    is_early = trigger.type == "schedule" and not is_known(trigger, firing)
    return FiringCause.HAND if is_early or firing.key.startswith(MANUAL_KEY) else None


def describe_cause(trigger: LiveTrigger, firing: Firing) -> dict[str, Any]:
    """Return what the run of a firing knows of its trigger: `run.trigger` of its templates.

    `scheduled_at` is the instant of a schedule. `workflow_id` is the ended run that a trigger of type `run`
    fires at. `backfill` is the backfill that has fired the trigger. Each is None if it does not apply.
    """
    instant = firing.scheduled_at
    return {
        "name": trigger.name,
        "type": trigger.type,
        "scheduled_at": None if instant is None else instant_key(instant),
        "workflow_id": firing.ended_run,
        "backfill": firing.backfill,
    }


def record_firing(
    advance: Advance, firing: Firing, outcome: FiringOutcome, reason: str | None = None
) -> Advance:
    """Return the advance of a trigger with a firing that had an outcome."""
    run_id = firing.id if outcome is FiringOutcome.STARTED else None
    recorded = replace(firing, outcome=outcome, run_id=run_id, reason=_cut(reason))
    written = advance.written
    if written.next_at != advance.read.next_at:
        written = replace(written, last_at=firing.scheduled_at, last_outcome=outcome)
    if run_id is not None and advance.changes_trigger and written.type == "schedule":
        written = replace(written, last_run=run_id)
    return replace(advance, written=written, firings=(*advance.firings, recorded))


def name_run(advance: Advance, run_id: str) -> Advance:
    """Return the advance of a firing that has started its run, with the run that it has joined instead."""
    firing, written = advance.firings[-1], advance.written
    if firing.run_id == run_id:
        return advance
    if written.last_run == firing.run_id:
        written = replace(written, last_run=run_id)
    return replace(advance, written=written, firings=(*advance.firings[:-1], replace(firing, run_id=run_id)))


def _cut(reason: str | None) -> str | None:
    is_long = reason is not None and len(reason) > MAX_REASON_LENGTH
    return f"{reason[:MAX_REASON_LENGTH]}…" if reason is not None and is_long else reason


def postpone(trigger: LiveTrigger, due_at: float) -> Advance:
    """Return a trigger whose due firing is performed later."""
    return Advance(trigger, replace(trigger, due_at=due_at, edition=trigger.edition + 1))


def pause_trigger(trigger: LiveTrigger, now: float) -> Advance:
    """Return the paused trigger. It keeps its next firing, so that its resumption knows what was missed."""
    written = replace(trigger, is_paused=True, due_at=None, changed_at=now, edition=trigger.edition + 1)
    return Advance(trigger, written)


def unpause_trigger(trigger: LiveTrigger, now: float) -> Advance:
    """Return a trigger of another type than `schedule` that is not paused any more."""
    written = replace(trigger, is_paused=False, changed_at=now, edition=trigger.edition + 1)
    return Advance(trigger, written)


def resume_trigger(
    trigger: LiveTrigger, schedule: Schedule, now: float, catch_up: CatchUpMode = "none"
) -> Advance:
    """Return the trigger that is not paused any more.

    The firings of its pause are missed, unless `catch_up` says that the last or all of them are performed.
    """
    resumed = replace(trigger, is_paused=False, changed_at=now, edition=trigger.edition + 1)
    until = now - delay_of(trigger, schedule)
    if catch_up != "none" and trigger.next_at is not None and trigger.next_at <= until:
        return Advance(trigger, with_due_time(replace(resumed, catch_up=catch_up), schedule))
    passed = count_passed(schedule, trigger.next_at, until, trigger.later_start)
    advance = advance_schedule(resumed, schedule, passed, now, was_paused=True)
    return Advance(trigger, replace(advance.written, edition=resumed.edition), advance.firings)
