"""The interface of a store: runs, visits, plans, and the queue of due visits.

Problem: many workers on many machines execute the visits of runs. Workers crash, pause and answer late, and
no visit may be lost, committed twice, or executed by two workers that both believe they own it.

Algorithm: a visit is claimed with a lease (Gray and Cheriton, "Leases", 1989). A visit whose lease has
expired is due again. Every claim increases the fence of the visit, and a write with an older fence is
refused. The fence is a fencing token (Kleppmann, "How to do distributed locking", 2016). A commit writes the
outcome of a visit and everything that follows from it. It is atomic, or ordered so that a second try
completes the first.

Cost: one claim and one commit for each step. A commit may claim the next visit of the branch at once.

Limits: an action may run twice, since a worker can die between the action and the commit. Only its commit is
accepted once. Times are those of the clock of the store, so the clocks of workers need not agree.

A store consists of sixteen parts, one for each subject. The tests of `noetl.testing.store_contract` hold
each store to this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.cached_results import (
    CachedResult,
    CacheEntry,
    CacheFilter,
    CacheHolder,
    CacheRequest,
)
from noetl.executor.model.channels import Channel
from noetl.executor.model.durations import RunTimes
from noetl.executor.model.events import Event
from noetl.executor.model.gates import Gate, GateKey, LimitKind, Slot, SlotOwner, SlotRequest
from noetl.executor.model.metrics import Fact, StoreMetrics
from noetl.executor.model.open_waits import MAX_LISTED_JOURNALS
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, OutboxKind, Subscribers
from noetl.executor.model.registry import ApiKey, PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.request_counts import RequestBatch
from noetl.executor.model.run import (
    Claim,
    Commit,
    CommitResult,
    ErrorRecord,
    HistoryPosition,
    Lease,
    ListedWait,
    Run,
    RunEnding,
    RunStatus,
    TokenWait,
    Visit,
    Wait,
    WaitKey,
)
from noetl.executor.model.run_filter import RunCounts, RunFilter
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_summary import ResultText, RunOverview, RunSummary, StartedVisit, VisitPlace
from noetl.executor.model.run_switch import SwitchedRun
from noetl.executor.model.run_tags import TagChange
from noetl.executor.model.triggers import Advance, Firing, LiveTrigger
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.planner.frozen import frozen
from noetl.planner.plan import Header, Plan, Step, Task, Trigger

if TYPE_CHECKING:
    from noetl.executor.model.continued_run import ContinuedRun
    from noetl.executor.stores.finding import Finding
    from noetl.executor.stores.sqs.messages import MessageQueue


class MessageOutcome(StrEnum):
    """Result of a message that led to no claim.

    `DONE`: nothing is left to do, so the message is deleted. `HELD`: another worker has claimed the visit,
    so the message stays in its queue and is delivered again.
    """

    DONE = "done"
    HELD = "held"


@frozen
class SweepResult:
    """Counts of a sweep: the runs that it examined, and the runs or visits that it repaired."""

    runs: int
    repaired: int


class PlanStore(Protocol):
    """Plans, saved under their hashes. A plan never changes."""

    def save(self, plan: Plan) -> None:
        """Save a plan under its hash; a plan that is already saved stays as it is.

        The plan is then kept for half an hour at least, so that a run of it can be started.
        """
        ...

    def header(self, plan_hash: str) -> Header:
        """Return the header of a plan."""
        ...

    def step(self, plan_hash: str, name: str) -> Step:
        """Return one step of a plan."""
        ...

    def task(self, plan_hash: str, name: str) -> Task:
        """Return one named task of a plan."""
        ...

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        """Return the names of the steps of a plan, in their order, without reading the steps."""
        ...

    def get(self, plan_hash: str) -> Plan:
        """Return a complete plan with its source text, to show it."""
        ...


class RunStore(Protocol):
    """Runs with their visits, outputs and history, from their start to their end."""

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
        max_child_runs: int | None = None,
    ) -> Run:
        """Start a run with its first visit, or return the run that this request has started before.

        The earlier run has the same id, or the same idempotency key. `idempotency` is that key and the hash
        of the request. `history` are finished visits of the run that this run continues. A child run is
        counted by its root, which may have up to `max_child_runs`; a store may allow a tenth more. None
        means any number.

        A run with `debounce` joins the run that an earlier start with this key has made, if `is_pending` says
        so. In one transaction, `join_run` replaces its input, and its first visit is due later. The returned
        run then has `debounce`, and one start more. Otherwise the key belongs to the new run.

        Raises:
            RejectedError: `idempotency_key_reused`, if the key was used with another request before;
                `quota_exceeded`, if the root has too many child runs.
            StoreError: the plan was deleted. No run is ever without its plan.
        """
        ...

    def fire(self, run: Run, first: Visit, advance: Advance) -> Run:
        """Start the run of a firing with its first visit, or return the run that this firing started before.

        The earlier run has the same id, or a firing with the same `start_key` has started it. The same
        transaction writes the trigger and records of its firings. If there is an earlier run, nothing of that
        is written. Otherwise the given object is returned. A run with `debounce` may join a pending run, as
        for `create`. Then the record of the firing names that run, and `find_request` finds it by
        `identify_firing`. The earlier run of the firing may also be one that it has joined, whether the given
        run has `debounce` or not.

        Raises:
            TriggerChangedError: the trigger has changed since it was read, and there is no earlier run.
            StoreError: the plan was deleted, as for `create`.
        """
        ...

    def create_continued(self, continued: ContinuedRun, idempotency: tuple[str, str] | None = None) -> Run:
        """Start a run with the branches of another run, or return the run that this request started before.

        Its branches stand at visits that are due, and wait at joins. It has copies of finished visits, so the
        other run may be deleted. After an interruption, the run exists with all of it, or nothing of it can
        be read.

        Raises:
            RejectedError: `idempotency_key_reused`, as for `create`; `too_large`.
            StoreError: the plan was deleted.
        """
        ...

    def get(self, tenant: str, run_id: str) -> Run | None:
        """Return a run of a tenant with its payloads, or None if the tenant has no such run."""
        ...

    def summary(self, tenant: str, run_id: str) -> RunSummary | None:
        """Return the summary of a run of a tenant, or None if the tenant has no such run."""
        ...

    def overview(self, tenant: str, run_id: str) -> RunOverview | None:
        """Return what the status of a run shows, or None if the tenant has no such run.

        Neither payloads of the run nor outputs of its visits are read.
        """
        ...

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        """Return a page of the runs of a filter, and the cursor of the next page or None.

        Payloads are not read. A page has as many runs as the filter allows, unless it is the last. The page
        of a filter with `text` may have fewer, since a store reads a bounded number of runs for it.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def count(self, run_filter: RunFilter, step_seconds: float | None, limit: int) -> RunCounts:
        """Return the numbers of the runs of a filter by status, and by interval of their creation.

        `step_seconds` is the length of an interval; None means one interval for all. The newest `limit` runs
        are counted, and a store may stop earlier. The order, the page and `text` of the filter are ignored.
        """
        ...

    def live_runs(self, tenant: str, playbook: str, plan_hashes: Sequence[str], limit: int) -> list[str]:
        """Return the ids of runs of a service that have not ended and have one of the plans, oldest first.

        The cost grows with the open runs, and not with those that have ended.
        """
        ...

    def visits(self, run_id: str) -> list[Visit]:
        """Return all visits of a run in the order of their creation, without their outputs."""
        ...

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        """Return the named visits, or all, with the names that they saved and their results."""
        ...

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        """Return the committed batch results of one loop of a visit, in order; `loop` is its position in the
        work.
        """
        ...

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        """Return the history of a run after the event with the id `after`, in order.

        Raises:
            RejectedError: `invalid_cursor`, also if `after` is the id of an event of another run.
        """
        ...

    def positions(self, run_ids: Sequence[str]) -> dict[str, HistoryPosition]:
        """Return the status of each run that exists, and how far its history has come.

        The status is never `waiting`. One query answers for all runs, so that a service can follow hundreds.
        """
        ...

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        """Let a run end with `status`: no visit starts any more, and running visits finish.

        If the status is `cancelled`, running visits are abandoned. Child runs that the run waits for are
        cancelled. A `reason` is the error of the run unless it has one. A second call changes nothing.

        Raises:
            RejectedError: `finished`, if the run has ended with another status.
        """
        ...

    def resume(
        self,
        run_id: str,
        now: float,
        *,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None = None,
    ) -> Run:
        """Continue a run that has ended: its failed and parked visits become due.

        `values` may replace its `input` and `environment`. Its `skips` are visits by id, with the result and
        the requester of each: their work is left out. One with `all_items` does all items of its failed loops
        again (`mark_skipped`). A run that has not ended is returned unchanged. So is the run of an earlier
        request with the same idempotency key. `idempotency` is that key and the hash of the request.

        Raises:
            RejectedError: `not_resumable`; `paused`; `payload_lost`, if its input was deleted;
                `idempotency_key_reused`, as for `create`.
        """
        ...

    def change_tags(self, tenant: str, run_id: str, change: TagChange) -> tuple[str, ...] | None:
        """Change the tags of a run, and return them, or None if the tenant has no such run.

        Concurrent changes are all applied. Lists with a filter of tags follow at once, or within seconds.

        Raises:
            RejectedError: `too_many_tags`.
        """
        ...

    def find_request(self, tenant: str, key: str) -> tuple[str, str] | None:
        """Return the hash of the request that first had an idempotency key, and the id of its run.

        The key is kept as long as the run. Return None for an unknown key.
        """
        ...

    def add_bytes(self, run_id: str, kind: ByteKind, size: int) -> int:
        """Add to the bytes that a run has logged or written, and return their sum of all processes.

        The sum is deleted with the run. For a run that was deleted, return `size`.
        """
        ...

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        """Return which of the runs are cancelled, so that their running visits must be abandoned."""
        ...


