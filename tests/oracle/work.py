"""The work of a step: actions, tasks and loops (sections 3, 6 and 7 of the language reference)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn

from tests.oracle.expressions import EvaluationFailure, condition_holds, render
from tests.oracle.program import InputError, NotCoveredError

Item = dict[str, Any]
PERMANENT = frozenset(  # section 7: errors that cannot get better, and what the table of error types says
    {"UndefinedName", "TemplateError", "ParameterError", "LimitExceeded", "GuardError", "MaxVisitsExceeded"}
)
DURATION = re.compile(r"\d+(\.\d+)?(ms|s|m|h|d)?")


class WorkFailure(Exception):
    """The failure of an item of work, with the `error` that a rule reads."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["type"])
        self.error = error


@dataclass
class WorkScope:
    """Names that the templates of some work read, and those that it has saved."""

    names: Mapping[str, Any]
    saved: dict[str, Any] = field(default_factory=dict)
    local: Mapping[str, Any] = field(default_factory=dict)  # args, item, loop, result, error
    is_inner: bool = False  # within a loop or parallel items: what is saved counts when they have ended

    def view(self) -> dict[str, Any]:
        """Return all names with their values."""
        return {**self.names, **self.saved, **self.local}

    def copy(self, **local: Any) -> WorkScope:
        """Return a scope that saves on its own."""
        return replace(self, saved=dict(self.saved), local={**self.local, **local})


def item(action: str | None = None, **parts: Any) -> Item:
    """Return the `result` of an item: section 4."""
    empty: Item = {"success": True, "data": None, "error": None, "skipped": False, "failures": []}
    return {**empty, "action": action, **parts}


