"""Parallel mode under all orders of commits (section 5 of the language reference).

A state of a run is the set of its live branches, the arrivals at joins and what has been committed. One event
leads from a state to the next: a visit begins, which gives it its number, or a visit is committed as a whole.
The outcomes are those of all paths to a state without live branches. States are equal if their visits are, so
orders that make no difference are explored once. An event that commutes with all others is taken at once: the
ample sets of partial-order reduction (Peled 1993). Past `most_orders` alternatives the exploration is
incomplete.

Which write replaces another is decided by sets: each visit has the set of the visits that happened before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

from tests.oracle.ending import EndedBranches, end_run
from tests.oracle.outcome import AllowedOutcome, AllowedOutcomes
from tests.oracle.program import NotCoveredError
from tests.oracle.visit import PerformedVisit, VisitPerformer, all_results

VisitIds = frozenset[int]


@dataclass(frozen=True)
class LiveBranch:
    """A branch that is about to perform a step, or performs it: then its visit has a number."""

    step: str
    parents: VisitIds  # the last visits of the branches that have arrived
    history: VisitIds  # all visits that happened before, those of branches that a join waited for included
    number: int = 0

    @cached_property
    def key(self) -> tuple[str, tuple[int, ...], tuple[int, ...], int]:
        """A key that orders branches."""
        return self.step, tuple(sorted(self.parents)), tuple(sorted(self.history)), self.number


@dataclass(frozen=True)
class CommittedVisit:
    """A visit after its commit."""

    step: str
    number: int
    history: VisitIds  # without itself
    done: PerformedVisit
    writes: Mapping[str, int]  # name → the visit whose write this branch sees
    known: Mapping[str, int]  # step → its last visit in this branch's history


@dataclass(frozen=True)
class RunPosition:
    """A state of a run."""

    live: frozenset[LiveBranch]
    arrived: frozenset[tuple[str, int]] = frozenset()  # join, last visit of the branch
    waited: frozenset[tuple[str, int]] = frozenset()  # join, visit that it has waited for
    waves: frozenset[tuple[str, int, int]] = frozenset()  # of `join: any` that have had an arrival
    begun: frozenset[tuple[str, int]] = frozenset()  # step, number of its visits
    committed: VisitIds = frozenset()
    failures: tuple[int, ...] = ()  # visits with a failure that no case handled


class ParallelExplorer:
    """Explores the orders of one run."""

    def __init__(self, performer: VisitPerformer, most_orders: int) -> None:
        self.performer = performer
        self.program = performer.program
        self.graph = performer.program.graph
        self.most_orders = most_orders
        self.visits: list[CommittedVisit] = []
        self.ids: dict[Any, int] = {}
        self.performed: dict[LiveBranch, list[int]] = {}
        self.outcomes: set[AllowedOutcome] = set()
        self.races: set[str] = set()
        self.may_abort = False
        text = str(self.program.playbook)
        self.numbers_are_read = "visit" in text or "steps" in text
        self.run_error_is_read = "run" in text and "finally" in text

    def explore(self) -> AllowedOutcomes:
        """Explore first as if no failure aborted the run: if one can, all orders of commits count."""
        is_complete = self._explore_orders()
        if self.may_abort:
            self.outcomes.clear()
            is_complete = self._explore_orders()
        return AllowedOutcomes(frozenset(self.outcomes), is_complete, frozenset(self.races))

    def _explore_orders(self) -> bool:
        """Explore the states depth first. Return whether all were reached."""
        first = LiveBranch(self.graph.start, frozenset(), frozenset())
        todo = [RunPosition(frozenset({first}))]
        seen = set(todo)
        n_orders = 1
        full_mode = self.may_abort
        while todo:
            position = todo.pop()
            following = [p for p in self._following(position) if p not in seen]
            if self.may_abort and not full_mode:
                return False
            n_orders += max(0, len(following) - 1)
            if n_orders > self.most_orders:
                return False
            seen.update(following)
            todo += following
        return True

    def _following(self, position: RunPosition) -> list[RunPosition]:
        """Return the states after one event: after any event, or after one that commutes with all others."""
        if not position.live:
            if position.arrived:
                raise NotCoveredError("joins wait for each other")
            self._end(position, is_aborted=False)
            return []
        branches = sorted(position.live, key=lambda branch: branch.key)
        for branch in branches:
            if not branch.number and not self._competes_for_number(position, branch):
                return [self._begin(position, branch)]
        if not self.may_abort:
            for branch in branches:
                if branch.number and self._commutes(position, branch):
                    return list(self._commit(position, branch))
        following: list[RunPosition] = []
        for branch in branches:
            following += self._commit(position, branch) if branch.number else [self._begin(position, branch)]
        return following

    # Events

    def _begin(self, position: RunPosition, branch: LiveBranch) -> RunPosition:
        """Give a visit its number. In parallel mode it depends on timing where branches compete for it."""
        counts = dict(position.begun)
        number = counts[branch.step] = counts.get(branch.step, 0) + 1
        live = position.live - {branch} | {replace(branch, number=number)}
        return replace(position, live=live, begun=frozenset(counts.items()))

    def _commit(self, position: RunPosition, branch: LiveBranch) -> Iterator[RunPosition]:
        """Yield the states after the commit of a visit, one for each result that the text allows."""
        for visit_id in self._perform(branch):
            visit = self.visits[visit_id]
            aborts = visit.done.failure is not None and self.program.policy(branch.step) == "abort"
            after = self._moved(position, branch, visit_id)
            if not aborts:
                yield after
                continue
            self.may_abort = True
            self._stop(after, position.live - {branch})

    def _moved(self, position: RunPosition, branch: LiveBranch, visit_id: int) -> RunPosition:
        """Return the state after a commit: the branch has arrived at its targets, and joins have fired."""
        visit = self.visits[visit_id]
        live, arrived, waves = set(position.live - {branch}), set(position.arrived), set(position.waves)
        waited = {
            (join, visit_id)
            for join in self.graph.steps
            if self.graph.join(join) == "all" and self.graph.waits_for(join, branch.step, True)
        }
        history = visit.history | {visit_id}
        for target in visit.done.targets:
            match self.graph.join(target):
                case "all":
                    arrived.add((target, visit_id))
                case "any":
                    pairs = [(self.visits[i].step, self.visits[i].number) for i in history]
                    if (wave := self.graph.wave(target, pairs)) in waves:
                        continue
                    waves.add(wave)
                    live.add(LiveBranch(target, frozenset({visit_id}), history))
                case _:
                    live.add(LiveBranch(target, frozenset({visit_id}), history))
        after = replace(
            position,
            live=frozenset(live),
            arrived=frozenset(arrived),
            waited=position.waited | waited,
            waves=frozenset(waves),
            committed=position.committed | {visit_id},
        )
        if visit.done.failure:
            failures = (*position.failures, visit_id)
            after = replace(after, failures=failures if self.run_error_is_read else tuple(sorted(failures)))
        return self._with_fired_joins(after)

    def _with_fired_joins(self, position: RunPosition) -> RunPosition:
        """Fire each default join that has an arrival and waits for no live branch."""
        waiting = {join for join, _ in position.arrived}
        firing = {
            join
            for join in waiting
            if not any(self.graph.waits_for(join, branch.step, True) for branch in position.live)
            and not any(self.graph.waits_for(join, other, False) for other in waiting if other != join)
        }
        if not firing:
            return position
        live = set(position.live)
        for join in firing:
            parents = frozenset(visit for step, visit in position.arrived if step == join)
            before = parents | {visit for step, visit in position.waited if step == join}
            history = before.union(*(self.visits[visit].history for visit in before))
            live.add(LiveBranch(join, parents, history))
        arrived = frozenset(pair for pair in position.arrived if pair[0] not in firing)
        return replace(position, live=frozenset(live), arrived=arrived)

    def _stop(self, position: RunPosition, rivals: Iterable[LiveBranch]) -> None:
        """End an aborted run. Which of the other visits were running, and so finish, is open (section 7)."""
        position = replace(position, live=frozenset(rivals))
        for branch in sorted(rivals, key=lambda branch: branch.key):
            position = position if branch.number else self._begin(position, branch)
        fates: list[list[tuple[str, int | None] | None]] = []  # not started, finished, or waiting
        for branch in position.live:
            ids = self._perform(branch)
            is_suspended = any(self.visits[visit_id].done.was_suspended for visit_id in ids)
            finished = [(branch.step, visit_id) for visit_id in ids]
            fates.append([None, *finished, *([(branch.step, None)] if is_suspended else [])])
        steps = [branch.step for branch in position.live]
        for choice in product(*fates):
            counts = Counter(dict(position.begun))
            counts.subtract(step for step, fate in zip(steps, choice, strict=True) if fate is None)
            finished_ids = [fate[1] for fate in choice if fate is not None and fate[1] is not None]
            failures = [visit_id for visit_id in finished_ids if self.visits[visit_id].done.failure]
            end = replace(
                position,
                committed=position.committed | set(finished_ids),
                failures=(*position.failures, *failures),
                begun=frozenset((step, count) for step, count in counts.items() if count),
            )
            self._end(end, is_aborted=True)

    def _end(self, position: RunPosition, is_aborted: bool) -> None:
        """Add the outcomes of a run that has ended. Its names are all writes that no other replaces."""
        writes: dict[str, set[int]] = {}
        known: dict[str, int] = {}
        for visit_id in position.committed:
            visit = self.visits[visit_id]
            for name in visit.done.saved:
                writes.setdefault(name, set()).add(visit_id)
            known[visit.step] = self._later(known.get(visit.step), visit_id)
        saved = {name: self._value(name, visits) for name, visits in writes.items()}
        failures = [self.visits[visit_id].done.failure or {} for visit_id in position.failures]
        ended = EndedBranches(saved, self._records(known), dict(position.begun), failures, is_aborted)
        self.outcomes.update(all_results(lambda choices: end_run(self.performer, ended, choices)))

    # Independence

    def _competes_for_number(self, position: RunPosition, branch: LiveBranch) -> bool:
        """Return whether another branch may take the number of this visit, if the number matters."""
        step = branch.step
        if not self.numbers_are_read and "max_visits" not in self.graph.steps[step]:
            return False
        return any(
            (other.number == 0 and other.step == step) or self.graph.can_reach(other.step, step)
            for other in position.live - {branch}
        ) or any(join == step or self.graph.can_reach(join, step) for join, _ in position.arrived)

    def _commutes(self, position: RunPosition, branch: LiveBranch) -> bool:
        """Return whether no other event changes a commit: no other branch may be first at a target."""
        rivals = [other.step for other in position.live - {branch}] + [join for join, _ in position.arrived]
        return not any(
            self.graph.join(target) == "any" and (other == target or self.graph.can_reach(other, target))
            for visit_id in self._perform(branch)
            for target in self.visits[visit_id].done.targets
            for other in rivals
        )

    # Visits and names

    def _perform(self, branch: LiveBranch) -> list[int]:
        """Return the ids of the visit, one for each result that the text allows."""
        if branch not in self.performed:
            writes, known = self._merge(branch.parents)
            saved = {name: self._value(name, {visit_id}) for name, visit_id in writes.items()}
            names = self.program.names(saved, self._records(known))
            results = all_results(
                lambda choices: self.performer.perform(branch.step, branch.number, names, choices)
            )
            self.performed[branch] = [self._add(branch, done, writes, known) for done in results]
        return self.performed[branch]

    def _add(
        self, branch: LiveBranch, done: PerformedVisit, writes: Mapping[str, int], known: Mapping[str, int]
    ) -> int:
        visit_id = len(self.visits)
        writes = {**writes, **dict.fromkeys(done.saved, visit_id)}
        known = {**known, branch.step: visit_id}
        self.visits.append(CommittedVisit(branch.step, branch.number, branch.history, done, writes, known))
        return visit_id

    def _merge(self, parents: VisitIds) -> tuple[dict[str, int], dict[str, int]]:
        """Return what arriving branches hand on: of each name the write that no other replaces."""
        writes: dict[str, set[int]] = {}
        known: dict[str, int] = {}
        for parent in parents:
            visit = self.visits[parent]
            for name, writer in visit.writes.items():
                writes.setdefault(name, set()).add(writer)
            for step, last in visit.known.items():
                known[step] = self._later(known.get(step), last)
        return {name: self._last_write(name, writers) for name, writers in writes.items()}, known

    def _last_write(self, name: str, writers: Iterable[int]) -> int:
        """Return the write that was made after all others; two that no order decides are a race (NP303)."""
        last = [w for w in writers if not any(w in self.visits[other].history for other in writers)]
        if len(last) > 1:
            self.races.add(name)
        return min(last)

    def _value(self, name: str, writers: Iterable[int]) -> Any:
        return self.visits[self._last_write(name, writers)].done.saved[name]

    def _later(self, visit_id: int | None, other: int) -> int:
        """Return the visit with the greater number."""
        return (
            other if visit_id is None else max(visit_id, other, key=lambda visit: self.visits[visit].number)
        )

    def _records(self, known: Mapping[str, int]) -> dict[str, Any]:
        return {step: self.visits[visit_id].done.record for step, visit_id in known.items()}
