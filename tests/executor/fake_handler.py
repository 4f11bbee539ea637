"""A fake action type whose handler follows a script, and contexts to perform it in."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import Deadlines, WorkContext
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import Run, RunStatus, Visit, VisitStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.plan import Action, Task, Work
from noetl.testing.actions import ScriptedAction

RUN = Run("r1", "default", "p", None, "h", RunStatus.RUNNING, "local", "q", {}, {}, {}, (), None, 0.0)
VISIT = Visit("v1", "r1", "s", VisitStatus.RUNNING, 1, {})
PROBE = ActionDeclaration("probe", "What a test says.", {"say": Parameter((Kind.ANY,), "What to say.")})


class FakeHandler(ScriptedAction):
    """The action type `probe`: a test queues its answers; without any, it returns `say`."""

    def __init__(self) -> None:
        super().__init__(PROBE, answer=lambda call: call.parameters.get("say"))


def work_context(
    tasks: dict[str, Task] | None = None,
    *,
    seconds: float = 60,
    more_seconds: float = 0,
    waits: list[float] | None = None,
) -> WorkContext:
    """Return the context of a segment of `seconds`; its attempt may take `more_seconds` in later ones."""
    cancelled = RecordingEvent([] if waits is None else waits)
    now = time.monotonic()
    deadlines = Deadlines(now, now + seconds + more_seconds, now + seconds)
    capabilities = local_run_capabilities(Path.cwd())
    return WorkContext((tasks or {}).__getitem__, capabilities, deadlines, lambda: 5.0, cancelled=cancelled)


class RecordingEvent(threading.Event):
    """An event that is never set. It records each timeout instead of waiting."""

    def __init__(self, waits: list[float]) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return False


def fake_action(say: Any = None, **fields: Any) -> Action:
    return Action("probe", {"say": say}, **fields)


def outcome_of(
    *work: Work, scope: Scope | None = None, context: WorkContext | None = None, parallel: bool = False
) -> Outcome:
    result = perform(context or work_context(), work, scope or Scope(RUN, VISIT), "run", parallel=parallel)
    assert isinstance(result, Outcome)
    return result


def failure_of(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failed
    assert outcome.error is not None
    return outcome.error["type"], outcome.error["message"]
