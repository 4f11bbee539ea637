"""Checks of caches: work that a hit must not skip, work that cannot be cached, and keys that never match.

These are the codes NP513 to NP515.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.program.cache_reads import CacheReads, ReadPath, is_varying
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import ActionEntry, CachePolicy, DocumentPath, Entry, Step

_SKIP = "write `skip_effects: true` in `cache` if a hit may skip them, or cache other work"
_WAITING = "move it to a step without `cache`"


def check_caching(program: Program) -> None:
    """Report caches of work with effects or waits, and default keys that differ in each run."""
    entries = (entry for entry, _, _ in program.entries)
    actions = [entry for entry in entries if isinstance(entry, ActionEntry) and entry.cache is not None]
    steps = [step for step in program.playbook.steps if step.cache is not None]
    if not actions and not steps:
        return
    check = _CacheCheck(program)
    for entry in actions:
        check.check_action(entry)
    for step in steps:
        check.check_step(step)


class _CacheCheck:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._reads = CacheReads(program)
        self._reported: set[DocumentPath] = set()

    def check_action(self, entry: ActionEntry) -> None:
        """Check an action with a cache of its own."""
        cache = entry.cache
        assert cache is not None
        self._check_work(entry, cache)
        self._check_key(cache, self._reads.of_action(entry))

    def check_step(self, step: Step) -> None:
        """Check a step with a cache, with all actions of its work."""
        cache = step.cache
        assert cache is not None
        if not step.run:
            message = f"step `{step.name}` has no work to cache"
            self._program.report("NP514", message, cache.path, "remove `cache`", key=True)
            return
        if step.repeat is not None:
            message = "each round of `repeat` would have the cached result of the first"
            hint = "write `cache` on actions of the step, or remove `repeat`"
            self._program.report("NP514", message, cache.path, hint, key=True)
        for entry in self._find_actions(step):
            self._check_work(entry, cache)
        self._check_key(cache, self._reads.of_step(step))

    def _find_actions(self, step: Step) -> Iterator[ActionEntry]:
        """Yield the actions of the work of a step, with those of the tasks that it calls."""
        tasks = self._program.symbols.tasks
        runs: list[Iterable[Entry]] = [step.run or ()]
        runs += [tasks[name].run for name in self._reads.called_tasks(step)]
        return (entry for run in runs for entry in run if isinstance(entry, ActionEntry))

    def _check_work(self, entry: ActionEntry, cache: CachePolicy) -> None:
        """Check that a hit may take the place of an action."""
        declaration = entry.declaration
        if declaration is None or entry.path in self._reported:
            return
        labels = self._labels(entry, cache)
        path = (*entry.path, "action")
        if declaration.suspends:
            message = f"`{entry.action}` waits, and cannot be cached"
            self._reported.add(entry.path)
            self._program.report("NP514", message, path, _WAITING, labels)
        elif not cache.skip_effects and not declaration.is_reader(entry.parameters):
            summary = declaration.summarise(entry.parameters)
            shown = f"`{entry.action}`" + (f" {summary}" if summary.isupper() else "")
            message = f"{shown} may have effects, and a cached result would skip them"
            self._reported.add(entry.path)
            self._program.report("NP513", message, path, _SKIP, labels)

    def _labels(self, entry: ActionEntry, cache: CachePolicy) -> list[Label]:
        """Return the label that marks the cache, unless it is that of the action itself."""
        if cache.path[:-1] == entry.path:
            return []
        return [Label(self._program.document.key_span(cache.path), "this cache would skip it")]

    def _check_key(self, cache: CachePolicy, reads: Iterable[ReadPath]) -> None:
        """Check that the default key can be the same in two runs."""
        varying = None if cache.key is not None else next(filter(is_varying, reads), None)
        if varying is not None:
            message = f"the work reads `{'.'.join(varying)}`, which differs in each run: there are no hits"
            hint = "write `key` in `cache`, with the values that the result depends on"
            self._program.report("NP515", message, cache.path, hint, key=True)
