"""External waits of a visit: callback tokens, and runs of other playbooks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from noetl.executor.engine.quotas import check_branch_quota, read_child_run_limit
from noetl.executor.engine.run_log import log_run_start
from noetl.executor.errors import ActionError, RejectedError, SettingError
from noetl.executor.model.ids import derived_id, hash_secret
from noetl.executor.model.open_waits import rank_wait
from noetl.executor.model.run import NEVER, Claim, Run, RunStatus, Wait, WaitKey
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.tracing import child_trace
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.security.redaction import CALLBACK_TOKENS
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.diagnostics.wording import shorten
from noetl.planner.syntax.names import is_valid_name

MAX_RUN_DEPTH = 10
"""How many levels of child runs a run may have."""

_MAX_SHOWN = 200
"""How many characters of a name an error shows."""

CALLBACK_PATH = "/workflows/callbacks/"
"""The path of the HTTP interface to which a token is appended."""


class FoundPlaybook(NamedTuple):
    """The plan of a playbook that was found, and its version, or None if it has none."""

    plan_hash: str
    version: str | None


FindPlaybook = Callable[[Run, PlaybookCall], FoundPlaybook | None]
"""A function (parent run, call) that finds a playbook, or returns None if it is unknown."""


def read_public_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the base URL of callbacks, `NOETL_PUBLIC_URL`, or None.

    Raises:
        SettingError: the setting is not an http or https URL to which a path can be appended.
    """
    text = environ.get("NOETL_PUBLIC_URL", "").strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        is_base_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_base_url = False
    if not is_base_url or not text.isprintable() or any(sign in text for sign in " ?#@"):
        example = "https://noetl.example.com"
        raise SettingError(
            f"NOETL_PUBLIC_URL is {text!r}; it must be an http or https URL such as {example}."
        )
    return text


def describe_call(call: PlaybookCall) -> str:
    """Return the playbook of a call in words.

    >>> describe_call(PlaybookCall("report", alias="stable"))
    'alias stable of playbook `report`'
    """
    name = shorten(call.name, _MAX_SHOWN)
    if call.alias is not None:
        return f"alias {shorten(call.alias, _MAX_SHOWN)} of playbook `{name}`"
    if call.version is not None:
        return f"version {shorten(call.version, _MAX_SHOWN)} of playbook `{name}`"
    return f"playbook `{name}`"


def registry_finder(store: Store) -> FindPlaybook:
    """Return a function that finds playbooks in the registry of the run's tenant.

    A name that the registry cannot have is unknown. Not every store can search for it.
    """

    def find(run: Run, call: PlaybookCall) -> FoundPlaybook | None:
        if not all(map(is_valid_name, (call.name, call.label or LIVE))):
            return None
        playbook = store.registry.get(run.tenant, call.name, call.version, alias=call.followed_alias)
        return None if playbook is None else FoundPlaybook(playbook.plan_hash, playbook.version)

    return find


@dataclass(slots=True, eq=False, repr=False)
class VisitWaits:
    """The external waits of one claimed visit (implements `noetl.executor.actions.action.ExternalWaits`).

    `has_started_run` is true if the visit has started a child run, whose end it awaits, in this segment.
    """

    store: Store
    claim: Claim
    find_playbook: FindPlaybook
    public_url: str | None
    clock: Callable[[], float]
    has_started_run: bool = False

    def open_wait(
        self, wait_id: str, declared: AnswerDeclaration | None = None, expires_at: float = NEVER
    ) -> dict[str, str]:
        # Waits that one segment opens at the same time have the same rank, and are in the order of their ids.
        opened_at = self.claim.visit.segment_started_at or self.clock()
        token, rank = CALLBACK_TOKENS.create(), rank_wait(expires_at, opened_at)
        self.store.waits.open_wait(self.claim, wait_id, hash_secret(token), declared, rank)
        callback = {"token": token}
        if self.public_url:
            callback["url"] = f"{self.public_url.rstrip('/')}{CALLBACK_PATH}{token}"
        return callback

    def read_wait(self, wait_id: str) -> Wait:
        return self.store.waits.wait(self._key(wait_id))

    def close_wait(self, wait_id: str) -> Wait:
        return self.store.waits.close_wait(self._key(wait_id), self.clock())

    def start_run(
        self, wait_id: str, called: PlaybookCall, input: Mapping[str, Any], *, detached: bool
    ) -> Run:
        from noetl.executor.engine.start import new_run

        parent, playbook = self.claim.run, shorten(called.name, _MAX_SHOWN)
        if parent.depth >= MAX_RUN_DEPTH:
            message = f"`{playbook}` exceeds the limit of {MAX_RUN_DEPTH} levels of child runs"
            raise ActionError("LimitExceeded", message, retryable=False)
        max_child_runs = self._check_quotas(playbook)
        found = self.find_playbook(parent, called)
        if found is None:
            raise ActionError("ParameterError", f"unknown {describe_call(called)}", retryable=False)
        request = StartRequest(
            input=input,
            trace=child_trace(parent, self.claim.visit.id, wait_id),
            tenant=parent.tenant,
            origin=parent.origin,
            queue=parent.queue,
            folder=parent.folder,
            source=parent.source,
            parent=None if detached else self._key(wait_id),
            depth=parent.depth + 1,
            root=parent.root or parent.id,
            version=found.version,
            run_id=derived_id("workflow", parent.id, self.claim.visit.id, wait_id),
        )
        try:
            header = self.store.plans.header(found.plan_hash)
            run, first_visit = new_run(header, found.plan_hash, request, now=self.clock())
        except RejectedError as problem:
            message = f"`{playbook}` cannot be started: {problem.message}"
            raise ActionError("ParameterError", message, retryable=False) from problem
        self.has_started_run |= not detached
        try:
            child = self.store.runs.create(run, first_visit, max_child_runs=max_child_runs)
        except RejectedError as problem:
            raise _start_refused(playbook, problem) from problem
        log_run_start(child, run)
        return child

    def _check_quotas(self, started: str) -> int | None:
        """Return how many child runs the root of the run may have, or None for any number.

        `started` is the playbook or the run to start.

        Raises:
            ActionError: the tenant may start no more runs, or a setting is invalid.
        """
        parent = self.claim.run
        try:
            check_branch_quota(self.store, parent.tenant, parent.queue)
            return read_child_run_limit(parent.queue)
        except (RejectedError, SettingError) as problem:
            raise _start_refused(started, problem) from problem

    def read_run(self, run_id: str) -> Run:
        run = self.store.runs.get(self.claim.run.tenant, run_id)
        assert run is not None
        return run

    def cancel_run(self, run_id: str) -> None:
        with suppress(RejectedError):
            self.store.runs.stop(run_id, RunStatus.CANCELLED, self.clock())

    def resume_run(self, run_id: str) -> None:
        self._check_quotas(run_id)
        now = self.clock()
        seconds = self.store.plans.header(self.read_run(run_id).plan_hash).timeout_seconds
        deadline_at = None if seconds is None else now + seconds
        with suppress(RejectedError):  # another client has resumed it, and it has succeeded
            self.store.runs.resume(run_id, now, deadline_at=deadline_at, values={})

    def _key(self, wait_id: str) -> WaitKey:
        visit = self.claim.visit
        return WaitKey(visit.run_id, visit.id, wait_id)


def _start_refused(started: str, problem: RejectedError | SettingError) -> ActionError:
    """Return the error of a child run that a store or a quota refuses."""
    message = f"`{started}` cannot be started: {problem}"
    return ActionError("LimitExceeded", message, retryable=False)
