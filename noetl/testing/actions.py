"""Tests of an action type: its handler with fakes of the engine, its declaration, and its playbooks.

    from noetl.testing.actions import ActionTester
    from my_package import greet  # the module with `DECLARATION` and `perform`

    def test_greet() -> None:
        tester = ActionTester(greet)
        assert tester.perform({"name": "{{ who }}"}, {"who": "Ann"}) == "Hello Ann"
        assert [finding.code for finding in tester.check({"nam": "Ann"})] == ["NP502", "NP503"]

`noetl.testing` is for tests only. No module of the product imports it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from noetl.executor.actions import catalogue, handler, temporary_types
from noetl.executor.actions.action import ActionModule, Call, Suspend
from noetl.executor.engine.attempts import read_saved_names
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import write_json
from noetl.executor.model.run import NEVER, Run, RunStatus, Wait
from noetl.executor.model.wait_transition import AnswerDeclaration
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.secret_access import unrestricted_access
from noetl.executor.security.secret_hosts import SecretHosts
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.catalogue import ActionDeclaration, PlaybookCall
from noetl.planner.compile import Compilation, compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.kinds import is_of_kind
from noetl.testing.run_harness import FakeClock, RunHarness


class DeclarationError(AssertionError):
    """The handler does something that the declaration of its type excludes."""


class FakeNestedActions:
    """The actions that a handler performs as its parameters: each is recorded, and none is performed.

    `performed` holds each action with the names that its templates may read. `result` is returned.
    """

    def __init__(self) -> None:
        self.performed: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self.result: Any = None

    def __call__(self, action: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
        """Record an action and return the result."""
        self.performed.append((action, names))
        return self.result


class FakeWaits:
    """External waits in memory (implements `noetl.executor.actions.action.ExternalWaits`).

    `waits` holds the waits and `runs` the child runs, each in the order of their creation. `declared_fields`
    are those of the answers to each wait; `answer` does not check them.
    """

    def __init__(self) -> None:
        self.waits: dict[str, Wait] = {}
        self.declared_fields: dict[str, AnswerDeclaration | None] = {}
        self.runs: dict[str, Run] = {}
        self._wait_of_run: dict[str, str] = {}

    def answer(self, value: Any, wait_id: str | None = None, *, answered_at: float = 0.0) -> None:
        """Answer a wait, by default the last one that was opened."""
        id = wait_id if wait_id is not None else next(reversed(self.waits))
        self.waits[id] = Wait(id, value, answered_at)

    def end_run(self, result: Any = None, status: RunStatus = RunStatus.SUCCEEDED) -> None:
        """End the last child run, which answers its wait."""
        run = next(reversed(self.runs.values()))
        self.runs[run.id] = replace(run, status=status, result=result)
        if (wait_id := self._wait_of_run.get(run.id)) is not None:
            self.answer(None, wait_id)

    def open_wait(
        self, wait_id: str, declared: AnswerDeclaration | None = None, expires_at: float = NEVER
    ) -> dict[str, str]:
        """Open a wait and return its token and address. `declared_fields` then holds those of its answer."""
        self.declared_fields[wait_id] = declared
        self.waits[wait_id] = Wait(wait_id)
        return {"token": f"token-{wait_id}", "url": f"https://noetl.test/callbacks/token-{wait_id}"}

    def read_wait(self, wait_id: str) -> Wait:
        """Return the state of the wait."""
        return self.waits[wait_id]

    def close_wait(self, wait_id: str) -> Wait:
        """Return the wait."""
        return self.waits[wait_id]

    def start_run(
        self, wait_id: str, called: PlaybookCall, input: Mapping[str, Any], *, detached: bool
    ) -> Run:
        """Record a child run and return it."""
        id = f"run-of-{wait_id}"
        if id not in self.runs:
            tags: tuple[str, ...] = ()
            status, hash, now = RunStatus.RUNNING, "hash", 0.0
            self.runs[id] = Run(
                id,
                "default",
                called.name,
                called.version,
                hash,
                status,
                "local",
                "queue",
                input,
                {},
                {},
                tags,
                None,
                now,
            )
            if not detached:
                self.waits[wait_id] = Wait(wait_id)
                self._wait_of_run[id] = wait_id
        return self.runs[id]

    def read_run(self, run_id: str) -> Run:
        """Return a child run."""
        return self.runs[run_id]

    def cancel_run(self, run_id: str) -> None:
        """Cancel a child run."""
        self.runs[run_id] = replace(self.runs[run_id], status=RunStatus.CANCELLED)

    def resume_run(self, run_id: str) -> None:
        """Resume a child run."""
        self.runs[run_id] = replace(self.runs[run_id], status=RunStatus.RUNNING)


@dataclass
class ActionTester:
    """One action type under test, with fakes of what the engine gives to its handler.

    Attributes:
        action: the module with `DECLARATION` and `perform`, or the name of an installed type.
        capabilities: what the action may do on this machine. The default is nothing.
        secrets: the secrets that templates may read, by name.
        now: the time of a call, in seconds since the epoch. `resume` advances it.
        timeout_seconds: the `timeout` of the action, or None.
        seconds: the time until the deadline of each call, unless `timeout_seconds` is shorter.
        idempotency_key: the key that every attempt has.
        waits: the fake of callbacks and child runs.
        cancelled: set it to cancel the run.
        logs: the lines that the handler has logged, each (level, message, fields).
        nested: the fake of actions that are parameters of this one.
    """

    action: ActionModule | str
    capabilities: Capabilities = field(default_factory=Capabilities)
    secrets: Mapping[str, str] = field(default_factory=dict)
    now: float = 1_000_000.0
    timeout_seconds: float | None = None
    seconds: float = 30.0
    idempotency_key: str = "key-1"
    waits: FakeWaits = field(default_factory=FakeWaits)
    cancelled: threading.Event = field(default_factory=threading.Event)
    logs: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    nested: FakeNestedActions = field(default_factory=FakeNestedActions)

    def __post_init__(self) -> None:
        check_declaration(self.declaration)
        self._suspended: tuple[Mapping[str, Any], Suspend] | None = None
        if isinstance(self.action, str):
            self._modules: tuple[ActionModule, ...] = ()
            self._perform = handler(self.action)
        else:
            self._modules = (self.action,)
            self._perform = self.action.perform

    @property
    def declaration(self) -> ActionDeclaration:
        """The declaration of the type."""
        return catalogue()[self.action] if isinstance(self.action, str) else self.action.DECLARATION

    def perform(self, parameters: Mapping[str, Any], names: Mapping[str, Any] | None = None) -> Any:
        """Render the parameters, whose templates read `names`, call the handler and return its result.

        Raises:
            ActionError: the action failed, or a parameter has no value or an invalid one.
            Suspend: the action waits. `resume` continues it.
            DeclarationError: the handler does what its declaration excludes.
        """
        return self._call(parameters, self.create_call(parameters, names))

    def resume(self, seconds: float = 0.0, *, is_resumed: bool = False) -> Any:
        """Call the handler of a suspended action again `seconds` later, as `perform` does.

        With `is_resumed`, the run was resumed after it had failed.
        """
        assert self._suspended is not None, "the action is not suspended"
        parameters, suspension = self._suspended
        self.now += seconds
        call = self._new_call(parameters, json.loads(json.dumps(suspension.state)), is_resumed=is_resumed)
        return self._call(parameters, call)

    def create_call(self, parameters: Mapping[str, Any], names: Mapping[str, Any] | None = None) -> Call:
        """Return the call that `perform` makes.

        Raises:
            ActionError: a parameter has no value or an invalid one.
        """
        with self._environment_of_secrets():
            rendered = render_parameters(
                self.declaration, parameters, (names or {}).__getitem__, unrestricted_access()
            )
        return self._new_call(rendered, None, is_resumed=False)

    def check(self, parameters: Mapping[str, Any]) -> Sequence[Diagnostic]:
        """Return the diagnostics of a playbook with one action, which has these parameters."""
        work = [{"action": self.declaration.type, **parameters}]
        return self.compile(
            json.dumps({"name": "test", "steps": [{"name": "only", "run": work}]})
        ).diagnostics

    def compile(self, playbook: str) -> Compilation:
        """Compile a playbook, which may use this type and all installed ones."""
        with temporary_types(*self._modules):
            return compile_playbook(playbook, catalogue())

    def run(self, playbook: str, input: Mapping[str, Any] | None = None) -> RunHarness:
        """Execute a playbook to its end in memory, and return its run. Waits for a time end at once.

        It may use this type and all installed ones. Nothing answers its callbacks.

        Raises:
            AssertionError: the playbook has errors, or waits for an answer.
        """
        with temporary_types(*self._modules), self._environment_of_secrets():
            harness = RunHarness(MemoryStore(), playbook, input, clock=FakeClock(self.now))
            harness.capabilities = replace(self.capabilities, secret_hosts=SecretHosts(allows_any=True))
            return harness.finish()

    def _new_call(self, rendered: Mapping[str, Any], state: Any, *, is_resumed: bool) -> Call:
        timeout = self.seconds if self.timeout_seconds is None else self.timeout_seconds
        return Call(
            rendered,
            self.idempotency_key,
            time.monotonic() + min(self.seconds, timeout),
            self.capabilities,
            {"run": "run-1", "step": "only", "visit": 1, "trace_id": "0" * 32, "trace_flags": "01"},
            lambda level, message, fields: self.logs.append((level, message, fields)),
            self.cancelled,
            now=self.now,
            state=state,
            wait_id=f"wait-{len(self.waits.waits) + 1}",
            is_resumed=is_resumed,
            timeout_seconds=self.timeout_seconds,
            external_waits=self.waits,
            perform_action=self.nested,
        )

    def _call(self, parameters: Mapping[str, Any], call: Call) -> Any:
        declaration = self.declaration
        self._suspended = None
        try:
            data = self._perform(call)
        except Suspend as suspension:
            if not declaration.suspends:
                raise DeclarationError(f"`{declaration.type}` suspends without `suspends`") from suspension
            self._suspended = call.parameters, suspension
            raise
        except ActionError as error:
            if declaration.cannot_fail:
                raise DeclarationError(f"`{declaration.type}` fails despite `cannot_fail`") from error
            raise
        check_result(declaration, parameters, data)
        return data

    @contextmanager
    def _environment_of_secrets(self) -> Iterator[None]:
        variables = {f"NOETL_SECRET_{name}": value for name, value in self.secrets.items()}
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def check_declaration(declaration: ActionDeclaration) -> None:
    """Check that a declaration is consistent, and that its functions accept parameters of a wrong kind.

    Raises:
        DeclarationError: it is not, or they do not.
    """
    parameters = declaration.parameters
    named = [*declaration.one_of, *(name for parameter in parameters.values() for name in parameter.requires)]
    named += filter(None, (declaration.saves, declaration.error_type))
    is_waiting = declaration.awaits is not None or declaration.child_run is not None
    problems = [f"there is no parameter `{name}`" for name in named if name not in parameters]
    saved = None if declaration.saves is None else parameters.get(declaration.saves)
    if saved is not None and not saved.must_be_literal:
        problems.append(f"`{declaration.saves}` must be literal, because the action saves its keys")
    if declaration.error_type is not None and not declaration.never_succeeds:
        problems.append("`error_type` needs `never_succeeds`")
    if declaration.cannot_fail and declaration.never_succeeds:
        problems.append("`cannot_fail` and `never_succeeds` exclude each other")
    if is_waiting and not declaration.suspends:
        problems.append("`awaits` and `child_run` need `suspends`")
    problems += _find_failing_functions(declaration)
    if problems:
        raise DeclarationError(f"declaration of `{declaration.type}`: {'; '.join(problems)}")


def _find_failing_functions(declaration: ActionDeclaration) -> Iterator[str]:
    """Yield the functions that raise for parameters of a wrong kind. A playbook with an error has such."""
    functions: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "summary": declaration.summarise,
        "result_for": declaration.result_keys,
        "idempotent_when": declaration.is_idempotent,
    }
    every_kind: tuple[Any, ...] = (None, True, 1, "text", [1], {"name": 1})
    samples = [{}, *(dict.fromkeys(declaration.parameters, value) for value in every_kind)]
    for name, function in functions.items():
        for sample in samples:
            try:
                function(sample)
            except Exception as error:  # noqa: BLE001 - any exception is the finding
                yield f"`{name}` raises {error!r} for {sample}"
                break


def check_result(declaration: ActionDeclaration, parameters: Mapping[str, Any], data: Any) -> None:
    """Check that a result is plain data and what the declaration promises for these parameters as written.

    Raises:
        DeclarationError: it is not.
    """
    if declaration.never_succeeds:
        raise DeclarationError(f"`{declaration.type}` succeeds despite `never_succeeds`")
    try:
        write_json(data)
        read_saved_names(declaration.saved_names(parameters), data)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"`{declaration.type}` returned {data!r}: {error}") from error
    keys = declaration.result_keys(parameters)
    if keys is None:
        return
    if not isinstance(data, Mapping) or data.keys() != keys.keys():
        raise DeclarationError(f"`{declaration.type}` returned {data!r}, not the keys {sorted(keys)}")
    for key, kind in keys.items():
        if not is_of_kind(data[key], kind):
            raise DeclarationError(f"`{declaration.type}` returned {data[key]!r} as `{key}`, not {kind}")


class ScriptedAction:
    """An action type whose handler follows a script: it returns or raises the next of `answers`.

    When none is left, it returns what `answer(call)` returns. `calls` holds the calls so far.
    """

    def __init__(
        self, declaration: ActionDeclaration, *answers: Any, answer: Callable[[Call], Any] | None = None
    ) -> None:
        self.DECLARATION = declaration
        self.answers = [*answers]
        self.answer = answer
        self.calls: list[Call] = []

    def perform(self, call: Call) -> Any:
        """Return or raise the next answer."""
        self.calls.append(call)
        if not self.answers:
            return None if self.answer is None else self.answer(call)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer
