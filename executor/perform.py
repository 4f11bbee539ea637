"""Performs the work of a step: its actions and tasks, one after another or together.

Work that waits for something suspends: it leaves a journal of what has been done and what is needed to go on, and
is performed again from there. `docs/decisions/0005-pieces.md` says what stands in a journal.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from executor.actions import catalogue, handler
from executor.actions.action import ACTIONS_SETTING, Call, Capabilities, Outside, Suspend
from executor.errors import ActionError, CancelledError, FencedError, StoreError
from executor.records import NEVER, ErrorRecord, Event, Part
from executor.rendering import render, render_parameters
from executor.room import MOST_GIVEN, Room, size_of
from executor.scope import Scope
from executor.secrets import fold, scrub, unfold
from executor.telling import Silence, Telling
from executor.tracing import trace_id, traceparent
from executor.transition import Outcome, derived_id, error_record, retry_delay_seconds
from executor.values import plain
from planner.kinds import described
from planner.plan import Action, Loop, Task, TaskCall, Work, action_from_json
from planner.record import record
from planner.templates import EvaluationError, Lookup, is_true, parse

MAX_PARALLEL = 32
HELD_SECONDS = 10.0
"""A longer wait between two attempts of an action is a pause of its step: it holds no thread."""

PARAMETER = "~"
"""What the position of an action ends with that is a parameter of another one."""

logger = logging.getLogger("noetl.executor")


class Suspended(Exception):
    """The work goes on later: at `due_at`, or when one of the waits `awaits` has its answer. `journal` says from where,
    `parts` are the results of batches that are done, `actions` the types of those that wait, and `retried` of those that
    are to be tried again.
    """

    def __init__(
        self,
        journal: dict[str, Any],
        due_at: float = NEVER,
        awaits: Iterable[str] = (),
        parts: Iterable[Part] = (),
        actions: Iterable[str] = (),
        retried: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.journal = journal
        self.due_at = due_at
        self.awaits = tuple(awaits)
        self.parts = tuple(parts)
        self.actions = tuple(actions)
        self.retried = tuple(retried)

    @classmethod
    def together(cls, journal: dict[str, Any], suspended: Iterable[Suspended]) -> Suspended:
        """What all of them wait for, on top of what a journal says."""
        each = list(suspended)
        for one in each:
            journal |= one.journal
        return cls(
            journal,
            min((one.due_at for one in each), default=NEVER),
            (wait for one in each for wait in one.awaits),
            (part for one in each for part in one.parts),
            dict.fromkeys(action for one in each for action in one.actions),
            dict.fromkeys(action for one in each for action in one.retried),
        )


@record
class Counts:
    """How many items of a loop are done, how many of them failed, and how many there are."""

    done: int
    failed: int
    total: int

    def after(self, outcomes: Iterable[Outcome]) -> Counts:
        """The counts when these are done, too."""
        failures = [outcome.failed for outcome in outcomes]
        return Counts(self.done + len(failures), self.failed + sum(failures), self.total)


def _no_parts(loop: str) -> list[Outcome]:
    return []


@dataclass(slots=True, eq=False, repr=False)
class Performance:
    """One attempt at the work of a visit. On the clock of `time.monotonic`, `began` is when the attempt would have begun had it
    never paused, `expires` when it is out of time, and `deadline` when this piece of it is; `telling` is told what happens.

    `journal` is what the work left when it suspended last, and `parts_of` gives the outcomes of the batches of a loop that
    are done. When `cancelled` is set, the work ends with CancelledError. `waits` are those of the actions that may wait,
    `room` is what the work may hold.
    """

    task_of: Callable[[str], Task]
    capabilities: Capabilities
    deadline: float
    clock: Callable[[], float] = time.time
    began: float = field(default_factory=time.monotonic)
    expires: float = math.inf
    telling: Telling = field(default_factory=Telling)
    journal: Mapping[str, Any] = field(default_factory=dict)
    parts_of: Callable[[str], list[Outcome]] = _no_parts
    outside: Outside | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    waits: set[str] = field(default_factory=set)
    room: Room = field(default_factory=Room)

    def run(
        self,
        work: Sequence[Work],
        scope: Scope,
        position: str,
        *,
        parallel: bool = False,
        args: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """The outcome of all items: that of the last one, or of the first that failed and was not forgiven.

        Raises:
            Suspended: an item waits.
        """
        if parallel and work:
            return self._together(work, scope, position, args)
        outcome = Outcome()
        first = self.journal.get(position, {}).get("at", 0)
        for index, item in enumerate(work[first:], first):
            try:
                outcome = self._item(item, scope, f"{position}.{index}", args)
            except Suspended as suspended:
                suspended.journal[position] = {"at": index}
                raise
            if outcome.failed:
                return outcome
        return replace(outcome, saved=dict(scope.saved))

    def _together(self, work: Sequence[Work], scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        before = dict(scope.saved)
        scopes = [self._scope_at(f"{position}#{index}", scope) for index in range(len(work))]

        def one(index: int) -> Outcome | Suspended:
            done = self._done_at(f"{position}#{index}")
            try:
                found = done or self._item(work[index], scopes[index], f"{position}.{index}", args)
            except Suspended as suspended:
                return suspended
            return self._held(found, scopes[index])

        with ThreadPoolExecutor(min(len(work), MAX_PARALLEL), thread_name_prefix="noetl-item") as pool:
            outcomes = list(pool.map(one, range(len(work))))
        self.room.take(-sum(size_of(outcome.data) for outcome in outcomes if isinstance(outcome, Outcome)))
        for outcome in outcomes:
            if isinstance(outcome, Outcome) and outcome.failed:
                for own in scopes:
                    self._forget(own)
                return Outcome(False, None, outcome.error, outcome.action)
        if any(isinstance(outcome, Suspended) for outcome in outcomes):
            journal = {
                f"{position}#{index}": _kept(outcome, _changes(before, scopes[index]))
                for index, outcome in enumerate(outcomes)
            }
            raise Suspended.together(journal, (o for o in outcomes if isinstance(o, Suspended)))
        finished = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
        for own in scopes:
            scope.saved.update(_changes(before, own))
            scope.sizes.update(own.sizes)
        success = all(outcome.success for outcome in finished)
        error = next((outcome.error for outcome in finished if outcome.error), None)
        data = [outcome.data for outcome in finished]
        return Outcome(success, data, error, saved=dict(scope.saved), forgiven=not success)

    def _scope_at(self, place: str, scope: Scope, local: Mapping[str, Any] | None = None) -> Scope:
        """The scope of work beside other work, with what it had saved when it suspended."""
        own = scope.copy(local)
        own.saved.update(self.journal.get(place, {}).get("saved", {}))
        return own

    def _done_at(self, place: str) -> Outcome | None:
        done = self.journal.get(place, {}).get("done")
        return None if done is None else Outcome.of_part(done)

    def loop(
        self, loop: Loop, items: Sequence[Any], one: Callable[[Scope, str], Outcome], scope: Scope, position: str
    ) -> Outcome:
        """The outcome of `one` for each item, `loop.concurrency` of them at a time: the list of their data, in order.

        An item's own actions leave no events; the loop leaves one for each batch, with counts, and others where something is told
        while a batch is at work.

        Raises:
            Suspended: an item waits, or a batch is done and another one left.
            ActionError: `PayloadTooLarge`; all that the items have given is more than can be held.
        """
        entry = self.journal.get(position, {"next": 0, "failed": 0, "total": len(items), "given": 0})
        first = entry["next"]
        before = Counts(first, entry["failed"], len(items))
        batch = items[first : first + loop.batch] if loop.batch else items[first:]
        try:
            outcomes = self._each(loop, batch, before, one, scope, position)
        except Suspended as suspended:
            suspended.journal[position] = entry
            raise
        size = sum(size_of(outcome.data) for outcome in outcomes)
        self.room.take(-size)
        given = entry.get("given", 0) + size
        if first and given > MOST_GIVEN:
            message = f"the loop has given more than {MOST_GIVEN:,} characters as JSON"
            raise ActionError("PayloadTooLarge", message, retryable=False)
        counts = before.after(outcomes)
        self._count_items(scope, position, counts, is_final=True)
        if counts.failed and not loop.forgiving:
            return gather(outcomes, loop)
        if counts.done < counts.total:
            part = Part(position, first, [outcome.to_part() for outcome in outcomes])
            entry = {"next": counts.done, "failed": counts.failed, "total": counts.total, "given": given}
            raise Suspended({position: entry}, self.clock(), parts=[part])
        return gather([*(self.parts_of(position) if first else ()), *outcomes], loop)

    def _each(
        self,
        loop: Loop,
        items: Sequence[Any],
        before: Counts,
        one: Callable[[Scope, str], Outcome],
        scope: Scope,
        position: str,
    ) -> list[Outcome]:
        """The outcomes of `items`, which come behind those `before`; up to the first failure, if that ends the loop.

        Those that were begun before are gone on with first. One that waits is still at work: it keeps another from being
        begun where `loop.concurrency` are.
        """
        first, total = before.done, before.total
        places = [f"{position}#{first + index}" for index in range(len(items))]
        outcomes = {i: done for i, place in enumerate(places) if (done := self._done_at(place)) is not None}
        self.room.take(sum(size_of(outcome.data) for outcome in outcomes.values()))
        suspended: dict[int, Suspended] = {}
        own: dict[int, Scope] = {}
        left = sorted(set(range(len(items))) - outcomes.keys(), key=lambda i: (places[i] not in self.journal, i))
        queue = iter(left)
        lock = threading.Lock()
        at_work = 0
        counts = before.after(outcomes.values())
        has_failed = False

        def work() -> None:
            nonlocal at_work, counts, has_failed
            while True:
                with lock:
                    if has_failed or at_work >= loop.concurrency or (index := next(queue, None)) is None:
                        return
                    at_work += 1
                at = first + index
                local = {loop.name: items[index], "loop": _position_in_loop(at, total)}
                own[index] = self._scope_at(places[index], scope, local)
                try:
                    outcome = one(own[index], f"{position}[{at}]")
                except Suspended as waits:
                    suspended[index] = waits
                    continue
                done = own.pop(index)
                self._forget(done)
                outcome = self._held(outcome, done)
                with lock:
                    at_work -= 1
                    outcomes[index] = _numbered(outcome, at, total)
                    has_failed |= outcome.failed and not loop.forgiving
                    counts = counts.after([outcome])
                    if not has_failed and len(outcomes) < len(items):
                        self._count_items(scope, position, counts, is_final=False)

        threads = min(loop.concurrency, len(left), MAX_PARALLEL)
        if threads <= 1:
            work()
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="noetl-loop") as pool:
                for future in [pool.submit(work) for _ in range(threads)]:
                    future.result()
        if suspended and not has_failed:
            journal = {places[index]: _kept(outcome, {}) for index, outcome in outcomes.items()}
            for index, waits in suspended.items():
                journal[places[index]] = _kept(waits, _changes(scope.saved, own[index]))
            raise Suspended.together(journal, suspended.values())
        return [outcomes[index] for index in sorted(outcomes)]

    def _held(self, outcome: Outcome, scope: Scope) -> Outcome:
        """The outcome, whose data is held until the work beside it is done; or a failure, where there is no room for it."""
        try:
            self.room.take(size_of(outcome.data))
        except ActionError as problem:
            return Outcome(False, None, _record(scope, problem, outcome.action or "loop"), outcome.action)
        return outcome

    def _save(self, scope: Scope, names: Mapping[str, Any]) -> None:
        """Save values under their names.

        Raises:
            ActionError: `PayloadTooLarge`; there is no room for them.
        """
        for name, value in names.items():
            size = size_of(value)
            self.room.take(size - scope.sizes.get(name, 0))
            scope.sizes[name] = size
            scope.saved[name] = value

    def _forget(self, scope: Scope, sizes: Mapping[str, int] | None = None) -> None:
        """Hold no more of what a scope has saved than these `sizes` tell, which it had before."""
        self.room.take(sum((sizes or {}).values()) - sum(scope.sizes.values()))
        scope.sizes.clear()
        scope.sizes.update(sizes or {})

    def quiet(self) -> Performance:
        """The same performance, which tells nothing."""
        return replace(self, telling=Silence())

    def _item(self, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        place = f"{position}/{item.task}" if isinstance(item, TaskCall) else position
        before, sizes = _before(scope.saved, self.journal.get(place, {}).get("undo")), dict(scope.sizes)
        try:
            if item.loop is None:
                outcome = self.once(item, scope, position, args)
            else:
                outcome = self._looped(item, item.loop, scope, position, args)
            if not outcome.failed and not outcome.skipped and item.save_as is not None:
                self._save(scope, {item.save_as: outcome.data})
        except Suspended as suspended:
            if undo := _undo(before, scope.saved):
                suspended.journal[place]["undo"] = undo
            raise
        except ActionError as problem:
            name = _name(item)
            outcome = Outcome(False, None, _record(scope, problem, name), name)
        if outcome.failed:
            scope.saved = before
            self._forget(scope, sizes)
            return replace(outcome, forgiven=item.forgiven)
        return outcome

    def _looped(self, item: Work, loop: Loop, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        """Raises ActionError: there is nothing to go over, or it holds too much."""
        quiet = self.quiet()

        def one(own: Scope, at: str) -> Outcome:
            return quiet.once(item, own, at, args)

        items = items_of(loop, scope.lookup(position, args))
        with self.room.held(items):
            return self.loop(loop, items, one, scope, position)

    def once(self, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        """The outcome of an item of work, its loop left aside. `set` saves into the scope."""
        name = _name(item)
        lookup = scope.lookup(position, args)
        try:
            self._check_time()
            is_begun = position in self.journal or f"{position}/{name}" in self.journal
            if not is_begun and item.condition is not None and not is_true(_evaluate(item.condition, lookup, "if")):
                return Outcome(action=name, skipped=True)
            if isinstance(item, TaskCall):
                return self._task(item, scope, position, lookup)
            data = self._action(item, scope, position, args)
            if item.type == "set":
                self._save(scope, data)
        except ActionError as problem:
            return Outcome(False, None, _record(scope, problem, name), name)
        return Outcome(True, data, None, name)

    def _task(self, call: TaskCall, scope: Scope, position: str, lookup: Lookup) -> Outcome:
        task = self.task_of(call.task)
        inner = f"{position}/{call.task}"
        entry = self.journal.get(inner)
        args = render(dict(call.args), None, lookup) if entry is None else unfold(entry["args"])
        inside = replace(scope, local={})
        try:
            with self.room.held(args):
                return self.run(task.run, inside, inner, parallel=task.parallel, args=args)
        except Suspended as suspended:
            suspended.journal[inner] = {**suspended.journal.get(inner, {}), "args": fold(args)}
            raise
        finally:
            scope.saved = inside.saved

    def _action(self, action: Action, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Any:
        kept = self.journal.get(position)
        tries = [scope.run.resumes, scope.visit.attempt]
        again = tries != ([0, 1] if kept is None else kept["tries"])
        attempt = 1 if kept is None or again else kept["attempt"]
        begun = 1 if kept is None else kept["begun"] + again
        memory = None if kept is None else kept.get("memory")
        while True:
            started = None if kept is None else kept["started_at"]
            if started is None:
                started = self.clock()
                self._note(scope, "action.started", started, {"action": action.type, "position": position})
            wait = derived_id("wait", scope.visit.id, position, attempt, begun)
            try:
                data = self._attempt(action, scope, position, args, wait, memory, again=again)
            except Suspend as waits:
                entry = {
                    "action": action.type,
                    "attempt": attempt,
                    "begun": begun,
                    "tries": tries,
                    "started_at": started,
                    "memory": waits.memory,
                }
                awaits = [waits.awaits] if waits.awaits is not None else []
                raise Suspended({position: entry}, waits.due_at, awaits, actions=[action.type]) from None
            except ActionError as problem:
                record = _record(scope, problem, action.type)
                payload = {"action": action.type, "position": position, "error": scrub(record)}
                seconds = self._seconds_before_retry(action, scope, position, args, problem, attempt)
                if seconds is None:
                    self._note(scope, "action.failed", self.clock(), payload, started)
                    raise
                self._note(scope, "action.retrying", self.clock(), payload | {"wait_seconds": seconds}, started)
                kept = memory = None
                attempt += 1
                if self._pauses(position, seconds):
                    entry = {
                        "action": action.type,
                        "attempt": attempt,
                        "begun": begun,
                        "tries": tries,
                        "started_at": None,
                    }
                    raise Suspended({position: entry}, self.clock() + seconds, retried=[action.type]) from None
                if self.cancelled.wait(seconds):
                    raise CancelledError from None
            else:
                payload = {"action": action.type, "position": position}
                self._note(scope, "action.completed", self.clock(), payload, started)
                return data

    def _pauses(self, position: str, seconds: float) -> bool:
        """Whether an action is tried again in another piece. One that is a parameter of another one cannot be."""
        return seconds > HELD_SECONDS and not position.endswith(PARAMETER)

    def _check_time(self) -> None:
        if self.cancelled.is_set():
            raise CancelledError
        if time.monotonic() >= self.deadline:
            raise ActionError("Timeout", "the action ran out of time")

    def _attempt(
        self,
        action: Action,
        scope: Scope,
        position: str,
        args: Mapping[str, Any] | None,
        wait: str,
        memory: Any,
        *,
        again: bool,
    ) -> Any:
        allowed = self.capabilities.actions
        if allowed is not None and action.type not in allowed:
            message = f"`{action.type}` may not be used here: {ACTIONS_SETTING} does not name it"
            raise ActionError("ActionDisabled", message, retryable=False)
        declaration = catalogue()[action.type]
        if declaration.suspends:
            self.waits.add(wait)
        deadline = self.deadline
        if action.timeout_seconds is not None and not declaration.suspends:
            deadline = min(deadline, time.monotonic() + action.timeout_seconds)
        parameters = render_parameters(declaration, action.parameters, scope.lookup(position, args))
        labels = {
            "run": scope.run.id,
            "step": scope.visit.step,
            "visit": scope.visit.number,
            "trace": trace_id(scope.run),
        }

        def act(nested: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
            inside = replace(scope, local={**scope.local, **known})
            return self._action(action_from_json(nested), inside, position + PARAMETER, args)

        call = Call(
            parameters,
            scope.idempotency_key(position),
            deadline,
            self.capabilities,
            labels,
            _logged(labels),
            self.cancelled,
            now=self.clock(),
            memory=memory,
            wait=wait,
            again=again,
            timeout_seconds=action.timeout_seconds,
            outside=self.outside,
            act=act,
            traceparent=traceparent(scope.run, scope.visit.id, scope.visit.attempt, position),
        )
        call.remaining_seconds()
        try:
            return handler(action.type)(call)
        except (ActionError, Suspend, CancelledError, StoreError, FencedError):
            raise
        except Exception as bug:
            logger.exception("the handler of `%s` raised", action.type)
            raise ActionError(type(bug).__name__, f"the handler of `{action.type}` raised: {bug}") from bug

    def _seconds_before_retry(
        self,
        action: Action,
        scope: Scope,
        position: str,
        args: Mapping[str, Any] | None,
        problem: ActionError,
        attempt: int,
    ) -> float | None:
        retry = action.retry
        if attempt >= retry.attempts or not problem.retryable:
            return None
        wait = retry_delay_seconds(retry, attempt, scope.run.id, scope.visit.id, position)
        if time.monotonic() + wait >= (self.expires if self._pauses(position, wait) else self.deadline):
            return None
        if retry.condition is not None:
            lookup = scope.lookup(position, args, _record(scope, problem, action.type))
            try:
                if not is_true(parse(retry.condition).evaluate(lookup)):
                    return None
            except EvaluationError:
                # As for a step, the failure is worth more than why nothing can be said about it.
                return None
        return wait

    def _note(
        self, scope: Scope, type: str, at: float, payload: Mapping[str, Any], started: float | None = None
    ) -> None:
        visit = scope.visit
        duration = None if started is None else max(at - started, 0.0)
        self.telling.note(Event(type, at, visit.step, visit.number, visit.attempt, duration, payload))

    def _count_items(self, scope: Scope, position: str, counts: Counts, *, is_final: bool) -> None:
        """Say how far a loop has come: when its batch is done, and before."""
        visit = scope.visit

        def event() -> Event:
            payload = {"position": position, **asdict(counts)}
            return Event("loop.progress", self.clock(), visit.step, visit.number, visit.attempt, payload=payload)

        self.telling.count(position, event, is_final=is_final)


def _name(item: Work) -> str:
    """What is said of where a failure comes from: the type of an action, or the name of a task."""
    return item.task if isinstance(item, TaskCall) else item.type


def items_of(loop: Loop, lookup: Lookup) -> list[Any]:
    """The items a loop goes over.

    Raises:
        ActionError: they have no value here, or are not a list.
    """
    items = render(loop.items, None, lookup)
    if not isinstance(items, list):
        message = f"`loop.items` must be a list, and is {described(items)}"
        raise ActionError("ParameterError", message, retryable=False)
    return items


def gather(outcomes: Sequence[Outcome], loop: Loop) -> Outcome:
    """The outcome of a loop from those of its items."""
    failed = next((outcome for outcome in outcomes if outcome.failed), None)
    if failed is not None and not loop.forgiving:
        return Outcome(False, None, failed.error, failed.action)
    items = tuple(outcome.as_result() for outcome in outcomes) if loop.forgiving else None
    data = [outcome.data for outcome in outcomes]
    error = None if failed is None else failed.error
    return Outcome(failed is None, data, error, forgiven=failed is not None, items=items)


def _kept(outcome: Outcome | Suspended, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a journal keeps of work beside other work."""
    return {"saved": dict(saved)} | ({"done": outcome.to_part()} if isinstance(outcome, Outcome) else {})


