"""What the executor asks of a store. One suite of tests, in tests/contract, holds every store to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from noetl.executor.model.events import Event
from noetl.executor.model.registry import Key, Playbook
from noetl.executor.model.run import Claim, Commit, ErrorRecord, Lease, Run, RunStatus, Visit, Wait, WaitKey
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.planner.frozen import record
from noetl.planner.plan import Header, Plan, Step, Task

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding
    from noetl.executor.stores.sqs.messages import MessageQueue


class MessageOutcome(StrEnum):
    """What is to be done with a message that gave no claim: `done` is deleted; `held`, whose visit somebody has claimed, is left
    in its queue and comes again.
    """

    DONE = "done"
    HELD = "held"


@record
class SweepResult:
    """How many runs a sweep has looked at, and how many runs or visits of them it has put right."""

    runs: int
    repaired: int


class Store(Protocol):
    """Runs, their visits and their plans; and the queue of visits that are due.

    Every method is atomic and may be called from any thread. Times are seconds since the epoch.

    Raises:
        StoreError: any method, when the store cannot be reached or refuses.
    """

    @property
    def changes(self) -> ChangeSignal:
        """ChangeSignal of this process: a run or one of its visits has changed."""
        ...

    @property
    def work(self) -> ChangeSignal:
        """ChangeSignal of this process: a visit has become due."""
        ...

    def close(self) -> None:
        """Give up every connection."""
        ...

    def save_plan(self, plan: Plan) -> None:
        """Keep a plan under its hash; keeping it again changes nothing."""
        ...

    def plan_header(self, plan_hash: str) -> Header: ...

    def plan_step(self, plan_hash: str, name: str) -> Step: ...

    def plan_task(self, plan_hash: str, name: str) -> Task: ...

    def plan(self, plan_hash: str) -> Plan:
        """The whole plan with its source, for those who show it."""
        ...

    def create_run(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
    ) -> Run:
        """Start a run with its first visit. Where there is a run with its id, that is returned, and nothing is written; so is
        with an idempotency key and the hash of the request the run that the same key has started before. `history` are
        finished visits of another run that this one goes on from.

        Raises:
            RejectedError: `idempotency_key_reused`, when the key came with another request before.
        """
        ...

    def run(self, tenant: str, run_id: str) -> Run | None: ...

    def runs(
        self,
        tenant: str,
        *,
        status: RunStatus | None = None,
        playbook: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        queue: str | None = None,
        parent: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[Run], str | None]:
        """A page of runs, the newest first, and the cursor of the next page if there is one. `parent` is the id of the run
        that has started them and waits for them.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def visits(self, run_id: str) -> list[Visit]:
        """All visits of a run in the order they came to be, without what they saved."""
        ...

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        """The visits named, or all, with what they saved."""
        ...

    def loop_parts(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        """The results of the batches that are committed of the loop at a position of a visit's work, in order."""
        ...

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        """The history of a run behind the event with the id `after`, in order.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        """The visit of the queue that has been due longest, claimed for this worker, or None when none is due."""
        ...

    def next_due(self, queue: str) -> float | None:
        """When the first visit of the queue is or was due; None when none is left."""
        ...

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        """Prolong a claim; False when it has been lost. `events`, few and small, have happened in it behind the first `told`,
        which were written so before: they are written if and only if it is held, and come before those of its commit.

        Where a StoreError does not say whether they were written, whoever wants none to be lost writes them again, now or with
        the commit; then a reader may find them twice, the second time behind the first.
        """
        ...

    def release(self, run_id: str, visit_id: str, fence: int, now: float, *, counts: bool) -> None:
        """Give up a claim whose work is abandoned on purpose: the visit is due at once, and a commit that still comes is
        refused. Unless it `counts`, the claim is taken as not made. A claim that has been lost is left alone.
        """
        ...

    def release_dead(self, queue: str, now: float) -> int:
        """Make the visits of workers that are known to be dead due at once; how many there were."""
        ...

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        """Write an outcome and everything that follows from it: visits, arrivals, counters, joins that fire, the visit
        that ends the run. A visit that pauses is due at once when one of the waits it awaits has its answer. With `claim_for` the first
        of the visits that became due is claimed at once and returned; where none did, it may be another one of the run that is due.

        Raises:
            FencedError: the claim has been lost.
            NotPlainError: what the visit saved is not data that JSON can say. Nothing was written.
            PayloadTooLargeError: what the visit saved is larger than the store takes. Nothing was written.
        """
        ...

    def finish(
        self,
        claim: Claim,
        status: RunStatus,
        result: Any,
        errors: Sequence[ErrorRecord],
        now: float,
    ) -> None:
        """Give a run its final status, and the wait that it answers its answer. Raises FencedError and PayloadTooLargeError
        as `commit` does.
        """
        ...

    def open_wait(self, key: WaitKey, fence: int, token_hash: str) -> None:
        """Let a wait of a claimed visit be answered with a token, beside those that were opened before.

        Raises:
            FencedError: the claim has been lost.
        """
        ...

    def wait(self, key: WaitKey) -> Wait:
        """What is known of a wait: nothing, when it was never opened."""
        ...

    def close_wait(self, key: WaitKey, now: float) -> Wait:
        """Take no answer to a wait any more; the wait, with the answer that it may have had before."""
        ...

    def answer(self, token_hash: str, body: Any, now: float) -> WaitKey:
        """Answer a wait, and say which: its visit is due at once. The same answer again changes nothing.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, when another answer came before; `closed`, when nobody waits
                for it any more; `too_large`.
        """
        ...

    def record_heartbeat(self, token_hash: str, now: float) -> None:
        """DueMessage that whoever is to answer a wait is alive. Raises `unknown_token` and `closed` as `answer` does."""
        ...

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        """Let a run end with `status`: nothing new starts, and running steps finish, or are given up where it is cancelled. The
        runs that it has started and waits for are cancelled. Repeated, it changes nothing.

        Raises:
            RejectedError: `finished`, when the run has ended otherwise.
        """
        ...

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        """Continue a run that has ended: its open and parked visits become due. `values` may replace its `input` and
        `environment`. A run that has not ended is returned as it is.

        Raises:
            RejectedError: `not_resumable`.
        """
        ...

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the runs that have been cancelled, so that what runs of them should be given up."""
        ...

    def register(self, playbook: Playbook) -> Playbook:
        """Keep a playbook under its name and version; without a version under the next number. The same text again is the
        playbook that was kept before.

        Raises:
            RejectedError: `version_exists`, when the version was kept with another text.
        """
        ...

    def playbook(self, tenant: str, name: str, version: str | None = None) -> Playbook | None:
        """A playbook of the registry: the version, or the newest that is there."""
        ...

    def playbooks(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Playbook], str | None]:
        """A page of the registry, and the cursor of the next page if there is one: the newest version of each playbook, by
        name; with a name all versions of it, the newest first.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        ...

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        """Remove a version of a playbook, or all of them, from the registry; how many there were. Runs go on."""
        ...

    def add_key(self, key: Key) -> None:
        """Keep an API key.

        Raises:
            RejectedError: `key_exists`, when one with its id is kept.
        """
        ...

    def key(self, id: str) -> Key | None:
        """The key with an id, of whatever tenant, also when it has been revoked."""
        ...

    def keys(self, tenant: str) -> list[Key]:
        """All keys of a tenant, the oldest first, also those that have been revoked."""
        ...

    def has_keys(self) -> bool:
        """Whether any key was ever kept, of whatever tenant."""
        ...

    def revoke_key(self, tenant: str, id: str, now: float) -> bool:
        """DueMessage that a key is not to be believed any more; False when the tenant has none with the id. The first time holds."""
        ...

    def check_consistency(self) -> list[Finding]:
        """What is wrong with the store: nothing, where all is well. Runs may be at work meanwhile; nothing is changed."""
        ...

    def touch_key(self, id: str, now: float) -> None:
        """DueMessage that a key was used. The latest time holds."""
        ...

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Look at so many of the runs that have not ended, and put right those that nothing would go on with. Where the queue is
        elsewhere the next sweep goes on behind them.
        """
        ...


class QueuedStore(Store, Protocol):
    """A store beside which there may be a queue: messages tell which visits have become due, and what is true stands in the
    store.
    """

    @property
    def messages(self) -> MessageQueue | None:
        """The queue, if there is one."""
        ...

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """The claim of the visit that a message tells of, or what is to be done with the message. Where the visit was done
        before, what follows from it is made due again, and where its time has not come the message is sent again with a delay.
        With `give_up` the claim counts as one too many, so that walking it fails the visit.

        Raises:
            MessageError: the message is none of the store's.
        """
        ...
