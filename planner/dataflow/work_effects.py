"""What the entries of a `run` need and add, one after another or together, and through the tasks that they call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx
from noetl.planner.dataflow.definitions import called
from noetl.planner.dataflow.fact_encoding import Reading, Readings
from noetl.planner.dataflow.infallible import is_harmless_action
from noetl.planner.dataflow.narrowing import ANY, FAILED
from noetl.planner.dataflow.transfer import EVERYTHING, Done, Implications, Needs, State
from noetl.planner.graph.bitset import bits
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Use
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, Task, TaskEntry


class Work:
    """The work of a whole playbook. `by_owner` are the templates of each entry and each other part of a step, by its place."""

    def __init__(self, subject: Subject, readings: Readings) -> None:
        self.names = subject.names
        self.readings = readings
        self.implications: Implications | None = None
        self.by_owner: dict[DocumentPath, list[Use]] = {}
        for use in subject.uses:
            self.by_owner.setdefault(use.owner or use.path, []).append(use)
        self.done: dict[str, Done] = {}
        # What is there when a task is called is not known here, so that nothing is implied by it.
        for task in reversed(list(nx.topological_sort(subject.task_calls))):
            self.done[task] = self.of_task(task)

    def widened(self, there: int, may: int) -> int:
        """What is there, with what that implies; not of what the work itself may have made just now."""
        certain = there & ~may & self.readings.plain
        if self.implications is None or not certain:
            return there
        return there | self.implications.of(certain)

    def of_task(self, name: str) -> Done:
        task = self.names.tasks[name]
        needs, state = Needs(), State()
        self.run(task.run, state, needs, parallel=task.parallel)
        return Done(
            needs.needed,
            needs.hopeless,
            state.known,
            state.may,
            self.forgives(task.run, parallel=task.parallel),
            self.fails_by(task.run),
        )

    def read(self, use: Use, known: int, may: int, needs: Needs, outcomes: int = ANY) -> Reading:
        reading = self.readings.of(use)
        if lacking := reading.needs & ~known:
            needs.add(use, self.readings.eased(lacking, known), may, outcomes)
        for wanted, given in reading.conditional:
            there = known | self.widened(given.there, may)
            lacking = self.readings.eased(wanted & ~there, there)
            if lacking and given.outcomes & outcomes and not given.gone & known:
                needs.add(use, lacking, may, outcomes)
        return reading

    def run(
        self, run: Sequence[Entry], state: State, needs: Needs, *, parallel: bool, outcomes: int = ANY
    ) -> None:
        """Add to a state what entries add, one after another or together. The result is that of the last one, or of all."""
        if not parallel:
            for entry in run:
                self.entry(entry, state, needs, outcomes)
            return
        known, may = state.known, state.may
        for entry in run:
            own = State(known, may)
            self.entry(entry, own, needs, outcomes)
            state.known |= own.known
            state.may |= own.may
            state.on_success |= own.on_success
        state.known = self.readings.resolved(state.known)

    def entry(self, entry: Entry, state: State, needs: Needs, outcomes: int) -> None:
        state.on_success = 0
        if isinstance(entry, str):
            self.call(entry, state, needs, outcomes)
            return
        if not isinstance(entry, ActionEntry | TaskEntry) or (entry.if_ is False and entry.loop is None):
            return
        before = known = state.known
        skipped: int | None = None
        retried: list[Use] = []
        uses = self.by_owner.get(entry.path, ())
        at = len(entry.path)
        for use in uses:
            part = use.path[at]
            if part == "retry":
                retried.append(use)
                continue
            reading = self.read(use, known, state.may, needs, outcomes)
            if part == "if" and entry.loop is None:
                true, false = reading.true, reading.false
                if not true.outcomes & outcomes or true.gone & known:
                    state.known = known | self.widened(false.there, state.may)
                    return
                skipped = (
                    known | self.widened(false.there, state.may)
                    if false.outcomes & outcomes and not false.gone & known
                    else None
                )
                known |= self.widened(true.there, state.may)
            elif part == "loop":
                state.known = known = known | self.widened(reading.always.there, state.may)
        known = self.done_by(entry, uses, known, state, needs, outcomes)
        for use in retried:
            self.read(use, known, state.may, needs, FAILED)
        if skipped is not None:
            known &= skipped
        known = self.readings.resolved(known)
        state.on_success = known
        state.known = known if entry.on_error is None else known & before

    def done_by(
        self,
        entry: ActionEntry | TaskEntry,
        uses: Sequence[Use],
        known: int,
        state: State,
        needs: Needs,
        outcomes: int,
    ) -> int:
        """What is known when the work of an entry has succeeded that was not skipped."""
        if entry.loop is None:
            at = len(entry.path)
            for use in uses:
                if use.path[at] not in ("retry", "if") and use.template.names.isdisjoint(use.local):
                    known |= self.widened(self.readings.of(use).always.there, state.may)
        task = entry.task if isinstance(entry, TaskEntry) else None
        if task is not None:
            inner = State(known, state.may)
            self.call(task, inner, needs, outcomes)
            if entry.loop is None:
                known, state.may = inner.known, inner.may
        if isinstance(entry, ActionEntry) and entry.action == "fail" and entry.loop is None:
            return EVERYTHING
        saved = self.readings.saves(entry)
        state.may |= saved
        return (state.known if entry.loop is not None else known) | saved

    def call(self, name: str, state: State, needs: Needs, outcomes: int) -> None:
        done = self.done.get(name)
        if done is None:
            return
        lacking = self.readings.eased(done.needed & ~state.known, state.known)
        if lacking & needs.wanted:
            self.find_places(self.names.tasks[name], lacking & needs.wanted, state.may, needs, outcomes)
        needs.needed |= lacking
        needs.hopeless |= done.hopeless & ~state.known & ~state.may
        state.known |= done.gen
        state.may |= done.may

    def find_places(self, task: Task, wanted: int, may: int, needs: Needs, outcomes: int) -> None:
        """Find the first places in a task that need some bits, as `of_task` has found that it does."""
        base = {1 << index: self.readings.base(1 << index) for index in bits(wanted)}
        inner = Needs(wanted=wanted)
        for bit in base.values():
            inner.wanted |= bit
        implications, self.implications = self.implications, None
        self.run(task.run, State(0, may), inner, parallel=task.parallel, outcomes=outcomes)
        self.implications = implications
        for bit, own in base.items():
            if (read := inner.places.get(bit, inner.places.get(own))) is not None:
                needs.places[bit] = read
                needs.wanted &= ~bit

    def fails_by(self, run: Iterable[Entry]) -> bool:
        """Whether work may fail."""
        for entry in run:
            if isinstance(entry, ActionEntry):
                if not is_harmless_action(entry):
                    return True
            elif not isinstance(entry, str) or entry not in self.done or self.done[entry].may_fail:
                return True
        return False

    def forgives(self, run: Sequence[Entry], *, parallel: bool) -> bool:
        """Whether the result of work may be a failure that is forgiven."""
        return any(map(self.is_forgiven, run if parallel else run[-1:]))

    def is_forgiven(self, entry: Entry) -> bool:
        if isinstance(entry, ActionEntry | TaskEntry) and (
            entry.on_error is not None or (entry.loop is not None and entry.loop.on_error == "continue")
        ):
            return True
        task = entry.task if isinstance(entry, TaskEntry) else entry
        return isinstance(task, str) and task in self.done and self.done[task].forgives

    def may_save(self, run: Iterable[Entry]) -> int:
        found = 0
        for entry in run:
            found |= self.readings.saves(entry)
            if (task := called(entry)) is not None and task in self.done:
                found |= self.done[task].may
        return found