class VisitReader(Protocol):
    """Visits and results of runs, read one at a time. The cost does not grow with the visits of the run.

    `overviews`, `summaries` and `newest_runs` read several runs together, `outputs` several visits.
    """

    def find(self, run_id: str, step: str, number: int | None = None) -> StartedVisit | None:
        """Return the visit of a step with a number, or the latest, or None if no such visit has started.

        Of several visits with the number, of which an earlier run has finished the others, it is the newest.
        """
        ...

    def events(
        self, run_id: str, step: str, number: int, types: Collection[str] | None = None
    ) -> list[Event]:
        """Return the events of one visit of a step, or those of some types, in order.

        Their ids are cursors of the history of the run, and may have another form than there.
        """
        ...

    def events_of_types(
        self, run_id: str, types: Collection[str], limit: int, max_characters: int
    ) -> tuple[Iterable[Event], bool]:
        """Return the first events of a run that have one of some types, and whether there are others.

        They are in order, at most `limit`, and have about `max_characters` of JSON together. Their ids are
        those of the history. They can be iterated over once, so that a store need not hold all of them.
        """
        ...

    def outputs(
        self, run_id: str, places: Collection[VisitPlace], until: str, max_characters: int
    ) -> Mapping[VisitPlace, Visit]:
        """Return visits of steps with their outputs, but without their failed items.

        Of several visits of a place, it is the newest. Visits that were created after the event `until` may
        be missing. Together the outputs have about `max_characters` at most, and further visits are left out.
        """
        ...

    def times(self, run_id: str, created_at: float, now: float) -> RunTimes | None:
        """Return the work, waiting and queued time of a run up to `now`. `created_at` is that of the run.

        Return None if the cost would grow with the ended visits of the run, and these are many.
        """
        ...

    def result_text(self, tenant: str, run_id: str) -> ResultText | None:
        """Return the result of a run of a tenant, or None if the tenant has no such run.

        A store that keeps its text does not decode it, since this delays other threads.
        """
        ...

    def overviews(self, tenant: str, run_ids: Sequence[str]) -> Mapping[str, RunOverview]:
        """Return what `RunStore.overview` returns for several runs of a tenant, which are read together.

        A run is left out if it does not exist or cannot be read, so that it does not fail the page of others.
        It may be left out if a step of it has a journal of more than MAX_READ_JOURNAL characters.
        """
        ...

    def summaries(self, tenant: str, run_ids: Sequence[str]) -> Mapping[str, RunSummary]:
        """Return what `RunStore.summary` returns for several runs of a tenant.

        A run is left out if it does not exist or cannot be read.
        """
        ...

    def newest_runs(
        self, tenant: str, playbooks: Sequence[str], limit: int
    ) -> Mapping[str, Sequence[RunSummary]]:
        """Return the newest runs of each of several playbooks, at most `limit` of each, the newest first.

        They are those that `RunStore.find` returns. A playbook without runs may be missing.
        """
        ...

    def failures_text(self, run_id: str, visit_id: str, start: int, length: int) -> str:
        """Return up to `length` characters of the JSON of the failed items of a visit, from `start` on.

        It is compact JSON in ASCII. So a reader of many failures decodes only those of a page.
        The text is empty past its end, and if the visit has none.
        """
        ...