class WorkPerformer:
    """The work of one attempt of a step."""

    def __init__(
        self, step: str, attempt: int, tasks: Mapping[str, Any], start_run: Callable[..., Any]
    ) -> None:
        self.step = step
        self.attempt = attempt
        self.tasks = tasks
        self.start_run = start_run  # of another playbook: returns its outcome
        self.pauses = 0

    def fail(self, type: str, message: str, action: str | None = None, **parts: Any) -> NoReturn:
        """Raise a failure of this step."""
        raise WorkFailure(self.error(type, message, action, **parts))

    def error(self, type: str, message: str, action: str | None = None, **parts: Any) -> dict[str, Any]:
        """Return an `error`: section 4."""
        place = {"action": action, "step": self.step, "attempt": self.attempt}
        return {
            "type": type,
            "message": message,
            **place,
            "retryable": False,
            "status": None,
            "details": None,
        } | parts

    def render(self, value: Any, scope: WorkScope, action: str | None = None) -> Any:
        """Evaluate templates. One without a value is a failure of the action (section 7)."""
        try:
            return render(value, scope.view())
        except EvaluationFailure as failure:
            self.fail(failure.type, str(failure), action)

    def perform(self, entries: Sequence[Any], parallel: bool, scope: WorkScope) -> Item:
        """Perform the items of a `run` and return the result of the last one, or of all parallel ones."""
        if parallel:
            return self._perform_parallel(entries, scope)
        last = item()
        for entry in entries:
            last = self.perform_entry(entry, scope)
        return last

    def _perform_parallel(self, entries: Sequence[Any], scope: WorkScope) -> Item:
        """Perform all items. None sees what another saves; the first failure in the text counts."""
        items: list[Item] = []
        saved: dict[str, Any] = {}
        failures: list[WorkFailure] = []
        for entry in entries:
            inner = replace(scope.copy(), is_inner=True)
            try:
                items.append(self.perform_entry(entry, inner))
                changed = {
                    n
                    for n, value in inner.saved.items()
                    if n not in scope.saved or scope.saved[n] is not value
                }
                saved |= {name: inner.saved[name] for name in changed}
            except WorkFailure as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
        scope.saved |= saved
        return self._joint_result(items)

    @staticmethod
    def _joint_result(results: Sequence[Item], **parts: Any) -> Item:
        """Return one result for several: `data` is the list, and `success` means all (section 4)."""
        errors = [entry["error"] for entry in results if entry["error"]]
        data = [entry["data"] for entry in results]
        action = results[-1]["action"] if results else None
        return item(action, success=not errors, data=data, error=errors[0] if errors else None, **parts)

    def perform_entry(self, entry: Any, scope: WorkScope) -> Item:
        """Perform an action or a call of a task, with its `loop`, `on_error` and `as` (section 3)."""
        entry = {"task": entry} if isinstance(entry, str) else entry
        try:
            if "loop" in entry:
                done = self.loop(entry["loop"], scope, lambda inner: self._perform_once(entry, inner))
            else:
                done = self._perform_once(entry, scope)
        except WorkFailure as failure:
            if entry.get("on_error") != "continue":
                raise
            return item(entry.get("action", entry.get("task")), success=False, error=failure.error)
        if "as" in entry and not done["skipped"]:
            scope.saved[entry["as"]] = done["data"]
        return done

    def loop(self, loop: Mapping[str, Any], scope: WorkScope, work: Callable[[WorkScope], Item]) -> Item:
        """Perform work for every item of a list: section 6. What an item saves is local to it."""
        values = self.render(loop["items"], scope)
        if not isinstance(values, list):
            self.fail("ParameterError", "`items` is no list")
        items, failures = [], []
        for index, value in enumerate(values):
            place = {
                "index": index + 1,
                "index0": index,
                "first": index == 0,
                "last": index == len(values) - 1,
                "length": len(values),
            }
            inner = replace(scope.copy(**{loop.get("as", "item"): value}, loop=place), is_inner=True)
            try:
                items.append(work(inner))
            except WorkFailure as failure:
                if loop.get("on_error") != "continue":
                    raise
                items.append(item(success=False, error=failure.error))
                failures.append({"index": index + 1, "item": value, "error": failure.error})
        return self._joint_result(items, items=items, failures=failures)

    def _perform_once(self, entry: Mapping[str, Any], scope: WorkScope) -> Item:
        """Perform an entry without its loop: `if`, then the task or the attempts at the action."""
        kind = entry.get("action", entry.get("task"))
        try:
            if "if" in entry and not condition_holds(entry["if"], scope.view()):
                return item(kind, skipped=True)
        except EvaluationFailure as failure:
            self.fail(failure.type, str(failure), kind)
        if "task" in entry:
            return self._call_task(entry, scope)
        retry = entry.get("retry", 1)
        retry = retry if isinstance(retry, Mapping) else {"attempts": retry}
        for attempt in range(1, retry.get("attempts", 1) + 1):
            try:
                return item(kind, data=self._act(entry, scope))
            except WorkFailure as failure:
                if attempt == retry.get("attempts", 1) or not self.is_retried(retry, failure, scope):
                    raise
                self.pause()
        raise AssertionError

    def is_retried(self, retry: Mapping[str, Any], failure: WorkFailure, scope: WorkScope) -> bool:
        """Return whether another attempt follows. `if` without a value is not true (section 7)."""
        try:
            names = {**scope.view(), "error": failure.error}
            return failure.error["retryable"] and condition_holds(retry.get("if", True), names)
        except EvaluationFailure:
            return False

    def _call_task(self, call: Mapping[str, Any], scope: WorkScope) -> Item:
        """Perform a task: it sees its `args` and the run's names, and nothing of a loop around the call."""
        task = self.tasks[call["task"]]
        arguments = self.render(call.get("with") or {}, scope)
        rule_names = {name: scope.local[name] for name in ("result", "error") if name in scope.local}
        inner = replace(scope.copy(), local={**rule_names, "args": arguments})
        done = self.perform(task["run"], task.get("parallel", False), inner)
        scope.saved |= inner.saved
        return item(call["task"], data=done["data"])

    def pause(self) -> None:
        """Record that the step is suspended: what was done before is not done again (section 6)."""
        self.pauses += 1

    def _act(self, entry: Mapping[str, Any], scope: WorkScope) -> Any:
        """Perform one attempt at an action and return its data: the table of section 3."""
        kind = entry["action"]
        if kind not in {"set", "log", "fail", "wait", "workflow", "shell"}:
            raise NotCoveredError(f"action {kind}")
        common = {"action", "as", "if", "retry", "timeout", "loop", "on_error"}
        parameters = self.render(
            {key: value for key, value in entry.items() if key not in common}, scope, kind
        )
        match kind:
            case "set":
                if not isinstance(parameters["set"], dict):
                    self.fail("ParameterError", "`set` is no object", kind)
                scope.saved |= parameters["set"]
                return parameters["set"]
            case "log":
                level = parameters.get("level", "info")
                levels = {"debug", "info", "warning", "error"}
                if not isinstance(level, str) or level.lower() not in levels:
                    self.fail("ParameterError", "unknown level", kind)
            case "fail":
                if not isinstance(parameters.get("type", ""), str):
                    self.fail("ParameterError", "`type` is no text", kind)
                self.fail(parameters.get("type") or "Failed", str(parameters["message"]), kind)
            case "wait":
                self._check_wait(parameters)
                self.pause()
            case "shell":
                return self._exit(parameters["command"])
            case "workflow":
                return self._run_playbook(parameters, scope)
        return None

    def _exit(self, command: str) -> Any:
        """Perform the only command that is covered: one that ends with a code."""
        if not (ended := re.fullmatch(r"exit (\d+)", command)):
            raise NotCoveredError(f"command {command}")
        if code := int(ended[1]):
            self.fail("CommandFailed", f"exit code {code}", "shell", retryable=True)
        return {"exit_code": 0, "stdout": "", "stderr": ""}

    def _check_wait(self, parameters: Mapping[str, Any]) -> None:
        """Check the time of a `wait`; on the clock of this interpreter it passes at once."""
        seconds = parameters.get("seconds", 0)
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0
        if not is_number and not (isinstance(seconds, str) and DURATION.fullmatch(seconds.strip())):
            self.fail("ParameterError", "`seconds` is no duration", "wait")
        try:
            datetime.fromisoformat(str(parameters.get("until", "2026-01-01")))
        except ValueError:
            self.fail("ParameterError", "`until` is no time", "wait")

    def _run_playbook(self, parameters: Mapping[str, Any], scope: WorkScope) -> Any:
        """Run another playbook; a run that does not succeed is `WorkflowFailed`, which may be retried."""
        if parameters.get("detach"):
            raise NotCoveredError("detach")
        self.pause()
        try:
            outcome = self.start_run(parameters["playbook"], parameters.get("input") or {})
        except InputError as error:
            self.fail("ParameterError", str(error), "workflow")
        if outcome.status != "succeeded":
            details = {"workflow_id": "run", "status": outcome.status, "result": outcome.result}
            self.fail("WorkflowFailed", outcome.status, "workflow", retryable=True, details=details)
        return outcome.result
