"""A harness that compiles playbooks and executes their runs in the test: one executor, a fake clock, no
sleeping.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.model.events import Event
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import NEVER, Claim, Lease, Run, RunStatus, Visit
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import Catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.plan import Plan

LEASE_SECONDS = 30.0
MOST_ROUNDS = 2000
MOST_PLANS = 500
LONGEST_TEXT = 20_000
"""How many plans `compile_text` keeps, and the characters of the longest text among them."""

_plans: dict[str, tuple[Catalogue, Plan]] = {}
"""Plans by their text, each with the declarations of the actions for which it was compiled."""


class FakeClock:
    """A clock that a test sets, in seconds since the epoch."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def compile_text(text: str) -> Plan:
    """Return the plan of a playbook, which must have no errors. `name:` may be missing.

    A text is compiled once, because many tests run the same playbook on several stores.
    """
    declarations = catalogue()
    known = _plans.get(text)
    if known is not None and known[0] is declarations:
        return known[1]
    plan = _compile_without_errors(dedent(text), declarations)
    if len(text) <= LONGEST_TEXT:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        _plans[text] = (declarations, plan)
    return plan


def _compile_without_errors(text: str, declarations: Catalogue) -> Plan:
    if not text.startswith("{") and not re.search("^name:", text, re.MULTILINE):
        text = "name: play\n" + text
    found = compile_playbook(text, declarations)
    errors = [d for d in found.diagnostics if d.severity is Severity.ERROR]
    assert not errors, errors
    assert found.plan is not None
    return found.plan


def register_playbook(store: Store, text: str, version: str | None = None) -> RegisteredPlaybook:
    """Register a playbook, so that other runs can start it, and return it."""
    plan = compile_text(text)
    store.plans.save(plan)
    return store.registry.register(RegisteredPlaybook("default", plan.header.name, version, plan.hash, 0.0))


class RunHarness:
    """One run of a playbook, executed visit by visit in the calling thread."""

    def __init__(
        self,
        store: Store,
        text: str | Plan,
        input: Mapping[str, Any] | None = None,
        *,
        folder: Path | None = None,
        clock: FakeClock | None = None,
        **options: Any,
    ) -> None:
        self.store = store
        self.plan = text if isinstance(text, Plan) else compile_text(text)
        self.clock = clock or FakeClock()
        self.capabilities = local_run_capabilities(folder or Path.cwd())
        store.plans.save(self.plan)
        run, first = new_run(
            self.plan.header,
            self.plan.hash,
            StartRequest(input or {}, **{"origin": "local", **options}),
            now=self.clock(),
        )
        self.id = store.runs.create(run, first).id
        self.tenant = run.tenant
        self.queue = run.queue

    def executor(self, name: str = "one") -> VisitExecutor:
        return VisitExecutor(self.store, Lease(name, LEASE_SECONDS), self.capabilities, self.clock)

    def claim(self, name: str = "one") -> Claim | None:
        return self.store.queue.claim(self.queue, Lease(name, LEASE_SECONDS), self.clock())

    def execute_next(self, *, chained: bool = False) -> bool:
        """Execute the visit that is due first; with `chained`, also following ones.

        Return whether one was due.
        """
        claim = self.claim()
        if claim is None:
            return False
        walker = replace(self.executor(), continues=lambda: chained)
        while claim is not None:
            claim = walker.execute(claim)
        return True

    def finish(self) -> RunHarness:
        """Execute visits until the run has ended. The clock jumps to the next due time."""
        for _ in range(MOST_ROUNDS):
            if self.run.status.is_final:
                return self
            if not self.execute_next(chained=True):
                due = self.store.queue.next_due(self.queue)
                assert due is not None, f"the run is stuck: {self.run}"
                assert due < NEVER, f"the run is stuck: {self.run}"
                self.clock.now = max(self.clock.now, due)
        raise AssertionError("the run does not end")

    def resume(self, **input: Any) -> RunHarness:
        header = self.plan.header
        now = self.clock()
        deadline = None if header.timeout_seconds is None else now + header.timeout_seconds
        self.store.runs.resume(
            self.id, now, deadline_at=deadline, values=correct_input(header, self.run, input)
        )
        return self

    @property
    def run(self) -> Run:
        run = self.store.runs.get(self.tenant, self.id)
        assert run is not None
        return run

    @property
    def status(self) -> RunStatus:
        return self.run.status

    @property
    def result(self) -> Any:
        return self.run.result

    @property
    def error_types(self) -> list[str]:
        """The types of the errors of the run."""
        return [error["type"] for error in self.run.errors]

    @property
    def visits(self) -> list[Visit]:
        return [visit for visit in self.store.runs.visits(self.id) if not is_pseudo_step(visit.step)]

    @property
    def visit_counts(self) -> dict[str, int]:
        """Number of visits by step."""
        return dict(Counter(visit.step for visit in self.visits))

    def visit(self, step: str) -> Visit:
        """Return the last visit of a step."""
        return [visit for visit in self.visits if visit.step == step][-1]

    @property
    def events(self) -> Sequence[Event]:
        return self.store.runs.events(self.id, limit=10_000)

    def event_types(self, step: str | None = None) -> list[str]:
        return [event.type for event in self.events if step is None or event.step == step]