class PauseStore(Protocol):
    """Pauses of runs. No visit of a paused run starts; the visits and answers of the run are kept."""

    def pause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        """Pause a run and the child runs that it waits for: no visit starts, and running visits finish.

        Times and answers are kept. `caller` is who requests it, if known. A second call completes the first.

        Raises:
            RejectedError: `finished`, if the run has ended; `ending`, if it stops, or if its finally step has
                begun.
            UnknownRunError: the run does not exist, or not any more.
        """
        ...

    def unpause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        """Let a paused run continue, and its child runs that were paused with it.

        A child run that was paused by a call of its own stays paused. Any other open run is returned
        unchanged.
        Visits whose time has come or whose answer has arrived are due at once.

        Raises:
            RejectedError: `finished`, if the run has ended.
        """
        ...


class SwitchStore(Protocol):
    """Switches of runs to other plans. `noetl.planner.continuation.judge` says whether a run may continue."""

    def read(self, run_id: str, now: float) -> RunRecords:
        """Return the records of a run that decide whether it may continue in another plan.

        Raises:
            UnknownRunError: the run does not exist.
        """
        ...

    def write(
        self, judged: RunRecords, switched: SwitchedRun, idempotency: tuple[str, str] | None = None
    ) -> Run | None:
        """Let a run continue in its new plan, and return it; return None if its records have changed.

        `judged` are the records from which `switched` was computed. Then nothing was written, and the caller
        reads and judges again. The new plan has been saved. `idempotency` is as for `RunStore.resume`.

        Raises:
            UnknownRunError: the run was deleted.
            RejectedError: `idempotency_key_reused`.
            StoreError: the new plan was deleted.
        """
        ...


