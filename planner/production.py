"""What the work of each step needs and produces, whatever was there before it.

Names, and steps that have been visited, are bits of integers. All that is said of a step holds for every state in which it
is entered: `needs` are the bits that must be there then, and each outcome adds bits to those that were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import networkx as nx

from planner.accesses import Access
from planner.checks.subject import Subject
from planner.concurrency import bits
from planner.entries import saved_names
from planner.failing import is_harmless_action, is_harmless_text
from planner.implied import ANY, FAILED, SUCCEEDED, SUCCEEDED_RUN, UNFAILED, Facts, implied, is_unconditional
from planner.playbook import ActionEntry, Case, Entry, Path, Step, TaskEntry
from planner.rules import Verdict, is_error_aware
from planner.saves import called
from planner.uses import Use

EVERYTHING = -1
"""The bits of a place that is never reached: all of them."""


def key_of(access: Access) -> str | None:
    """What has to have been produced for an access: a name, or `steps.NAME` for a step that has been visited."""
    if access[0] != "steps":
        return access[0]
    return f"steps.{access[1]}" if len(access) > 2 and access[2] in ("result", "error") else None


class Known(NamedTuple):
    """Facts as bits."""

    there: int = 0
    gone: int = 0
    outcomes: int = ANY


@dataclass(frozen=True, slots=True)
class Reading:
    """A template as bits: what it needs, and what it needs where something is known; all of it; what is known behind it."""

    needs: int
    conditional: tuple[tuple[int, Known], ...]
    wanted: int
    always: Known
    true: Known
    false: Known
    asks_for_errors: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way in which a visit can end: by a case, or by none; after a failure or not. `gen` are the bits it adds for certain,
    `may` those that it may add, `made` those of them that were not there before as far as it knows. It cannot be where a bit
    of `gone` was there before, nor where one of `asked` cannot have been.
    """

    case: int | None
    failed: bool
    targets: tuple[str, ...]
    gen: int
    may: int
    gone: int = 0
    made: int = 0
    asked: int = 0

    @property
    def is_unhandled(self) -> bool:
        return self.failed and self.case is None


@dataclass(slots=True)
class State:
    """What is known to be there, and what may be, of what the work itself adds."""

    known: int = 0
    may: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A place at which something may be lacking: after which outcomes of the step's `run` it is read there, and whether nothing in
    the step may have produced it before.
    """

    use: Use
    is_hopeless: bool
    outcomes: int


@dataclass(slots=True)
class Needs:
    """What has been found to be needed; `hopeless` is what nothing before it in the same step may have produced.

    With `wanted`, the first place that needs each of these bits is kept in `places`.
    """

    needed: int = 0
    hopeless: int = 0
    wanted: int = 0
    places: dict[int, Read] = field(default_factory=dict)

    def add(self, use: Use, bits: int, may: int, outcomes: int = ANY) -> None:
        self.needed |= bits
        self.hopeless |= bits & ~may
        found = bits & self.wanted
        while found:
            bit = found & -found
            found ^= bit
            self.wanted ^= bit
            self.places[bit] = Read(use, not bit & may, outcomes)


@dataclass(frozen=True, slots=True)
class Done:
    """What a task needs and adds, whether it may end in a failure that is forgiven, and whether it may fail."""

    needed: int
    hopeless: int
    gen: int
    may: int
    forgives: bool
    may_fail: bool


class Implications:
    """What is there wherever something is: all that is certain behind everything that can have made it, since nothing that a
    branch has is ever taken from it.
    """

    def __init__(self, makers: Iterable[tuple[int, int]]) -> None:
        """`makers` are pairs of what a work may make, and what is certain behind it."""
        self.makers = makers
        self.by_bit: dict[int, list[int]] | None = None
        self.known: dict[int, int] = {}

    def of(self, there: int) -> int:
        """All that some bits imply."""
        if self.by_bit is None:
            self.by_bit = {}
            for made, certain in self.makers:
                for index in bits(made):
                    self.by_bit.setdefault(index, []).append(certain)
        found = 0
        for index in bits(there):
            if index not in self.known:
                implied = EVERYTHING
                for certain in self.by_bit.get(index, ()):
                    implied &= certain
                self.known[index] = 0 if implied == EVERYTHING else implied
            found |= self.known[index]
        return found


class Assumed(NamedTuple):
    """What is known where a case is looked at: bits that are there, bits that were not there before, and bits that were."""

    known: int
    gone: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit of a step needs, and all its outcomes. `taken` tells for cases what is known where they are taken; a guard that
    asks for what cannot be has nothing there.
    """

    needed: int
    hopeless: int
    outcomes: tuple[Outcome, ...]
    taken: Mapping[int, Sequence[Assumed]] = field(default_factory=dict)


