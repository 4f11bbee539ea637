"""The firing of triggers: a run is started, or a record says why none was.

Problem: several processes see that a trigger must fire, and each may die at any point.

Algorithm: a firing is one write of the store (see `noetl.executor.model.triggers`). It has the run with its
first visit, the record of the firing, and what the firing changes of the trigger. The id of the run follows
from the firing, so a firing that is performed again starts no second run.

Cost: one read of the plan, which is cached, and one transaction.

Limits: a firing that another process evaluates is refused while that has too much work. The caller tries it
again later.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from noetl.executor.engine.evaluation import evaluate
from noetl.executor.engine.firing_expressions import FiringExpressions, FiringPart
from noetl.executor.engine.quotas import check_branch_quota
from noetl.executor.engine.run_log import log_run_start
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.debounce import identify_firing
from noetl.executor.model.run import SERVICE_QUEUE, Run
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import (
    Advance,
    Firing,
    FiringOutcome,
    LiveTrigger,
    describe_cause,
    firing_id,
    name_run,
    record_firing,
)
from noetl.executor.security.redaction import redact_for_storage, redacting_for
from noetl.executor.stores.firing_log import log_firings
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.plan import Header, Trigger

BACKFILL_TAG = "backfill"
"""The key of the tag that runs of a backfill have."""

MAX_KEY_BYTES = 1024
"""The greatest length of a key that a playbook gives."""

MAX_CONFLICTS = 10
"""How often a firing is tried after another process has changed the trigger."""

CONFLICT_SECONDS = 0.01
"""The longest pause after the first of these tries. It doubles with each of them."""

MAX_CONFLICT_SECONDS = 0.2
"""The longest pause after any of these tries."""


def read_firer(store: Store, trigger: LiveTrigger, now: float) -> Firer | None:
    """Return what fires a trigger at a time, or None if its plan does not declare it."""
    header = store.plans.header(trigger.plan_hash)
    declared = header.find_trigger(trigger.name)
    return None if declared is None else Firer(store, trigger, header, declared, now)


def pause_after_conflict(number: int) -> None:
    """Wait after the try with a number, the first of which is 0. Firings that conflict wait differently.

    No try follows the last one, so it has no pause.
    """
    if number < MAX_CONFLICTS - 1:
        time.sleep(random.uniform(0.0, min(CONFLICT_SECONDS * 2**number, MAX_CONFLICT_SECONDS)))


@frozen
class Firer:
    """A trigger as it was read, with its declaration in a plan. It fires at the time `now`."""

    store: Store
    trigger: LiveTrigger
    header: Header
    declared: Trigger
    now: float

    def fire(self, firing: Firing, view: Mapping[str, Any], advance: Advance) -> Advance | None:
        """Perform a firing: start its run, or record why none is started.

        `view` is what templates read under `trigger`. Return what was written, of which the last record is
        that of this firing, or None if another process has changed the trigger. If an earlier firing has
        started the run, it has `earlier_run` and no such record.

        Raises:
            RejectedError: `quota_exceeded`; `service_busy`.
            TriggerChangedError: another process has changed the trigger.
        """
        try:
            given = self._evaluate(view, "wanted input")
            if given is None:
                return self.write(record_firing(advance, firing, FiringOutcome.FILTERED, "`if` is false"))
            run, is_new = self.start(firing, given, advance)
        except ActionError as problem:
            return self.write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
        except RejectedError as problem:
            if problem.is_temporary:
                raise
            return self.write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
        started = name_run(record_firing(advance, firing, FiringOutcome.STARTED), run.id)
        if is_new:
            log_firings(started.firings)
            return started
        # Another process was faster, or the run was started by hand before. Its firing is recorded.
        return self.write(replace(started, firings=advance.firings, earlier_run=run.id))

    def start(self, firing: Firing, given: Mapping[str, Any], advance: Advance) -> tuple[Run, bool]:
        """Write the run of a firing with its input together with `advance`.

        Return the run, and whether the firing has started it, or has joined it while it was pending.

        Raises:
            RejectedError: `invalid_input`; `quota_exceeded`; `too_large`.
            TriggerChangedError: another process has changed the trigger.
        """
        trigger = self.trigger
        request = StartRequest(
            input=given,
            tenant=trigger.tenant,
            version=trigger.version,
            run_id=firing.id,
            trigger=describe_cause(trigger, firing),
            tags=() if firing.backfill is None else (f"{BACKFILL_TAG}={firing.backfill}",),
            is_immediate=firing.backfill is not None,
        )
        run, first_visit = new_run(self.header, trigger.plan_hash, request, now=self.now)
        check_branch_quota(self.store, trigger.tenant, SERVICE_QUEUE)
        written = record_firing(advance, firing, FiringOutcome.STARTED)
        created = self.store.runs.fire(run, first_visit, written)
        log_run_start(created, run)
        return created, created is run or created.debounce is not None

    def find_run(self, id: str) -> RunSummary | None:
        """Return the run that the firing with an id has started or joined before."""
        runs, tenant = self.store.runs, self.trigger.tenant
        run = runs.summary(tenant, id)
        if run is not None or self.header.debounce is None:
            return run
        request = runs.find_request(tenant, identify_firing(id)[0])
        return None if request is None else runs.summary(tenant, request[1])

    def render_input(self, view: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a run. `view` is what the templates read under `trigger`.

        The values in `given` replace those of the templates, which are not evaluated.

        Raises:
            ActionError: an input has no value.
        """
        return {**self._evaluate(view, "input", frozenset(given)), **given}

    def with_key(self, firing: Firing, view: Mapping[str, Any]) -> Firing:
        """Return a firing with the value of `key` as its key, if the declaration has a `key`.

        Raises:
            ActionError: the key has no value, is no text and no number, or is too long.
        """
        if self.declared.key is None:
            return firing
        value = self._evaluate(view, "key")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ActionError(
                "ParameterError", f"`key` must be a text or a number, not {describe_kind_of(value)}"
            )
        if len(str(value).encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
            raise ActionError("ParameterError", f"`key` must have at most {MAX_KEY_BYTES} bytes")
        # The key of a declaration must not be that of a firing by hand.
        key = f"key {value}"
        trigger = self.trigger
        return replace(firing, key=key, id=firing_id(trigger.tenant, trigger.playbook, trigger.name, key))

    def _evaluate(
        self, view: Mapping[str, Any], part: FiringPart, given: frozenset[str] = frozenset()
    ) -> Any:
        """Return the value of a part of the expressions. They read no secret, since their values are stored.

        Raises:
            ActionError: an expression has no value.
        """
        tenant = self.trigger.tenant
        with redacting_for(tenant):
            redacted = redact_for_storage(view)
        return evaluate(FiringExpressions(self.declared, redacted, self.now, part, given), tenant)

    def write(self, advance: Advance) -> Advance | None:
        """Write an advance without a run, and return it, or None if the trigger has changed."""
        if not self.store.triggers.advance(advance):
            return None
        log_firings(advance.firings)
        return advance
