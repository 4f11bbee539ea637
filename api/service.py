"""What the ways in share: start runs, ask about them, stop them and go on with them.

Every call blocks while the store works. Answers are the bodies that HTTP and `--json` show.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from executor.errors import RejectedError
from executor.records import Run, RunStatus, Visit, VisitStatus, timestamp
from executor.start import corrected, new_run
from executor.stores.store import Store
from planner.catalogue import Catalogue
from planner.compile import Compilation, compile_playbook
from planner.diagnostics import Diagnostic
from planner.plan import Plan, canonical

DEFAULT_TENANT = "default"
EVENTS_PER_PAGE = 1000

_CACHED_TEXT_LENGTH = 64 * 1024
"""Longer playbooks are compiled anew: a compilation takes many times the memory of its text."""


class PlaybookError(Exception):
    """The playbook does not compile; `diagnostics` say why."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__("the playbook has errors")
        self.diagnostics = tuple(diagnostics)


class NotFoundError(Exception):
    """Nothing is known under the id that was asked for. The message is a sentence."""


class Service:
    """Runs of one store. Safe to share between threads."""

    def __init__(self, store: Store, catalogue: Catalogue, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._catalogue = catalogue
        self._clock = clock
        self._compile_cached = lru_cache(maxsize=64)(self._compile)
        self._step_names = lru_cache(maxsize=64)(self._read_step_names)

    def compile(self, text: str | bytes) -> Compilation:
        """The plan of a playbook, or what is wrong with it; never raises on bad text."""
        return (self._compile if len(text) > _CACHED_TEXT_LENGTH else self._compile_cached)(text)

    def start(
        self,
        text: str | bytes,
        *,
        input: Mapping[str, Any],
        tenant: str = DEFAULT_TENANT,
        idempotency_key: str | None = None,
        variables: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
    ) -> Run:
        """A run of the playbook is stored, with its first visit ready for a worker.

        With an `idempotency_key` that the same request carried before, this is the run started then.

        Raises:
            PlaybookError: it does not compile.
            RejectedError: `invalid_input`, or `idempotency_key_reused` by another request.
        """
        compilation = self.compile(text)
        plan = compilation.plan
        if plan is None:
            raise PlaybookError(compilation.diagnostics)
        run, first = new_run(
            plan,
            input,
            tenant=tenant,
            variables=variables,
            tags=tags,
            now=self._clock(),
        )
        idempotency = None
        if idempotency_key is not None:
            request = canonical([plan.source, input, variables, list(tags)])
            idempotency = (idempotency_key, hashlib.sha256(request.encode()).hexdigest())
        self._store.save_plan(plan)
        return self._store.create_run(run, first, idempotency=idempotency)

    def run(self, run_id: str, *, tenant: str = DEFAULT_TENANT) -> Run:
        """The run's record.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self._store.run(tenant, run_id)
        if run is None:
            raise NotFoundError(f"there is no workflow `{run_id}`")
        return run

    def status(self, run_id: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Where the run stands: the body of `/workflows/status/{id}`.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.run(run_id, tenant=tenant)
        latest: dict[str, Visit] = {}
        entered: Counter[str] = Counter()
        for visit in self._store.visits(run.id):
            entered[visit.step] += _was_entered(visit)
            if visit.step not in latest or visit.number >= latest[visit.step].number:
                latest[visit.step] = visit
        names = self._step_names(run.plan_hash)
        steps = {name: _step_status(run, latest.get(name), entered[name]) for name in names}
        states = Counter(step["status"] for step in steps.values())
        return {
            "workflow_id": run.id,
            "status": run.status.value,
            "playbook": run.playbook,
            "created_at": timestamp(run.created_at),
            "started_at": timestamp(run.started_at),
            "finished_at": timestamp(run.finished_at),
            "steps": steps,
            "progress": {
                "steps": len(steps),
                "finished": states["succeeded"] + states["failed"],
                "running": states["running"],
            },
            "error": run.error,
        }

    def plan(self, run_id: str, *, tenant: str = DEFAULT_TENANT) -> Plan:
        """The plan that the run follows, with its source.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return self._store.plan(self.run(run_id, tenant=tenant).plan_hash)

    def result(self, run_id: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, Any]:
        """What came out, null until the run has finished: the body of `/workflows/result/{id}`.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return result_of(self.run(run_id, tenant=tenant))

    def runs(
        self,
        *,
        status: RunStatus | None = None,
        playbook: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> dict[str, Any]:
        """One page of the tenant's runs, the newest first, and the cursor of the next one.

        Raises:
            RejectedError: the cursor is not one of ours.
        """
        found, next_cursor = self._store.runs(
            tenant, status=status, playbook=playbook, tag=tag, since=since, limit=limit, cursor=cursor
        )
        return {"items": [_summary(run) for run in found], "next_cursor": next_cursor}

    def events(
        self,
        run_id: str,
        after: str | None = None,
        limit: int = EVENTS_PER_PAGE,
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> dict[str, Any]:
        """One page of the run's history, behind the event `after`; `next_cursor` is null where no more is known yet.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: the cursor is not one of ours.
        """
        run = self.run(run_id, tenant=tenant)
        found = self._store.events(run.id, after, limit + 1)
        page = found[:limit]
        return {
            "items": [event.to_json() for event in page],
            "next_cursor": page[-1].id if len(found) > limit else None,
        }

    def cancel(self, run_id: str, *, tenant: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The run is heading for `cancelled`: running steps finish, nothing new starts. A repeat changes nothing.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: it has already finished in another way.
        """
        run = self.run(run_id, tenant=tenant)
        return _summary(self._store.stop(run.id, RunStatus.CANCELLED, self._clock()))

    def resume(
        self, run_id: str, input: Mapping[str, Any] | None = None, *, tenant: str = DEFAULT_TENANT
    ) -> dict[str, Any]:
        """The run goes on from its failed and parked visits, with `input` laid over what it was given.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: it succeeded, the input does not fit, or there is input for a run that has not ended.
        """
        run = self.run(run_id, tenant=tenant)
        if input and not run.status.is_final:
            message = f"run {run_id} has not ended, so its input cannot be corrected; resume it without"
            raise RejectedError("not_ended", message)
        header = self._store.plan_header(run.plan_hash)
        now = self._clock()
        deadline_at = None if header.timeout_seconds is None else now + header.timeout_seconds
        values = corrected(header, run, input) if input else {}
        return _summary(self._store.resume(run.id, now, deadline_at=deadline_at, values=values))

    def _compile(self, text: str | bytes) -> Compilation:
        return compile_playbook(text, self._catalogue)

    def _read_step_names(self, plan_hash: str) -> tuple[str, ...]:
        return tuple(self._store.plan(plan_hash).steps)


def result_of(run: Run) -> dict[str, Any]:
    """The body of `/workflows/result/{id}` for a run that is at hand."""
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "result": run.result,
        "errors": list(run.errors),
    }


def _summary(run: Run) -> dict[str, Any]:
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "playbook": run.playbook,
        "version": run.version,
        "created_at": timestamp(run.created_at),
        "started_at": timestamp(run.started_at),
        "finished_at": timestamp(run.finished_at),
        "tags": list(run.tags),
    }


def _step_status(run: Run, visit: Visit | None, visits: int) -> dict[str, Any]:
    if visit is None:
        return {"status": "pending", "visits": 0, "attempt": 0, "case": None, "error": None}
    return {
        "status": _word(run, visit),
        "visits": visits,
        "attempt": visit.attempt if _was_entered(visit) else 0,
        "case": visit.case,
        "error": visit.error,
    }


def _was_entered(visit: Visit) -> bool:
    return visit.started_at is not None or visit.attempt > 1 or visit.progress is not None


def _word(run: Run, visit: Visit) -> str:
    match visit.status:
        case VisitStatus.READY:
            return "pending"
        case VisitStatus.PARKED:
            return "cancelled" if run.status is RunStatus.CANCELLED else "pending"
        case status:
            return status.value