class WorkQueue(Protocol):
    """The queue of visits that are due: claims, leases and commits."""

    @property
    def claims_in_turn(self) -> bool:
        """True if claims take the tenants in turn, False if a queue outside of the store decides."""
        ...

    @property
    def counts_active(self) -> bool:
        """True if the active visits of a tenant can be counted."""
        ...

    @property
    def takes_slots(self) -> bool:
        """True if a commit takes the slots that it requests for the visit that it claims."""
        ...

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        """Claim a due visit of a queue, or return None if no visit is due.

        Claims take the tenants in turn. Of a tenant they take the visit that has been due longest, and in
        turn the one of those that wait for nothing. No visit of a tenant in `passed_over` is claimed.

        The claim may take the slots of the visit, or of its run (`noetl.executor.model.claim_requests`).
        """
        ...

    def count_active(self, queue: str, tenant: str, limit: int) -> int:
        """Return how many visits of a tenant in a queue are due, run or wait, at most `limit`.

        Call it only if `counts_active` is true.
        """
        ...

    def next_due(self, queue: str, until: float | None = None) -> float | None:
        """Return the due time of the first visit of a queue, or None if the queue is empty.

        If `until` is a time close to the present, later visits do not count. The query is cheaper then.
        """
        ...

    def renew(
        self, claimed: Visit, until: float, events: Sequence[Event] = (), events_already_written: int = 0
    ) -> bool:
        """Extend a claim until a time, and write events of its work; return False if the claim is lost.

        `claimed` is the visit of the claim; its fence identifies the claim. `events` are few and small. They
        are written if and only if the claim is held, before the events of its commit.
        `events_already_written` counts the events that earlier renewals of this claim have written.

        A StoreError may leave open whether the events were written. A caller that must lose none writes them
        again, now or with the commit. A reader may then find them twice, the second time after the first.
        """
        ...

    def release(self, claimed: Visit, now: float, *, counts: bool) -> None:
        """Give up a claim on purpose: the visit is due at once, and a later commit of the claim is refused.

        If `counts` is false, the claim is not counted as an attempt to execute the visit. A lost claim is
        left alone.
        """
        ...

    def release_dead(self, queue: str, now: float) -> int:
        """Make the visits of workers that are known to be dead due at once, and return their number."""
        ...

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        """Write the outcome of a visit and everything that follows from it, and claim the next visit for
        `claim_for`.

        What follows are visits, arrivals, counters, joins that fire, and the visit that ends the run. A
        suspended visit is due at once if one of its waits has an answer. With `claim_for`, the first visit
        that became due is claimed and returned. If none did, another due visit of the run may be claimed.

        Raises:
            FencedError: the claim is lost.
            NotJsonError: an output cannot be written as JSON. Nothing was written.
            PayloadTooLargeError: the outputs are larger than the store accepts. Nothing was written.
        """
        ...

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        """Set the final status of a run, answer the wait of its parent, and write the entries of the outbox.

        Its slots are given back. Return the gates at which others wait for them.

        Raises:
            FencedError, PayloadTooLargeError: as `commit` does.
        """
        ...


