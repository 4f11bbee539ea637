"""The service that HTTP and the command line share: runs, the playbook registry and callbacks of a tenant.

Every method blocks while the store works. Dictionaries that it returns are the bodies of HTTP responses, and
the output of `--json`.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from noetl.api.service.errors import NotFoundError, PlaybookError
from noetl.api.service.step_status import step_statuses
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import did_you_mean
from noetl.planner.plan import Header, Plan, canonical_json

if TYPE_CHECKING:
    # The compiler takes long to import, and most requests after a cold start do not need it.
    from noetl.planner.compile import Compilation

DEFAULT_TENANT = "default"
EVENTS_PER_PAGE = 1000

_RESERVED_SEGMENTS = ("", ".", "..", "versions")
"""Segments that the name of a playbook must not have between slashes, because its path would be ambiguous."""

_MAX_CACHED_LENGTH = 64 * 1024
"""Longest text whose compilation is cached: a compilation needs many times the memory of its text."""


class Service:
    """The runs and playbooks of one tenant in a store. Safe to share between threads."""

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        *,
        tenant: str = DEFAULT_TENANT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._tenant = tenant
        self._clock = clock
        self._compile_cached = lru_cache(maxsize=64)(self._compile)
        self._step_names = lru_cache(maxsize=64)(self._read_step_names)

    def for_tenant(self, tenant: str) -> Service:
        """Return the service of another tenant.

        It shares the cached plans, which do not depend on the tenant.
        """
        service = copy(self)
        service._tenant = tenant  # noqa: SLF001  It is an instance of this class.
        return service

    def compile(self, text: str | bytes) -> Compilation:
        """Compile a playbook. The result has a plan or errors; no text raises an exception."""
        return (self._compile if len(text) > _MAX_CACHED_LENGTH else self._compile_cached)(text)

    def start(
        self,
        text: str | bytes,
        *,
        input: Mapping[str, Any],
        idempotency_key: str | None = None,
        variables: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        trace: str | None = None,
    ) -> Run:
        """Store a run of the playbook, with its first visit ready for a worker, and return it.

        Return the run of an earlier request that carried the same `idempotency_key`. `trace` is the
        `traceparent` of the caller.

        Raises:
            PlaybookError: the playbook does not compile.
            RejectedError: `invalid_input`; `idempotency_key_reused`, by another request.
        """
        plan = self._compile_or_raise(text)

        def find_plan() -> tuple[Header, str]:
            return plan.header, plan.hash

        return self._start(
            plan.source,
            find_plan,
            plan,
            input=input,
            idempotency_key=idempotency_key,
            variables=variables,
            tags=tags,
            trace=trace,
        )

    def start_registered(
        self,
        name: str,
        version: str | None = None,
        *,
        input: Mapping[str, Any],
        idempotency_key: str | None = None,
        variables: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        trace: str | None = None,
    ) -> Run:
        """Store a run of a registered playbook, of `version` or of the newest one, and return it.

        Return the run of an earlier request that carried the same `idempotency_key`, even if the registry has
        changed since.

        Raises:
            NotFoundError: the registry has no such playbook.
            RejectedError: `invalid_input`; `idempotency_key_reused`, by another request.
        """

        def find_plan() -> tuple[Header, str]:
            plan_hash = self._registered(name, version).plan_hash
            return self._store.plans.header(plan_hash), plan_hash

        return self._start(
            {"name": name, "version": version},
            find_plan,
            input=input,
            idempotency_key=idempotency_key,
            variables=variables,
            tags=tags,
            trace=trace,
        )

    def start_from(
        self,
        run_id: str,
        step: str,
        input: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Run:
        """Store a new run that starts at a step of a run that has ended, and return it.

        It starts with the names that had values there. `input` replaces values of the other run's input.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `unknown_step`, `not_ended`, `inside_region`, `invalid_input`;
                `idempotency_key_reused`, by another request.
        """
        from noetl.executor.engine.start import restart_from_step

        run = self.run(run_id)
        names = self._step_names(run.plan_hash)
        if step not in names:
            hint = did_you_mean(step, names)
            raise RejectedError("unknown_step", f"unknown step `{step}`" + (f"; {hint}" if hint else ""))
        new_run, first_visit, history = restart_from_step(
            self._store.plans.header(run.plan_hash),
            self._store.plans.step(run.plan_hash, step),
            run,
            self._store.runs.visits_with_outputs(run.id),
            input or {},
            now=self._clock(),
        )
        request = [run.id, step, dict(input or {})]
        idempotency = None if idempotency_key is None else (idempotency_key, _hash(request))
        return self._store.runs.create(new_run, first_visit, idempotency=idempotency, history=history)

    def run(self, run_id: str) -> Run:
        """Return the record of a run.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self._store.runs.get(self._tenant, run_id)
        if run is None:
            raise NotFoundError(f"unknown run `{run_id}`")
        return run

    def status(self, run_id: str) -> dict[str, Any]:
        """Return the body of `/workflows/status/{id}`.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.run(run_id)
        steps = step_statuses(run, self._step_names(run.plan_hash), self._store.runs.visits(run.id))
        counts = Counter(step["status"] for step in steps.values())
        return {
            "workflow_id": run.id,
            "status": run.status.value,
            "playbook": run.playbook,
            **_related_runs(run),
            "created_at": timestamp(run.created_at),
            "started_at": timestamp(run.started_at),
            "finished_at": timestamp(run.finished_at),
            "steps": steps,
            "progress": {
                "steps": len(steps),
                "finished": counts["succeeded"] + counts["failed"],
                "running": counts["running"],
            },
            "error": run.error,
        }

    def plan(self, run_id: str) -> Plan:
        """Return the plan of the run, with its source.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return self._store.plans.get(self.run(run_id).plan_hash)

    def result(self, run_id: str) -> dict[str, Any]:
        """Return the body of `/workflows/result/{id}`. The result is null until the run has finished.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return result_body(self.run(run_id))

    def runs(
        self,
        *,
        status: RunStatus | None = None,
        playbook: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return one page of the tenant's runs, the newest first, with the cursor of the next page.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        runs, next_cursor = self._store.runs.find(
            self._tenant, status=status, playbook=playbook, tag=tag, since=since, limit=limit, cursor=cursor
        )
        return {"items": [summary_body(run) for run in runs], "next_cursor": next_cursor}

    def events(
        self,
        run_id: str,
        after: str | None = None,
        limit: int = EVENTS_PER_PAGE,
    ) -> dict[str, Any]:
        """Return one page of the run's events, those after the event `after`.

        `next_cursor` is null if the store has no further events yet.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `invalid_cursor`.
        """
        run = self.run(run_id)
        events = self._store.runs.events(run.id, after, limit + 1)
        page = events[:limit]
        return {
            "items": [event.to_json() for event in page],
            "next_cursor": page[-1].id if len(events) > limit else None,
        }

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Cancel the run: abandon its work and start nothing new. A repeated call changes nothing.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: the run has already finished with another status.
        """
        run = self.run(run_id)
        return summary_body(self._store.runs.stop(run.id, RunStatus.CANCELLED, self._clock()))

    def resume(self, run_id: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Resume the run at its failed and parked visits. `input` replaces values of its input.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: the run has succeeded, the input is not valid, or the run has not ended and there
                is input.
        """
        run = self.run(run_id)
        if input and not run.status.is_final:
            message = f"run {run_id} has not ended, so its input cannot be corrected; resume it without input"
            raise RejectedError("not_ended", message)
        from noetl.executor.engine.start import correct_input

        header = self._store.plans.header(run.plan_hash)
        now = self._clock()
        deadline_at = None if header.timeout_seconds is None else now + header.timeout_seconds
        values = correct_input(header, run, input) if input else {}
        return summary_body(self._store.runs.resume(run.id, now, deadline_at=deadline_at, values=values))

    def answer(self, token: str, body: Any) -> None:
        """Complete the action that waits for the token with `body`. The same answer again changes nothing.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, by another answer before; `closed`, if no
                action waits for it any more; `too_large`.
        """
        self._store.waits.answer(hash_secret(token), body, self._clock())

    def record_heartbeat(self, token: str) -> None:
        """Record that an external worker is still working on the answer to a token.

        Raises:
            RejectedError: `unknown_token` and `closed`, as for an answer.
        """
        self._store.waits.record_heartbeat(hash_secret(token), self._clock())

    def register(self, text: str | bytes) -> tuple[dict[str, Any], bool]:
        """Register a playbook under its name and version. Return its entry, and whether it is new.

        Without a `version`, a playbook gets the next number. Registering the same text again changes nothing.

        Raises:
            PlaybookError: the playbook does not compile.
            RejectedError: `invalid_name`, if the path of the playbook would be ambiguous; `version_exists`,
                if the version was registered with another text, even if it has been removed since.
        """
        plan = self._compile_or_raise(text)
        name, version = plan.header.name, plan.header.version
        _check_addressable("name", name)
        if version is not None:
            _check_addressable("version", version)
        before = self._store.registry.get(self._tenant, name, version)
        self._store.plans.save(plan)
        try:
            registered = self._store.registry.register(
                RegisteredPlaybook(self._tenant, name, version, plan.hash, round(self._clock(), 6))
            )
        except RejectedError:
            # Another release of the compiler may produce another plan of the same text.
            if before is None or self._store.plans.get(before.plan_hash).source != plan.source:
                raise
            registered = before
        return _entry(registered), registered != before

    def playbooks(
        self,
        name: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return one page of the tenant's registry, with the cursor of the next page.

        Without `name` it has the newest version of each playbook, by name. With `name` it has all versions of
        that playbook, the newest first.

        Raises:
            NotFoundError: the registry has no playbook of the name.
            RejectedError: `invalid_cursor`.
        """
        playbooks, next_cursor = self._store.registry.find(self._tenant, name, limit=limit, cursor=cursor)
        if name is not None and cursor is None and not playbooks:
            raise _unknown_playbook(name, None)
        return {"items": [_entry(playbook) for playbook in playbooks], "next_cursor": next_cursor}

    def playbook(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Return a registered playbook, of `version` or the newest one, with its text as `source`.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        playbook = self._registered(name, version)
        return _entry(playbook) | {"source": self._store.plans.get(playbook.plan_hash).source}

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version of a playbook, or all versions, from the registry. Runs of it continue.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        if not self._store.registry.unregister(self._tenant, name, version, now=self._clock()):
            raise _unknown_playbook(name, version)

    def _start(
        self,
        source: object,
        find_plan: Callable[[], tuple[Header, str]],
        unsaved_plan: Plan | None = None,
        *,
        input: Mapping[str, Any],
        idempotency_key: str | None,
        variables: Mapping[str, Any] | None,
        tags: Sequence[str],
        trace: str | None,
    ) -> Run:
        """Store a run of the plan that `find_plan` returns, or return the run of the same request before.

        `source` identifies the playbook in the hash of the request. With an idempotency key, the id of the
        run is derived from key and request. So an earlier run is found before its plan is read.
        """
        from noetl.executor.engine.start import new_run

        run_id = idempotency = None
        if idempotency_key is not None:
            idempotency = (idempotency_key, _hash([source, input, variables, list(tags)]))
            run_id = _hash([self._tenant, *idempotency])[:24]
            if (earlier := self._store.runs.get(self._tenant, run_id)) is not None:
                return earlier
        header, plan_hash = find_plan()
        run, first_visit = new_run(
            header,
            plan_hash,
            input,
            id=run_id,
            tenant=self._tenant,
            variables=variables,
            tags=tags,
            trace=trace,
            now=self._clock(),
        )
        if unsaved_plan is not None:
            self._store.plans.save(unsaved_plan)
        return self._store.runs.create(run, first_visit, idempotency=idempotency)

    def _compile_or_raise(self, text: str | bytes) -> Plan:
        compilation = self.compile(text)
        if compilation.plan is None:
            raise PlaybookError(compilation.diagnostics)
        return compilation.plan

    def _registered(self, name: str, version: str | None) -> RegisteredPlaybook:
        playbook = self._store.registry.get(self._tenant, name, version)
        if playbook is None:
            raise _unknown_playbook(name, version)
        return playbook

    def _compile(self, text: str | bytes) -> Compilation:
        from noetl.planner.compile import compile_playbook

        return compile_playbook(text, self._catalogue)

    def _read_step_names(self, plan_hash: str) -> tuple[str, ...]:
        return tuple(self._store.plans.get(plan_hash).steps)


def result_body(run: Run) -> dict[str, Any]:
    """Return the body of `/workflows/result/{id}` for a run."""
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "result": run.result,
        "errors": list(run.errors),
    }


def _hash(request: Any) -> str:
    return hashlib.sha256(canonical_json(request).encode()).hexdigest()


def _entry(playbook: RegisteredPlaybook) -> dict[str, Any]:
    return {
        "name": playbook.name,
        "version": playbook.version,
        "plan_hash": playbook.plan_hash,
        "created_at": timestamp(playbook.created_at),
    }


def _unknown_playbook(name: str, version: str | None) -> NotFoundError:
    subject = f"playbook `{name}`" if version is None else f"version `{version}` of playbook `{name}`"
    return NotFoundError(f"unknown {subject}")


def _check_addressable(kind: str, text: str) -> None:
    """Check that a name or a version (`kind`) is unambiguous in a path.

    Raises:
        RejectedError: `invalid_name`.
    """
    from noetl.planner.syntax.names import MAX_NAME_LENGTH, is_valid_name

    if not is_valid_name(text) or not set(text.split("/")).isdisjoint(_RESERVED_SEGMENTS):
        message = (
            f"the {kind} of a registered playbook must be 1 to {MAX_NAME_LENGTH} printable characters"
            " without blanks around them, and no segment between slashes may be empty, `.`, `..` or"
            " `versions`"
        )
        raise RejectedError("invalid_name", message)


def summary_body(run: Run) -> dict[str, Any]:
    """Return the entry of a run in the list of runs."""
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "playbook": run.playbook,
        "version": run.version,
        **_related_runs(run),
        "created_at": timestamp(run.created_at),
        "started_at": timestamp(run.started_at),
        "finished_at": timestamp(run.finished_at),
        "tags": list(run.tags),
    }


def _related_runs(run: Run) -> dict[str, Any]:
    """Return the ids of the run that started this one, and of the run whose history it continues, if any."""
    parent = {} if run.parent is None else {"parent": run.parent.run_id}
    return parent if run.resumed_from is None else parent | {"resumed_from": run.resumed_from}