def _changes(before: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """What has been saved in a scope since."""
    return {n: value for n, value in scope.saved.items() if n not in before or before[n] is not value}


def _undo(before: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What makes of the names saved since those that were saved before: for each its value then, if it had one."""
    return {
        name: [before[name]] if name in before else []
        for name, value in saved.items()
        if name not in before or before[name] is not value
    }


def _before(saved: Mapping[str, Any], undo: Mapping[str, list[Any]] | None) -> dict[str, Any]:
    """The names that were saved before, as `_undo` tells."""
    before = dict(saved)
    for name, value in (undo or {}).items():
        before.pop(name, None)
        before.update({name: value[0]} if value else {})
    return before


def _numbered(outcome: Outcome, index: int, total: int) -> Outcome:
    """The outcome, whose failure says which item it is of."""
    if not outcome.failed or outcome.error is None:
        return outcome
    message = f"item {index + 1:,} of {total:,}: {outcome.error['message']}"
    return replace(outcome, error=outcome.error | {"message": message})


def _position_in_loop(index: int, length: int) -> dict[str, Any]:
    return {"index": index + 1, "index0": index, "first": index == 0, "last": index == length - 1, "length": length}


def _logged(labels: Mapping[str, Any]) -> Callable[[str, str, Mapping[str, Any]], None]:
    """Writes what a playbook logs, with what tells its run from others."""

    def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger("noetl.playbook").log(number, message, extra={"fields": fields, "labels": labels})

    return log


def _evaluate(text: str, lookup: Lookup, what: str) -> Any:
    try:
        return parse(text).evaluate(lookup)
    except EvaluationError as problem:
        raise ActionError(problem.type, f"`{what}`: {problem.message}", retryable=False) from problem


def _record(scope: Scope, problem: ActionError, action: str) -> ErrorRecord:
    return error_record(
        scope.visit,
        problem.type,
        problem.message,
        action=action,
        retryable=problem.retryable,
        status=problem.status,
        details=plain(problem.details),
    )