class WaitStore(Protocol):
    """Waits of suspended visits for answers from outside."""

    def open_wait(
        self,
        claim: Claim,
        wait_id: str,
        token_hash: str,
        declared: AnswerDeclaration | None = None,
        rank: float = 0.0,
    ) -> None:
        """Register a token that answers a wait of a claimed visit, in addition to its earlier tokens.

        `declared` are the fields that an answer with this token must have, or None if it may be any value.
        `rank` is the place of the wait in `find_open`.

        Raises:
            FencedError: the claim is lost.
        """
        ...

    def find_open(
        self,
        tenant: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        journal_bytes: int = MAX_LISTED_JOURNALS,
    ) -> tuple[list[ListedWait], str | None]:
        """Return a page of the waits of a tenant that an answer ends now, and the cursor of the next page.

        They are those of visits that have been suspended, in runs that have not ended, by rank. Visits have
        their progress, but no outputs. A page takes a constant number of queries. It ends before the wait
        with which the journals of its visits would have more than `journal_bytes`, but has one at least. A
        store may also return fewer waits than `limit` if it has skipped many of runs that have ended.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def wait(self, key: WaitKey) -> Wait:
        """Return the state of a wait; a wait that was never opened has no answer."""
        ...

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        """Refuse answers to a wait from now on, and return the wait with its answer, if any."""
        ...

    def has_token(self, token_hash: str) -> bool:
        """Return whether the token was given out, so that its answer is worth reading. Nothing is locked."""
        ...

    def find_wait(self, token_hash: str) -> TokenWait | None:
        """Return the wait that a token answers, or None if the token is unknown or its run was deleted.

        Nothing is locked.

        Raises:
            RejectedError: `payload_lost`, if the declared fields were deleted.
        """
        ...

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        """Answer a wait and return its key: its visit is due at once, and the same answer again changes
        nothing.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, if another answer arrived before; `closed`,
                if the wait accepts no answer any more; `invalid_answer`, if it does not have the declared
                fields; `too_large`; `payload_lost`, if these fields or the earlier answer were deleted.
        """
        ...

    def answer_wait(self, key: WaitKey, declared: AnswerDeclaration | None, body: Any, now: float) -> None:
        """Answer a wait without a token, as `answer` does. The caller has checked who may answer it.

        `declared` are the fields that the answer must have, or None if it may be any value.

        Raises:
            RejectedError: as `answer`; `closed` also if the wait was never opened.
        """
        ...

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        """Record that the external worker behind a wait is alive.

        Raises:
            RejectedError: `unknown_token` and `closed`, as `answer` does.
        """
        ...


class PlaybookRegistry(Protocol):
    """Registered playbooks by tenant, name and version, and their aliases.

    The alias `live` names the newest version, unless a version is promoted to it. The triggers of a playbook
    are those of its live version. One transaction changes the live version and the triggers.
    """

    def register(
        self, playbook: RegisteredPlaybook, *, newest: str | None = None, triggers: Sequence[Trigger] = ()
    ) -> RegisteredPlaybook:
        """Register a playbook under its name and version, or under the next number if it has no version.

        If it is the live version then, its triggers replace those of its name (`place_triggers`).

        The same text again returns the playbook that was registered before. With `newest`, the write requires
        that this is the newest version, or that none is registered if it is empty. Of concurrent writes with
        one `newest` and different texts, one succeeds. The newest version itself is returned.

        Raises:
            RejectedError: `version_exists`, if the version was registered with another text;
                `playbook_changed`, if the newest version is another one; `path_taken`, if a webhook of
                another playbook or trigger has the path of one of the triggers; `alias_exists`, if the
                version has the name of an alias.
        """
        ...

    def get(
        self, tenant: str, name: str, version: str | None = None, *, alias: str | None = None
    ) -> RegisteredPlaybook | None:
        """Return a version of a registered playbook, or the version that an alias names, or the newest."""
        ...

    def find(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        """Return a page of the registry, and the cursor of the next page or None.

        Without `name`, it holds the newest version of each playbook, by name. With `name`, it holds all
        versions of that playbook, newest first.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        """Remove one version of a playbook, or all, and return their number; runs are not affected.

        If the live version is removed, the newest one that remains is live. Its triggers replace those of its
        name. The aliases are removed with all versions.

        Raises:
            RejectedError: `path_taken`, as `register` does; `alias_in_use`, if an alias names the version.
                Nothing was removed.
        """
        ...

    def promote(self, alias: PlaybookAlias) -> PlaybookAlias | None:
        """Let an alias name a version, and return it; return None if the version is not registered.

        An alias that names this version already is returned as it is. If the alias is `live`, the triggers of
        the version replace those of its name.

        Raises:
            RejectedError: `version_exists`, if a version has the name of the alias; `too_many_aliases`;
                `path_taken`, as `register` does. Nothing has changed.
        """
        ...

    def remove_alias(self, tenant: str, name: str, alias: str, *, now: float) -> bool:
        """Remove an alias of a playbook, and return whether there was one.

        Without the alias `live`, the newest version is live, and its triggers replace those of its name.

        Raises:
            RejectedError: `path_taken`, as `register` does. Nothing has changed.
        """
        ...

    def aliases(self, tenant: str, names: Collection[str]) -> list[PlaybookAlias]:
        """Return the aliases of some playbooks, in the order of these and of their names.

        `live` is one of them only if a version was promoted to it.
        """
        ...


class TriggerStore(Protocol):
    """Triggers of the live versions of registered playbooks, and their firings."""

    def get(self, tenant: str, playbook: str, name: str) -> LiveTrigger | None:
        """Return a trigger, or None if the live version of the playbook has no such trigger."""
        ...

    def find(
        self, tenant: str, playbook: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[LiveTrigger], str | None]:
        """Return a page of the triggers of a tenant or of one playbook, and the cursor of the next page.

        They are in the order of their playbooks and names.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def at_path(self, tenant: str, path: str) -> LiveTrigger | None:
        """Return the trigger that accepts requests to a path, or None."""
        ...

    def awaiting(self, tenant: str, playbook: str) -> list[LiveTrigger]:
        """Return the triggers that fire at the end of runs of a playbook, in the order of their names."""
        ...

    def due(self, now: float, limit: int, passed_over: Collection[str] = ()) -> list[LiveTrigger]:
        """Return triggers that are due at `now`, those that are due longest first.

        They are those of all tenants except `passed_over`.
        """
        ...

    def advance(self, advance: Advance) -> bool:
        """Write a trigger and records of its firings. Return False if the trigger has changed since it was
        read, and nothing was written.
        """
        ...

    def firings(
        self, tenant: str, playbook: str, trigger: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Firing], str | None]:
        """Return a page of the firings of a trigger, the newest first, and the cursor of the next page.

        Those of a trigger that was removed are kept, too. They are deleted after the retention of runs.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def newest_firings(
        self, tenant: str, triggers: Sequence[tuple[str, str]], before: str, limit: int
    ) -> Mapping[tuple[str, str], Sequence[Firing]]:
        """Return the newest firings of several triggers before a position, at most `limit` of each.

        `triggers` are pairs of the names of a playbook and of its trigger. The newest is first. A trigger
        without firings may be missing.
        """
        ...


class OutboxStore(Protocol):
    """Entries of the outbox: what is done after runs have ended, or if they are late, and backfills.

    Runs write them: `QueueStore.finish` those of the ending, and the start of a run that of `Run.late_at`.
    A backfill is an entry that follows from no run.
    """

    def add(self, entry: OutboxEntry) -> bool:
        """Add an entry. Return False if the tenant has one with its id, which is not changed."""
        ...

    def subscribers(self, tenant: str, playbook: str) -> Subscribers:
        """Return the triggers and channels that the end of a run of a playbook concerns, with one read."""
        ...

    def due(
        self, kinds: Collection[OutboxKind], now: float, limit: int, passed_over: Collection[str] = ()
    ) -> list[OutboxEntry]:
        """Return entries of some kinds that are due at `now`, those that are due longest first.

        They are those of all tenants except `passed_over`.
        """
        ...

    def due_notifications(self, search: NotificationSearch) -> list[OutboxEntry]:
        """Return due notifications of many channels, in the order that `NotificationSearch` says.

        Thousands may be due, so only those that are returned may be decoded.
        """
        ...

    def get(self, tenant: str, id: str) -> OutboxEntry | None:
        """Return an entry, or None if the tenant has no such entry."""
        ...

    def find(
        self, tenant: str, kind: OutboxKind, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[OutboxEntry], str | None]:
        """Return a page of the entries of a kind, the newest first, and the cursor of the next page.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def change(
        self,
        read: OutboxEntry,
        written: OutboxEntry | None,
        added: Sequence[OutboxEntry] = (),
        fact: Fact | None = None,
        event: Event | None = None,
    ) -> bool:
        """Replace an entry, or remove it, and add others in the same transaction.

        An added entry that exists already is not changed. `fact` is counted for the run that the entry names
        as `run_id`, and `event` is appended to its history, also if it has ended. A run that was deleted
        gets neither. Return False if the entry has changed since it was read, and nothing was written.
        """
        ...


class GateStore(Protocol):
    """Gates and the slots at them (`noetl.executor.model.gates`), and the limits of operators.

    `WorkQueue.commit` gives back the slots of a visit, and `WorkQueue.finish` all that are left of a run. The
    stop, the pause and the switch of a run give back those of its visits that are not executed.
    """

    def acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> list[Slot]:
        """Ask gates for slots, one after the other, up to the first that is full. Return the slots.

        Of a request whose owner has a slot already, that slot is returned. The last one returned may wait;
        if the last gate was full and its request does not queue, it is missing. `owner` is the visit of the
        claim or its run. The requests are in the order of their gates. Gates of a playbook or a step are made
        as needed, and have the units of the newest request.

        Rates are asked last, and all at once. Their slots may be held from a later time on. One that has no
        units is not stored: its owner does not wait so long.

        Raises:
            FencedError: the claim is lost, so nothing was written.
            RejectedError: `unknown_limit`, for a request without a size whose gate does not exist;
                `wrong_limit`, for a rate that is asked for a place, and the reverse.
        """
        ...

    def grant(self, key: GateKey, now: float) -> int:
        """Give free units of a gate to the slots of its queue, in their order. Return how many got theirs.

        A suspended visit that holds a slot now is due at once. A run's slot makes all its suspended visits
        due. A slot is removed if its visit is parked or its run is paused: the visit asks again when its run
        continues. No slot of a run that is unpaused meanwhile may be removed.
        """
        ...

    def stalled(self, limit: int) -> list[GateKey]:
        """Return gates with free units at which slots wait: a process died before it granted them."""
        ...

    def slots_of(self, run_id: str, visit_id: str | None = None) -> list[Slot]:
        """Return the slots of a run and its visits, or those of one visit, in the order of their gates.

        The empty id names the run. Those that wait know how many are ahead.
        """
        ...

    def queued_slots(self, run_ids: Sequence[str], now: float) -> Mapping[str, Sequence[Slot]]:
        """Return the slots of several runs and their visits that are not held at a time, by run.

        They are read together, each as `slots_of` returns it. A run without such slots may be missing.
        """
        ...

    def gate(self, key: GateKey) -> Gate | None:
        """Return a gate, or None if it does not exist."""
        ...

    def find_named(self, tenant: str, name: str) -> GateKey:
        """Return the key of the gate of an operator's limit: the shared one, if there is one of this name."""
        ...

    def assume_named(self, tenant: str, name: str) -> GateKey:
        """Return what `find_named` returns. A store may answer without a read, by what it has read before.

        So a request in a commit may have a wrong key. A commit takes no slot at a limit that does not exist,
        or at that of a tenant if there is a shared one.
        """
        ...

    def slots_at(
        self, key: GateKey, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Slot], str | None]:
        """Return a page of the slots at a gate: those that are held, then the queue by flow and rank.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def find(
        self, tenant: str, *, named: bool, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Gate], str | None]:
        """Return a page of the gates of a tenant in the order of their ids.

        With `named`, they are the limits of operators, and otherwise all others.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def set_limit(self, key: GateKey, kind: LimitKind, units: int, per: float | None = None) -> Gate:
        """Make the limit of an operator, or change how many units it has. Return it.

        With `per`, it is a rate with a window of so many seconds.

        Raises:
            RejectedError: `invalid_limit`, if a rate becomes a limit without `per`, or the reverse.
        """
        ...

    def remove_limit(self, key: GateKey) -> bool:
        """Remove the limit of an operator. Return False if there is none.

        Raises:
            RejectedError: `limit_in_use`, if it has slots.
        """
        ...


