"""What the ways in share: start runs, ask about them, stop them and go on with them; keep playbooks; answer who waits.

Every call blocks while the store works. Answers are the bodies that HTTP and `--json` show.
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
from noetl.executor.engine.external import hash_of
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.registry import Playbook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import suggest
from noetl.planner.plan import Header, Plan, canonical

if TYPE_CHECKING:
    # The compiler is loaded for the first playbook: most requests of a function that starts anew need none.
    from noetl.planner.compile import Compilation

DEFAULT_TENANT = "default"
EVENTS_PER_PAGE = 1000

_RESERVED_SEGMENTS = ("", ".", "..", "versions")
"""What cannot stand between slashes in the address of a playbook: other parts of it could not be told from the name."""

_CACHED_TEXT_LENGTH = 64 * 1024
"""Longer playbooks are compiled anew: a compilation takes many times the memory of its text."""


class Service:
    """Runs and playbooks of one tenant in a store. Safe to share between threads."""

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

    def of(self, tenant: str) -> Service:
        """The service of another tenant. What is compiled is shared: a plan is the same for everyone."""
        other = copy(self)
        other._tenant = tenant  # noqa: SLF001  It is one of us.
        return other

    def compile(self, text: str | bytes) -> Compilation:
        """The plan of a playbook, or what is wrong with it; never raises on bad text."""
        return (self._compile if len(text) > _CACHED_TEXT_LENGTH else self._compile_cached)(text)

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
        """A run of the playbook is stored, with its first visit ready for a worker.

        With an `idempotency_key` that the same request carried before, this is the run started then. `trace` is the `traceparent`
        of whoever asks.

        Raises:
            PlaybookError: it does not compile.
            RejectedError: `invalid_input`, or `idempotency_key_reused` by another request.
        """
        plan = self._compiled(text)

        def found() -> tuple[Header, str]:
            return plan.header, plan.hash

        return self._start(
            plan.source,
            found,
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
        """As `start`, a run of a playbook of the registry: of the version, or the newest that is there.

        With an `idempotency_key` that the same request carried before, this is the run started then, whatever has become of
        the registry meanwhile.

        Raises:
            NotFoundError: the registry has no such playbook.
            RejectedError: `invalid_input`, or `idempotency_key_reused` by another request.
        """

        def found() -> tuple[Header, str]:
            plan_hash = self._registered(name, version).plan_hash
            return self._store.plan_header(plan_hash), plan_hash

        return self._start(
            {"name": name, "version": version},
            found,
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
        """A new run is stored that goes on from a step of one that has ended, with what that knew there; `input` is laid over
        what that was given.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: `unknown_step`, `not_ended`, `inside_region`, `invalid_input`, or `idempotency_key_reused` by another
                request.
        """
        from noetl.executor.engine.start import restarted

        run = self.run(run_id)
        names = self._step_names(run.plan_hash)
        if step not in names:
            hint = suggest(step, names)
            raise RejectedError(
                "unknown_step", f"the playbook has no step `{step}`" + (f"; {hint}" if hint else "")
            )
        fresh, first, history = restarted(
            self._store.plan_header(run.plan_hash),
            self._store.plan_step(run.plan_hash, step),
            run,
            self._store.saved(run.id),
            input or {},
            now=self._clock(),
        )
        asked = [run.id, step, dict(input or {})]
        idempotency = None if idempotency_key is None else (idempotency_key, _hash(asked))
        return self._store.create_run(fresh, first, idempotency=idempotency, history=history)

    def run(self, run_id: str) -> Run:
        """The run's record.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self._store.run(self._tenant, run_id)
        if run is None:
            raise NotFoundError(f"there is no run `{run_id}`")
        return run

    def status(self, run_id: str) -> dict[str, Any]:
        """Where the run stands: the body of `/workflows/status/{id}`.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        run = self.run(run_id)
        steps = step_statuses(run, self._step_names(run.plan_hash), self._store.visits(run.id))
        states = Counter(step["status"] for step in steps.values())
        return {
            "workflow_id": run.id,
            "status": run.status.value,
            "playbook": run.playbook,
            **_origins(run),
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

    def plan(self, run_id: str) -> Plan:
        """The plan that the run follows, with its source.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return self._store.plan(self.run(run_id).plan_hash)

    def result(self, run_id: str) -> dict[str, Any]:
        """What came out, null until the run has finished: the body of `/workflows/result/{id}`.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        return result_of(self.run(run_id))

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
        """One page of the tenant's runs, the newest first, and the cursor of the next one.

        Raises:
            RejectedError: the cursor is not one of ours.
        """
        found, next_cursor = self._store.runs(
            self._tenant, status=status, playbook=playbook, tag=tag, since=since, limit=limit, cursor=cursor
        )
        return {"items": [summary_of(run) for run in found], "next_cursor": next_cursor}

    def events(
        self,
        run_id: str,
        after: str | None = None,
        limit: int = EVENTS_PER_PAGE,
    ) -> dict[str, Any]:
        """One page of the run's history, behind the event `after`; `next_cursor` is null where no more is known yet.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: the cursor is not one of ours.
        """
        run = self.run(run_id)
        found = self._store.events(run.id, after, limit + 1)
        page = found[:limit]
        return {
            "items": [event.to_json() for event in page],
            "next_cursor": page[-1].id if len(found) > limit else None,
        }

    def cancel(self, run_id: str) -> dict[str, Any]:
        """The run is heading for `cancelled`: what is at work is given up, nothing new starts. A repeat changes nothing.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: it has already finished in another way.
        """
        run = self.run(run_id)
        return summary_of(self._store.stop(run.id, RunStatus.CANCELLED, self._clock()))

    def resume(self, run_id: str, input: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The run goes on from its failed and parked visits, with `input` laid over what it was given.

        Raises:
            NotFoundError: the tenant has no such run.
            RejectedError: it succeeded, the input does not fit, or there is input for a run that has not ended.
        """
        run = self.run(run_id)
        if input and not run.status.is_final:
            message = f"run {run_id} has not ended, so its input cannot be corrected; resume it without"
            raise RejectedError("not_ended", message)
        from noetl.executor.engine.start import corrected

        header = self._store.plan_header(run.plan_hash)
        now = self._clock()
        deadline_at = None if header.timeout_seconds is None else now + header.timeout_seconds
        values = corrected(header, run, input) if input else {}
        return summary_of(self._store.resume(run.id, now, deadline_at=deadline_at, values=values))

    def answer(self, token: str, body: Any) -> None:
        """The step that asked with the token has its answer and goes on. The same answer again changes nothing.

        Raises:
            RejectedError: `unknown_token`; `answered_otherwise`, when another answer came before; `closed`, when nobody waits
                for it any more; `too_large`.
        """
        self._store.answer(hash_of(token), body, self._clock())

    def hear(self, token: str) -> None:
        """It is noted that whoever is to answer is alive.

        Raises:
            RejectedError: `unknown_token` and `closed`, as for an answer.
        """
        self._store.hear(hash_of(token), self._clock())

    def register(self, text: str | bytes) -> tuple[dict[str, Any], bool]:
        """The playbook is in the registry, under its name and its `version`, or the next number if it has none; and whether
        it was not there before. Registering the same text again changes nothing.

        Raises:
            PlaybookError: it does not compile.
            RejectedError: `invalid_name`, when name or version can have no address; `version_exists`, when the version was
                registered with another text, even if it has been removed since.
        """
        plan = self._compiled(text)
        name, version = plan.header.name, plan.header.version
        _check_addressable("name", name)
        if version is not None:
            _check_addressable("version", version)
        before = self._store.playbook(self._tenant, name, version)
        self._store.save_plan(plan)
        try:
            found = self._store.register(
                Playbook(self._tenant, name, version, plan.hash, round(self._clock(), 6))
            )
        except RejectedError:
            # Another release of the compiler may make another plan of the same text.
            if before is None or self._store.plan(before.plan_hash).source != plan.source:
                raise
            found = before
        return _entry(found), found != before

    def playbooks(
        self,
        name: str | None = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """One page of the tenant's registry, and the cursor of the next one: the newest version of each playbook, by name; or
        all versions of one, the newest first.

        Raises:
            NotFoundError: the registry has no playbook of the name.
            RejectedError: the cursor is not one of ours.
        """
        found, next_cursor = self._store.playbooks(self._tenant, name, limit=limit, cursor=cursor)
        if name is not None and cursor is None and not found:
            raise _no_playbook(name, None)
        return {"items": [_entry(playbook) for playbook in found], "next_cursor": next_cursor}

    def playbook(self, name: str, version: str | None = None) -> dict[str, Any]:
        """A playbook of the registry with its text, as `source`: the version, or the newest that is there.

        Raises:
            NotFoundError: the registry has no such playbook.
        """
        found = self._registered(name, version)
        return _entry(found) | {"source": self._store.plan(found.plan_hash).source}

    def unregister(self, name: str, version: str | None = None) -> None:
        """The version of a playbook, or all of them, are not in the registry any more. Runs of it go on.

        Raises:
            NotFoundError: the registry had no such playbook.
        """
        if not self._store.unregister(self._tenant, name, version, now=self._clock()):
            raise _no_playbook(name, version)

    def _start(
        self,
        asked: object,
        find: Callable[[], tuple[Header, str]],
        unsaved: Plan | None = None,
        *,
        input: Mapping[str, Any],
        idempotency_key: str | None,
        variables: Mapping[str, Any] | None,
        tags: Sequence[str],
        trace: str | None,
    ) -> Run:
        """A run of the plan that `find` gives, or the one that was started for the same request, which `asked` for it, before.

        The id of a run that is started with a key follows from key and request, so that it is found before the plan is
        looked for.
        """
        from noetl.executor.engine.start import new_run

        run_id = idempotency = None
        if idempotency_key is not None:
            idempotency = (idempotency_key, _hash([asked, input, variables, list(tags)]))
            run_id = _hash([self._tenant, *idempotency])[:24]
            if (earlier := self._store.run(self._tenant, run_id)) is not None:
                return earlier
        header, plan_hash = find()
        run, first = new_run(
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
        if unsaved is not None:
            self._store.save_plan(unsaved)
        return self._store.create_run(run, first, idempotency=idempotency)

    def _compiled(self, text: str | bytes) -> Plan:
        compilation = self.compile(text)
        if compilation.plan is None:
            raise PlaybookError(compilation.diagnostics)
        return compilation.plan

    def _registered(self, name: str, version: str | None) -> Playbook:
        found = self._store.playbook(self._tenant, name, version)
        if found is None:
            raise _no_playbook(name, version)
        return found

    def _compile(self, text: str | bytes) -> Compilation:
        from noetl.planner.compile import compile_playbook

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


def _hash(request: Any) -> str:
    return hashlib.sha256(canonical(request).encode()).hexdigest()


def _entry(playbook: Playbook) -> dict[str, Any]:
    return {
        "name": playbook.name,
        "version": playbook.version,
        "plan_hash": playbook.plan_hash,
        "created_at": timestamp(playbook.created_at),
    }


def _no_playbook(name: str, version: str | None) -> NotFoundError:
    wanted = f"playbook `{name}`" if version is None else f"version `{version}` of playbook `{name}`"
    return NotFoundError(f"there is no {wanted}")


def _check_addressable(what: str, text: str) -> None:
    """Nothing happens if a name or version can stand in an address.

    Raises:
        RejectedError: `invalid_name` otherwise.
    """
    from noetl.planner.syntax.names import MAX_NAME, is_name

    if not is_name(text) or not set(text.split("/")).isdisjoint(_RESERVED_SEGMENTS):
        message = (
            f"a playbook is registered under a {what} of 1 to {MAX_NAME} printable characters without blanks around it,"
            " in which nothing between slashes is empty, `.`, `..` or `versions`"
        )
        raise RejectedError("invalid_name", message)


def summary_of(run: Run) -> dict[str, Any]:
    """The entry of a run in the list of runs."""
    return {
        "workflow_id": run.id,
        "status": run.status.value,
        "playbook": run.playbook,
        "version": run.version,
        **_origins(run),
        "created_at": timestamp(run.created_at),
        "started_at": timestamp(run.started_at),
        "finished_at": timestamp(run.finished_at),
        "tags": list(run.tags),
    }


def _origins(run: Run) -> dict[str, Any]:
    """The run that started this one and waits for it, and the run whose history this one goes on with, where there are."""
    parent = {} if run.parent is None else {"parent": run.parent.run_id}
    return parent if run.resumed_from is None else parent | {"resumed_from": run.resumed_from}
