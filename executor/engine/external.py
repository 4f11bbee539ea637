"""What actions that wait ask of the world outside their step: tokens that answer them, and runs of other playbooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.ids import derived_id, hash_secret
from noetl.executor.model.run import Claim, Run, RunStatus, Wait, WaitKey
from noetl.executor.model.tracing import make_traceparent
from noetl.executor.security.redaction import CALLBACK_TOKENS
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen

MAX_RUN_DEPTH = 10
"""How deep runs may start each other."""

CALLBACK_PATH = "/workflows/callbacks/"
"""The path under which tokens are answered."""

FindPlaybook = Callable[[Run, str, str | None], str | None]
"""The hash of the plan of a playbook, by name and version, for a run that wants to start it; None when there is none."""


def registry_finder(store: Store) -> FindPlaybook:
    """Looks playbooks up in the registry of the run's tenant."""

    def find(run: Run, name: str, version: str | None) -> str | None:
        found = store.playbook(run.tenant, name, version)
        return None if found is None else found.plan_hash

    return find


@frozen
class VisitWaits:
    """The external waits of one claimed visit: implements `noetl.executor.actions.action.ExternalWaits`."""

    store: Store
    claim: Claim
    find_playbook: FindPlaybook
    public_url: str | None
    clock: Callable[[], float]

    def open_wait(self, wait_id: str) -> dict[str, str]:
        token = CALLBACK_TOKENS.create()
        self.store.open_wait(self._key(wait_id), self.claim.visit.fence, hash_secret(token))
        address = {"token": token}
        if self.public_url:
            address["url"] = f"{self.public_url.rstrip('/')}{CALLBACK_PATH}{token}"
        return address

    def read_wait(self, wait_id: str) -> Wait:
        return self.store.wait(self._key(wait_id))

    def close_wait(self, wait_id: str) -> Wait:
        return self.store.close_wait(self._key(wait_id), self.clock())

    def start_run(
        self, wait_id: str, playbook: str, version: str | None, input: Mapping[str, Any], *, detached: bool
    ) -> Run:
        from noetl.executor.engine.start import new_run

        parent = self.claim.run
        if parent.depth >= MAX_RUN_DEPTH:
            message = f"`{playbook}` is not started: runs start each other at most {MAX_RUN_DEPTH} deep"
            raise ActionError("LimitExceeded", message, retryable=False)
        plan_hash = self.find_playbook(parent, playbook, version)
        if plan_hash is None:
            wanted = (
                f"playbook `{playbook}`" if version is None else f"version {version} of playbook `{playbook}`"
            )
            raise ActionError("ParameterError", f"there is no {wanted}", retryable=False)
        try:
            run, first = new_run(
                self.store.plan_header(plan_hash),
                plan_hash,
                input,
                id=derived_id("workflow", parent.id, self.claim.visit.id, wait_id),
                now=self.clock(),
                tenant=parent.tenant,
                origin=parent.origin,
                queue=parent.queue,
                folder=parent.folder,
                source=parent.source,
                parent=None if detached else self._key(wait_id),
                depth=parent.depth + 1,
                trace=make_traceparent(parent, self.claim.visit.id, wait_id),
            )
        except RejectedError as problem:
            message = f"`{playbook}` cannot be started: {problem.message}"
            raise ActionError("ParameterError", message, retryable=False) from problem
        return self.store.create_run(run, first)

    def read_run(self, run_id: str) -> Run:
        found = self.store.run(self.claim.run.tenant, run_id)
        assert found is not None
        return found

    def cancel_run(self, run_id: str) -> None:
        with suppress(RejectedError):
            self.store.stop(run_id, RunStatus.CANCELLED, self.clock())

    def resume_run(self, run_id: str) -> None:
        now = self.clock()
        seconds = self.store.plan_header(self.read_run(run_id).plan_hash).timeout_seconds
        with suppress(RejectedError):  # somebody else has gone on with it, to a good end
            self.store.resume(run_id, now, deadline_at=None if seconds is None else now + seconds, values={})

    def _key(self, wait: str) -> WaitKey:
        visit = self.claim.visit
        return WaitKey(visit.run_id, visit.id, wait)