class ChannelStore(Protocol):
    """Channels to which notifications are sent."""

    def get(self, tenant: str, name: str) -> Channel | None:
        """Return a channel, or None if the tenant has no such channel."""
        ...

    def find(self, tenant: str) -> list[Channel]:
        """Return all channels of a tenant in the order of their names."""
        ...

    def put(self, channel: Channel, read: Channel | None) -> bool:
        """Write a channel that was read as `read`, or did not exist.

        Return False if it is not so any more, and nothing was written.
        """
        ...

    def remove(self, channel: Channel) -> bool:
        """Remove a channel as it was read. Return False if it has changed, and nothing was removed."""
        ...


class ApiKeyStore(Protocol):
    """API keys of all tenants. Only hashes of their secrets are stored."""

    def add(self, key: ApiKey) -> None:
        """Add an API key.

        Raises:
            RejectedError: `key_exists`, if the store has a key with this id.
        """
        ...

    def get(self, id: str) -> ApiKey | None:
        """Return the API key with an id, of any tenant, even if it is revoked."""
        ...

    def find(self, tenant: str) -> list[ApiKey]:
        """Return all API keys of a tenant, oldest first, including revoked keys."""
        ...

    def any_exist(self) -> bool:
        """Return whether the store was ever given an API key of any tenant. Keys of SERVICE_TENANT do not
        count.
        """
        ...

    def revoke(self, tenant: str, id: str, now: float) -> bool:
        """Revoke an API key, and return False if the tenant has no such key; the first revocation time is
        kept.
        """
        ...

    def touch(self, id: str, now: float) -> None:
        """Record that an API key was used; the latest time is kept."""
        ...

    def count_requests(self, batch: RequestBatch) -> bool:
        """Count a batch of requests of a caller, unless its window would then have more than the limit.

        Return whether the batch was counted. Counts of earlier windows are forgotten.
        """
        ...


class CacheStore(Protocol):
    """Results of work that later runs of a tenant use again. They belong to no run."""

    def claim(self, request: CacheRequest, now: float) -> CachedResult | CacheHolder | None:
        """Return a usable result, or the other holder that computes it, or None.

        None means that the requesting visit is now the holder. Of concurrent requests one becomes the holder.
        A holder whose visit is not claimed any more, or whose run was deleted, does not count.
        """
        ...

    def save(self, request: CacheRequest, value: Any, expires_at: float, now: float) -> bool:
        """Save the result of the holder, and return False if it is not the holder any more.

        Raises:
            NotJsonError: the result cannot be written as JSON.
            PayloadTooLargeError: the result is larger than the store accepts.
        """
        ...

    def release(self, request: CacheRequest) -> None:
        """Let another visit compute the result. A visit that is not the holder changes nothing."""
        ...

    def find(self, cache_filter: CacheFilter, now: float, limit: int) -> list[CacheEntry]:
        """Return the newest entries of a filter that have a usable result, newest first."""
        ...

    def clear(self, cache_filter: CacheFilter) -> int:
        """Delete the entries of a filter, and return the number of results among them.

        A result that is being computed is not saved.
        """
        ...


class FactStore(Protocol):
    """Facts about runs that are counted for metrics. Deleted runs stay counted."""

    def read(self, tenant: str | None, now: float) -> StoreMetrics | None:
        """Return what was counted for a tenant, or for all tenants together if it is None.

        Every fact counts that was committed before the call. Those of all tenants have no label of a
        playbook. Return None if the store counts nothing.
        """
        ...


