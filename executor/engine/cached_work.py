"""Work with a cache: its result is taken from an earlier run, or computed once for all that wait for it.

Problem: expensive work with equal parameters is done by many runs, some of them at the same time. The result
may be used only if the work and everything that it reads are the same.

Algorithm: memoisation (Michie 1968) with a shared table. The key is a hash of the work as it is written, and
of the values that it reads; the playbook may give other values. A visit that finds a holder of its key
suspends, and asks again after a delay that grows. So no thread waits. A result that is not a success is never
saved.

Cost: two requests to the store for a miss, and one for a hit. Work without a cache costs nothing.

Limits: a visit that waits continues up to a half later than it could, at most MAX_WAIT_SECONDS. A secret
counts by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from noetl.executor.engine.rendering import render, render_at_key
from noetl.executor.engine.result_cache import ResultCache
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import FailureFlag, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.cached_results import (
    CACHE_WAIT,
    MAX_LABEL_LENGTH,
    WAITS_KEY,
    CachedResult,
    CacheRequest,
)
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import begin_json, to_json_value
from noetl.executor.model.outcome import Outcome, WorkResult, WorkSuspension
from noetl.executor.model.stored_json import exceeds, hash_json
from noetl.executor.security.redaction import redact, redact_cut_text, redact_for_storage, redacted_head
from noetl.executor.security.secret_access import SecretNames
from noetl.executor.security.secret_sources import SecretReference
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Action, Cache
from noetl.planner.templates.template import EvaluationError, Lookup

if TYPE_CHECKING:
    from noetl.executor.model.sql import Sql

FIRST_WAIT_SECONDS = 0.5
WAIT_GROWTH = 1.5
MAX_WAIT_SECONDS = 60.0
"""The delays after which a visit asks again for a result that another one computes."""

FAILED_KEY = "has_failed"
"""The key of a journal entry of work in which something has failed before a suspension."""

MAX_KEY = 64 * 1024 * 1024
"""The most bytes of a key as JSON."""

_MAX_SEARCHED = 1024 * 1024
"""The characters of a large key that are searched for secrets. A secret has far fewer."""

_UNDEFINED = {"undefined": True}
"""Stands for a name without a value in a default key."""

ReadValues = Callable[[], Any]
"""A function that returns the values of the default key. It raises an ActionError if one cannot be computed.
"""


@frozen
class CachedWork:
    """Work at a position with a cache. `action` is its type if it is an action, `line` its line.

    `default_key` reads the values of the default key.
    """

    context: WorkContext
    cache: Cache
    scope: Scope
    position: str
    default_key: ReadValues
    action: str | None = None
    line: int = 0

    def run(self, work: Callable[[WorkContext], WorkResult]) -> WorkResult:
        """Return a result of the cache, or that of work(context), which is saved if it is a success.

        If another visit computes the result, the work is suspended.
        """
        results = self.context.results
        if results is None or results.limit(self.cache.ttl_seconds) <= 0.0:
            return work(self.context)
        try:
            request = self._make_request(results)
        except ActionError as problem:
            error = self.scope.failure(problem, self.action or "cache", self.line)
            return Outcome(False, None, error, self.action)
        if request is None:
            return work(self.context)
        answer = results.ask(request)
        if isinstance(answer, CachedResult):
            return self._reuse(request, answer)
        if answer is not None:
            return self._wait()
        return self._compute(results, request, work)

    def _make_request(self, results: ResultCache) -> CacheRequest | None:
        """Return the request for the result, or None if the work is done without the cache.

        That is so if it will fail for a value that it reads, or if the default key is too long.

        Raises:
            ActionError: `key` has no value, or is too long.
        """
        given, label = self.cache.key, ""
        if given is None:
            try:
                key = self.default_key()
            except ActionError:
                return None
        else:
            key = to_plain_value(render_at_key("cache.key", given, self.scope.lookup(self.position)))
            label = _label_of(key)
        if exceeds(key, MAX_KEY):
            problem = f"is longer than {MAX_KEY:,} bytes of JSON"
            if given is not None:
                raise ActionError("LimitExceeded", f"`cache.key` {problem}", retryable=False)
            self._warn(f"the key {problem}")
            return None
        run = self.scope.run
        digest = hash_json([run.tenant, run.folder, self.cache.work_hash, given is None, key])
        return results.request(digest, label, self.position, self.cache.ttl_seconds)

    def _reuse(self, request: CacheRequest, result: CachedResult) -> WorkResult:
        """Return the outcome in the cache, and record where it comes from."""
        stored, saved = result.value
        context, scope, visit = self.context, self.scope, self.scope.visit
        now = context.clock()
        payload = {
            **({} if self.action is None else {"action": self.action}),
            "position": self.position,
            "key": request.digest,
            "age_seconds": max(now - result.created_at, 0.0),
            "run": result.run_id,
        }
        context.events.append(
            Event("action.cached", now, visit.step, visit.number, visit.attempt, payload=payload)
        )
        if self.action is None:
            try:
                scope.save(saved, context.memory_budget)
            except ActionError as problem:
                return Outcome(False, None, scope.failure(problem, "cache"))
            saved = dict(scope.saved)
        return replace(Outcome.from_list(stored), saved=saved)

    def _wait(self) -> WorkSuspension:
        """Return the suspension until the next request, with the progress that the work has so far."""
        journal = self.context.journal
        waits = journal.get(self.position, {}).get(WAITS_KEY, 0)
        delay = min(FIRST_WAIT_SECONDS * WAIT_GROWTH**waits, MAX_WAIT_SECONDS)
        progress = {key: entry for key, entry in journal.items() if _is_below(key, self.position)}
        suspension = WorkSuspension(progress, self.context.clock() + delay, actions=(CACHE_WAIT,))
        return suspension.with_entry(self.position, {WAITS_KEY: waits + 1})

    def _compute(
        self, results: ResultCache, request: CacheRequest, work: Callable[[WorkContext], WorkResult]
    ) -> WorkResult:
        """Perform the work, and save its result unless something in it has failed."""
        entry = self.context.journal.get(self.position, {})
        flag = FailureFlag(bool(entry.get(FAILED_KEY)), self.context.failures)
        try:
            result = work(replace(self.context, failures=flag))
        except ActionError:
            results.release(request)
            raise
        if isinstance(result, Outcome) and result.success and not flag.is_set:
            value = redact_for_storage([result.to_list(), dict(result.saved)])
            problem = results.save(request, value, self.cache.ttl_seconds)
            if problem is not None:
                self._warn(problem)
            return result
        results.release(request)
        if isinstance(result, WorkSuspension) and flag.is_set:
            return result.with_entry(self.position, {FAILED_KEY: True})
        return result

    def _warn(self, problem: str) -> None:
        """Add to the history why the result is not cached."""
        if self.context.kept_data is not None:
            line = {"stream": "line", "level": "warning", "text": f"the result is not cached: {problem}"}
            self.context.kept_data.add_line(self.action or "cache", self.position, line)


def _label_of(key: Any) -> str:
    """Return the beginning of a key as text without secrets."""
    text = redacted_head(key, MAX_LABEL_LENGTH) if isinstance(key, str) else begin_json(key, _MAX_SEARCHED)
    if not isinstance(key, str):
        text = redact_cut_text(text) if len(text) >= _MAX_SEARCHED else str(redact(text))
    # Not every store keeps a NUL or half of a surrogate pair.
    return to_printable(text[:MAX_LABEL_LENGTH])


def read_action_key(action: Action, declaration: ActionDeclaration, lookup: Lookup, cache: Cache) -> Any:
    """Return the default key of an action: its rendered parameters, in which secrets are names.

    What the handler evaluates itself is replaced by the values that it reads.

    Raises:
        ActionError: a parameter cannot be rendered.
    """
    rendered = {
        name: to_plain_value(render(value, declaration.parameters.get(name), lookup, SecretNames()))
        for name, value in action.parameters.items()
    }
    return [rendered, read_values(cache, lookup)]


def read_values(cache: Cache, lookup: Lookup) -> list[Any]:
    """Return the values of what cached work reads. One without a value has a mark in its place."""
    return [_read_value(path, lookup) for path in cache.reads]


def _read_value(path: tuple[str, ...], lookup: Lookup) -> Any:
    if path[0] in ("now", "uuid"):
        path = ("step", "idempotency_key")  # no other attempt or run has the same
    try:
        value = lookup(path[0])
    except (KeyError, EvaluationError):
        return _UNDEFINED
    if len(path) > 1 and isinstance(value, Mapping) and not hasattr(dict, path[1]):
        value = value.get(path[1], _UNDEFINED)
    return to_plain_value(value)


def to_plain_value(value: Any) -> Any:
    """Return a value as JSON data for a key. A secret becomes its name, and a function none.

    >>> to_plain_value({"a": (1, SecretReference("TOKEN")), "b": len})
    {'a': [1, {'secret': 'TOKEN'}], 'b': None}
    """
    if isinstance(value, SecretReference):
        return {"secret": value.name}
    if isinstance(value, Mapping):
        return {str(key): to_plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_value(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "parts"):
        return _describe_statement(value)
    return None if callable(value) else to_json_value(value)


def _describe_statement(statement: Sql) -> list[Any]:
    """Return the parts of a statement: its texts, the values that it binds, and quoted names."""
    from noetl.executor.model.sql import Bind

    return [
        [to_plain_value(part.value)]
        if isinstance(part, Bind)
        else part
        if isinstance(part, str)
        else {"name": part.quoted}
        for part in statement.parts
    ]


def _is_below(key: str, position: str) -> bool:
    """Return whether a journal key belongs to the work at a position.

    >>> [_is_below(key, "run.1") for key in ("run.1", "run.1/task.0", "run.10")]
    [True, True, False]
    """
    return key.startswith(position) and key[len(position) : len(position) + 1] in ("", ".", "/", "#", "[")