class Production:
    """What the steps and tasks of a whole playbook need and produce. `keys` are the keys of the bits, in order."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.names = subject.names
        playbook = subject.playbook
        self.given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        self.keys: list[str] = []
        self.bits: dict[str, int] = {}
        self.saved = {name for run in subject.runs() for name, _ in saved_names(run, in_loops=True)} - self.given
        self.readings: dict[tuple[str, frozenset[str]], Reading] = {}
        self.by_owner: dict[Path, list[Use]] = {}
        self.sure: dict[str, int] = {}
        self.at_start = self.at_success = 0
        self.implications: Implications | None = None
        self.done: dict[str, Done] = {}
        for use in subject.uses:
            self.by_owner.setdefault(use.owner or use.path, []).append(use)
            self.allot(use)

    @cached_property
    def visits(self) -> dict[str, Visit]:
        """What a visit of each step needs, and its outcomes."""
        # What is there when a task is called is not known here, so that nothing is implied by it.
        for task in reversed(list(nx.topological_sort(self.subject.task_calls))):
            self.done[task] = self.of_task(task)
        return self.of_steps()

    def of_steps(self) -> dict[str, Visit]:
        return {name: self.of_step(step) for name, step in self.names.steps.items()}

    def know(self, implications: Implications) -> None:
        """Work all out again for steps, now that it is known what is there wherever something else is."""
        self.implications = implications
        self.visits = self.of_steps()

    def widened(self, there: int, may: int) -> int:
        """What is there, with what that implies; not of what the work itself may have made just now."""
        if self.implications is None or not there & ~may:
            return there
        return there | self.implications.of(there & ~may)

    def know_success(self, last: str, bits: int) -> None:
        """Take note of what is there when a run has succeeded, which the step that runs last may ask for."""
        self.at_success = bits
        self.readings.clear()
        self.visits[last] = self.of_step(self.names.steps[last])

    def allot(self, use: Use) -> None:
        """Give a bit to everything that a template reads and something produces, and to what is given where a guard may ask for it."""
        may_ask = "defined" in use.template.source
        for access in use.template.reads:
            key = access[0]
            is_given = key in self.given and may_ask
            if key == "steps" and len(access) > 2 and access[1] in self.names.steps:
                key = f"steps.{access[1]}"
            elif (key not in self.saved and not is_given) or key in use.local:
                continue
            if key not in self.bits:
                self.bits[key] = 1 << len(self.keys)
                self.keys.append(key)
                self.at_start |= self.bits[key] if is_given else 0

    def key(self, bit: int) -> str:
        return self.keys[bit.bit_length() - 1]

    # Templates

    def reading(self, use: Use) -> Reading:
        template = use.template
        found = self.readings.get((template.source, use.local))
        if found is None:
            if is_unconditional(template):
                needs = self.mask(template.reads, use.local)
                known = Known(needs)
                found = Reading(needs, (), needs, known, known, known)
            else:
                found = self.conditional(use)
            self.readings[template.source, use.local] = found
        return found

    def conditional(self, use: Use) -> Reading:
        found = implied(use.template)
        needs = 0
        conditional = []
        for need in found.needs:
            wanted = self.mask((need.access,), use.local)
            given = self.known(need.given, use.local)
            if wanted & ~given.there and given.outcomes:
                if given == Known():
                    needs |= wanted
                else:
                    conditional.append((wanted, given))
        always, true, false = (self.known(facts, use.local) for facts in (found.always, found.true, found.false))
        wanted = needs
        for bits_, _ in conditional:
            wanted |= bits_
        return Reading(needs, tuple(conditional), wanted, always, true, false, found.asks_for_errors)

    def mask(self, accesses: Iterable[Access], local: frozenset[str]) -> int:
        found = 0
        for access in accesses:
            if access[0] == "steps":
                found |= self.bits.get(key_of(access) or "", 0)
            elif access[0] not in local:
                found |= self.bits.get(access[0], 0)
        return found

    def known(self, facts: Facts, local: frozenset[str]) -> Known:
        there = self.mask(facts.there, local)
        for access in facts.there:
            if access[0] == "steps" and access[2:] == ("succeeded",) and access[1] in self.names.steps:
                there |= self.surely_saved(self.names.steps[access[1]])
            elif access == SUCCEEDED_RUN:
                there |= self.at_success
        gone = self.mask((access for access in facts.gone if len(access) == 1 or access[0] == "steps"), local)
        return Known(there, gone, facts.outcomes)

    def surely_saved(self, step: Step) -> int:
        """What a step has saved whenever it has succeeded."""
        return 0 if step.loop is not None else self.surely_saved_by(step.run or ())

    def surely_saved_by(self, run: Iterable[Entry]) -> int:
        found = 0
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                if entry.if_ not in (None, True) or entry.on_error is not None:
                    continue
                found |= self.saves(entry)
            if (task := called(entry)) is not None and task in self.names.tasks:
                if task not in self.sure:
                    self.sure[task] = self.surely_saved_by(self.names.tasks[task].run)
                found |= self.sure[task]
        return found

    def saves(self, entry: Entry, *, in_loops: bool = False) -> int:
        found = 0
        for name, _ in saved_names([entry], in_loops=in_loops):
            found |= self.bits.get(name, 0)
        return found

    # Work

    def of_task(self, name: str) -> Done:
        task = self.names.tasks[name]
        needs, state = Needs(), State()
        self.run(task.run, state, needs, parallel=task.parallel)
        return Done(
            needs.needed,
            needs.hopeless,
            state.known,
            state.may,
            any(map(self.forgives, task.run)),
            self.fails_by(task.run),
        )

    def of_step(self, step: Step) -> Visit:
        needs = Needs()
        taken: dict[int, list[Assumed]] = {}
        outcomes = tuple(self.visit(step, needs, taken))
        return Visit(needs.needed, needs.hopeless, outcomes, taken)

    def places(self, step: Step, wanted: int) -> dict[int, Read]:
        """The first place in a step, or in a task that it calls, that needs each of some bits."""
        needs = Needs(wanted=wanted)
        for _ in self.visit(step, needs, {}):
            pass
        return needs.places

    def read(self, use: Use, known: int, may: int, needs: Needs, outcomes: int = ANY) -> Reading:
        reading = self.reading(use)
        if reading.needs & ~known:
            needs.add(use, reading.needs & ~known, may, outcomes)
        for wanted, given in reading.conditional:
            lacking = wanted & ~known & ~self.widened(given.there, may)
            if lacking and given.outcomes & outcomes and not given.gone & known:
                needs.add(use, lacking, may, outcomes)
        return reading

    def run(self, run: Sequence[Entry], state: State, needs: Needs, *, parallel: bool, outcomes: int = ANY) -> None:
        """Add to a state what entries add, one after another or together."""
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

    def entry(self, entry: Entry, state: State, needs: Needs, outcomes: int) -> None:
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
        if entry.on_error is not None:
            known &= before
        state.known = known if skipped is None else known & skipped

    def done_by(
        self, entry: ActionEntry | TaskEntry, uses: Sequence[Use], known: int, state: State, needs: Needs, outcomes: int
    ) -> int:
        """What is known when the work of an entry has succeeded that was not skipped."""
        if entry.loop is None:
            at = len(entry.path)
            for use in uses:
                if use.path[at] not in ("retry", "if") and use.template.names.isdisjoint(use.local):
                    known |= self.widened(self.reading(use).always.there, state.may)
        task = entry.task if isinstance(entry, TaskEntry) else None
        if task is not None:
            inner = State(known, state.may)
            self.call(task, inner, needs, outcomes)
            if entry.loop is None:
                known, state.may = inner.known, inner.may
        if isinstance(entry, ActionEntry) and entry.action == "fail" and entry.loop is None:
            return EVERYTHING
        saved = self.saves(entry)
        state.may |= saved
        return (state.known if entry.loop is not None else known) | saved

    def call(self, name: str, state: State, needs: Needs, outcomes: int) -> None:
        done = self.done.get(name)
        if done is None:
            return
        lacking = done.needed & ~state.known
        if lacking & needs.wanted:
            task = self.names.tasks[name]
            self.run(task.run, State(state.known, state.may), needs, parallel=task.parallel, outcomes=outcomes)
        needs.needed |= lacking
        needs.hopeless |= done.hopeless & ~state.known & ~state.may
        state.known |= done.gen
        state.may |= done.may

    # Steps

    def visit(self, step: Step, needs: Needs, taken: dict[int, list[Assumed]]) -> Iterator[Outcome]:
        """The outcomes of a visit. What it needs has been noted when they are all told."""
        mark = self.bits.get(f"steps.{step.name}", 0)
        state = self.work(step, needs)
        cases = [(index, case, self.names.targets(case)) for index, case in enumerate(step.rule or ())]
        # Whoever handles a failure is taken at their word that there may be one, however harmless the work looks.
        may_fail, may_be_refused = self.may_fail(step), self.may_be_refused(step)
        for use in self.at(step, "retry", "if") if may_fail or step.retry is not None else ():
            self.read(use, 0, 0, needs, FAILED)
        may_be_handled = may_fail or bool(step.run)
        alive = FAILED if may_be_handled or may_be_refused else 0
        if state.known != EVERYTHING:
            alive |= UNFAILED if self.may_forgive(step) else SUCCEEDED
        worlds = _Worlds(state, State(), alive)
        verdict = self.subject.verdicts.get(step.path, Verdict())
        for index, case, targets in cases:
            # Past the bound a case that leads back is passed over.
            leads_back = may_be_refused and self.subject.flow.may_come_back(step.name, targets)
            for failed in self.taken(
                case, worlds, needs, may_handle=may_be_handled or not leads_back, may_pass=leads_back
            ):
                possible = verdict.after_failure if failed else verdict.after_success
                if possible is not None and index not in possible:
                    continue
                assumed = worlds.assumed(failed=failed)
                taken.setdefault(index, []).append(assumed)
                world = State(assumed.known, worlds.may(failed=failed))
                work = self.names.work(case) if not targets else []
                self.run(work, world, needs, parallel=False, outcomes=worlds.outcomes(failed=failed))
                if world.known == EVERYTHING:
                    continue
                made = mark if failed else mark | state.may
                yield Outcome(
                    index,
                    failed,
                    targets,
                    world.known | mark,
                    world.may | mark,
                    assumed.gone,
                    made | self.may_save(work),
                    assumed.asked,
                )
            if worlds.is_refuted:
                taken.setdefault(index, [])
            worlds.go_on()
        if worlds.alive & UNFAILED and verdict.left_open is not None:
            assumed = worlds.assumed(failed=False)
            may = worlds.may(failed=False) | mark
            yield Outcome(None, False, (), assumed.known | mark, may, assumed.gone, state.may | mark, assumed.asked)
        if worlds.alive & FAILED and verdict.may_be_unhandled and (may_fail or may_be_refused):
            yield Outcome(None, True, (), mark, mark, 0, mark)

    def work(self, step: Step, needs: Needs) -> State:
        """What is there when the `run` of a step has succeeded, all rounds of it."""
        state = State()
        for use in self.at(step, "loop", "items"):
            state.known |= self.widened(self.read(use, 0, 0, needs).always.there, 0)
        inner = State(state.known, self.may_save(step.run or ()) if step.repeat is not None else 0)
        self.run(step.run or (), inner, needs, parallel=step.parallel)
        if step.loop is None:
            state = inner
        for use in self.at(step, "repeat", "until"):
            state.known |= self.read(use, state.known, state.may, needs, SUCCEEDED).true.there
        return state

    def may_fail(self, step: Step) -> bool:
        """Whether a visit may fail for another reason than that something is lacking."""
        guards = (case.case for case in step.rule or () if isinstance(case.case, str))
        return (
            step.loop is not None
            or step.repeat is not None
            or self.fails_by(step.run or ())
            or not all(map(is_harmless_text, guards))
        )

    def fails_by(self, run: Iterable[Entry]) -> bool:
        """Whether work may fail."""
        for entry in run:
            if isinstance(entry, ActionEntry):
                if not is_harmless_action(entry):
                    return True
            elif not isinstance(entry, str) or entry not in self.done or self.done[entry].may_fail:
                return True
        return False

    def may_be_refused(self, step: Step) -> bool:
        comes_back = self.subject.flow.is_cyclic(step.name) or step.name in self.subject.joins.multi
        return step.max_visits is not None and comes_back

    def may_forgive(self, step: Step) -> bool:
        """Whether the `run` of a step may end in a failure that is forgiven."""
        loops = step.loop is not None and step.loop.on_error == "continue"
        return loops or any(map(self.forgives, step.run or ()))

    def forgives(self, entry: Entry) -> bool:
        if isinstance(entry, ActionEntry | TaskEntry) and (
            entry.on_error is not None or (entry.loop is not None and entry.loop.on_error == "continue")
        ):
            return True
        task = entry.task if isinstance(entry, TaskEntry) else entry
        return isinstance(task, str) and task in self.done and self.done[task].forgives

    def may_save(self, run: Iterable[Entry]) -> int:
        found = 0
        for entry in run:
            found |= self.saves(entry)
            if (task := called(entry)) is not None and task in self.done:
                found |= self.done[task].may
        return found

    def at(self, step: Step, *part: str) -> Sequence[Use]:
        is_shared = part[0] == "retry" and step.retry is None
        return self.by_owner.get(part if is_shared else (*step.path, *part), ())

    def taken(self, case: Case, worlds: _Worlds, needs: Needs, *, may_handle: bool, may_pass: bool) -> Iterator[bool]:
        """The worlds in which a case may be taken: after a failure or not.

        `may_handle` says whether it is looked at after a failure, `may_pass` whether it may also be passed over then.
        """
        if case.case == "default":
            if worlds.alive & UNFAILED:
                yield False
                worlds.later[False] = None
            return
        if case.case == "error":
            if worlds.alive & FAILED and may_handle:
                yield True
                if not may_pass:
                    worlds.later[True] = None
            return
        is_aware = is_error_aware(case)
        for use in self.by_owner.get((*case.path, "case"), ()):
            for failed in (False, True) if is_aware and may_handle else (False,):
                if self.guarded(use, worlds, needs, failed=failed, may_pass=failed and may_pass):
                    yield failed
            return
        yield False

    def guarded(self, use: Use, worlds: _Worlds, needs: Needs, *, failed: bool, may_pass: bool) -> bool:
        """Whether a guard may be true."""
        outcome = worlds.outcomes(failed=failed)
        if not outcome:
            return False
        before, made = worlds.assumed(failed=failed), worlds.most[failed]
        may = worlds.may(failed=failed and not worlds.alive & UNFAILED)
        reading = self.read(use, before.known, may, needs, outcome)
        true, false = reading.true, reading.false
        if may_pass:
            worlds.later[failed] = before
        elif false.outcomes & outcome and not false.gone & before.known:
            is_sure = failed or not reading.asks_for_errors
            worlds.later[failed] = self.assuming(before, reading, false, made) if is_sure else before
            worlds.alive &= ~outcome | false.outcomes | (outcome if reading.asks_for_errors else 0)
        elif failed or not reading.asks_for_errors:
            worlds.later[failed] = None
        if not true.outcomes & outcome:
            return False
        if true.gone & before.known:
            worlds.is_refuted = not failed
            return False
        worlds.now[failed] = self.assuming(before, reading, true, made)
        return True

    def assuming(self, before: Assumed, reading: Reading, found: Known, made: int) -> Assumed:
        """What is known behind a guard, which may be made by the work before it."""
        asked = found.there & ~reading.wanted & ~made
        return Assumed(before.known | self.widened(found.there, made), before.gone | found.gone, before.asked | asked)


class _Worlds:
    """What is known where no case has been taken yet, after success and after a failure. `now` is what holds where the present
    case is taken, `later` what holds where it is not: nothing, if it always is. With `is_refuted` its guard is never true.
    """

    def __init__(self, success: State, failure: State, alive: int) -> None:
        self.alive = alive
        self.state = {False: Assumed(success.known), True: Assumed(failure.known)}
        self.most = {False: success.may, True: failure.may}
        self.now: dict[bool, Assumed] = {}
        self.later: dict[bool, Assumed | None] = {}
        self.is_refuted = False

    def outcomes(self, *, failed: bool) -> int:
        return self.alive & (FAILED if failed else UNFAILED)

    def assumed(self, *, failed: bool) -> Assumed:
        return self.now.get(failed, self.state[failed])

    def may(self, *, failed: bool) -> int:
        return self.most[failed] | self.assumed(failed=failed).known

    def go_on(self) -> None:
        """Look at the next case."""
        for failed, state in self.later.items():
            if state is None:
                self.alive &= UNFAILED if failed else FAILED
            else:
                self.state[failed] = state
        self.now, self.later, self.is_refuted = {}, {}, False