class StoreMaintenance(Protocol):
    """Repair of what crashes and damage from outside have left behind."""

    def probe(self) -> None:
        """Return if the store answers, and can be written as far as a read can tell.

        The cost does not depend on what it contains.
        """
        ...

    def check_consistency(self) -> list[Finding]:
        """Return the inconsistencies of the store, without changing it; runs may be active meanwhile."""
        ...

    def set_aside(self, run_id: str, reason: str) -> bool:
        """Let no worker claim visits of a damaged run, and remember why. Nothing of the run is deleted.

        Log it, and return True, unless the run was set aside before. The run need not exist.
        """
        ...

    def put_back(self, now: float) -> list[str]:
        """Let workers claim the visits of all runs that were set aside, and return the ids of these runs.

        One that is still damaged will be set aside again.
        """
        ...

    def delete_run(self, tenant: str, run_id: str) -> bool:
        """Delete a run that has ended: all that it has left, and all runs that it has started.

        A run that was set aside counts as ended. Its slots are given back. Return False if the tenant has no
        such run. After an interruption, the run exists still, or nothing of it can be read. Another call or a
        sweep deletes the rest.

        Raises:
            RejectedError: `not_ended`, if one of these runs has not ended; `child_run`, if the store still
                has the run that has started this one.
        """
        ...

    def delete_old(self, now: float) -> bool:
        """Delete a few runs that are older than the retention, and return whether more may be left.

        So are a few rows that deleted runs have left.
        A few plans that no run and no registered playbook names are deleted too. A store that deletes old
        runs itself returns False.
        """
        ...

    def write_log_back(self) -> None:
        """Write a long log of commits back, if the store has one that its commits would have to write back.

        Workers call this several times a second.
        """
        ...

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair up to `limit` unfinished runs that no worker would continue.

        A store with an external queue examines `limit` runs; the next sweep starts after them.
        """
        ...


class Store(Protocol):
    """A store, as one object for each subject.

    Every method of a part is atomic and may be called from any thread. Times are seconds since the epoch.

    Raises:
        StoreError: any method, if the store cannot be reached or refuses.
    """

    @property
    def plans(self) -> PlanStore:
        """Plans of runs."""
        ...

    @property
    def runs(self) -> RunStore:
        """Runs with their visits."""
        ...

    @property
    def visits(self) -> VisitReader:
        """Visits of runs, one by one."""
        ...

    @property
    def pauses(self) -> PauseStore:
        """Pauses of runs."""
        ...

    @property
    def switches(self) -> SwitchStore:
        """Switches of runs to other plans."""
        ...

    @property
    def queue(self) -> WorkQueue:
        """Queue of due visits."""
        ...

    @property
    def waits(self) -> WaitStore:
        """Waits for answers from outside."""
        ...

    @property
    def registry(self) -> PlaybookRegistry:
        """Registered playbooks."""
        ...

    @property
    def triggers(self) -> TriggerStore:
        """Triggers of playbooks."""
        ...

    @property
    def gates(self) -> GateStore:
        """Gates, slots and limits."""
        ...

    @property
    def outbox(self) -> OutboxStore:
        """Entries of the outbox."""
        ...

    @property
    def channels(self) -> ChannelStore:
        """Channels of notifications."""
        ...

    @property
    def keys(self) -> ApiKeyStore:
        """API keys."""
        ...

    @property
    def cache(self) -> CacheStore:
        """Results of work for later runs."""
        ...

    @property
    def facts(self) -> FactStore:
        """Facts that are counted for metrics."""
        ...

    @property
    def maintenance(self) -> StoreMaintenance:
        """Sweep and consistency check."""
        ...

    @property
    def changes(self) -> ChangeSignal:
        """Signal of this process that a run or one of its visits has changed."""
        ...

    @property
    def work(self) -> ChangeSignal:
        """Signal of this process that a visit has become due."""
        ...

    @property
    def clock(self) -> Callable[[], float]:
        """Clock of the store, in seconds since the epoch. All processes that share it pass its time."""
        ...

    def close(self) -> None:
        """Close all connections of the store."""
        ...


class MessageWorkQueue(WorkQueue, Protocol):
    """A queue of due visits that may announce them in an external queue.

    Its messages are hints about visits that became due. The store alone decides what is due.
    """

    @property
    def message_queue(self) -> MessageQueue | None:
        """External queue, or None."""
        ...

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """Claim the visit that a message names, or return what is to be done with the message.

        If the visit is finished, the visits that follow are announced again. If it is not due yet, the
        message is sent again with a delay. With `give_up`, the message was received too often. The visit is
        claimed only if it was claimed MAX_CLAIMS times before, so that its execution fails it. Otherwise no
        worker was lost, and the message is sent again after GIVE_UP_DELAY_SECONDS.

        Raises:
            MessageError: the message was not sent by this store.
        """
        ...

    def release_given_up(self, body: str, now: float) -> bool:
        """Release the claim of a worker that the message names because it has given up the visit.

        Return whether there was such a claim. Then another message is sent, and this one is done. The claim
        is not counted. Call it before `claim_message` for a message that names workers.

        Raises:
            MessageError: as `claim_message` does.
        """
        ...


class QueuedStore(Store, Protocol):
    """A store that may have an external queue."""

    @property
    def queue(self) -> MessageWorkQueue:
        """Queue of due visits."""
        ...
