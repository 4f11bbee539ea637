"""Mutants of valid playbooks: the effect of a change, decided by execution, compared with the diagnostics
of the compiler.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import yaml
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.plan import Case, Plan
from noetl.planner.syntax.reader import read_document

from benchmarks.checks.corpus import Sound
from benchmarks.checks.exploration import Explored, explored
from benchmarks.checks.operators import OPERATORS, Change
from benchmarks.checks.places import Place, Places
from benchmarks.checks.unchecked import NoPlan, dangling, unchecked_plan

Data = dict[str, Any]


@dataclass(frozen=True)
class Judged:
    """A mutant: how its execution is worse than that of the original, and its new diagnostics.

    `worse` are sentences. `is_outside` is true if the language forbids the text. `differs` is true if some
    run has another result or other effects.
    """

    operator: str
    sound: Sound
    text: str
    worse: tuple[str, ...]
    is_outside: bool
    differs: bool
    said: tuple[Diagnostic, ...]
    places: frozenset[Place]

    @property
    def is_wrong(self) -> bool:
        return bool(self.worse) or self.is_outside

    @property
    def is_detected(self) -> bool:
        return any(_weighs(d) for d in self.said)

    @property
    def is_at_the_right_place(self) -> bool:
        return any(_weighs(d) and (d.span.line, d.span.column) in self.places for d in self.said)

    @property
    def is_refused(self) -> bool:
        return any(d.severity is Severity.ERROR for d in self.said)


def _weighs(diagnostic: Diagnostic) -> bool:
    """Return whether a diagnostic reports an error. An undeclared input is reported by a note."""
    return diagnostic.severity is not Severity.NOTE or diagnostic.code == "NP306"


@dataclass
class Original:
    """A valid playbook in the form to be changed, and its behaviour."""

    sound: Sound
    data: Data
    text: str
    plan: Plan
    said: tuple[Diagnostic, ...]
    behaviour: Explored

    @classmethod
    def from_sound(cls, sound: Sound) -> Original | None:
        """Return the original, or None if it does not compile or changes when it is written as YAML again."""
        document = read_document(sound.text, Diagnostics())
        if document is None:
            return None
        text = written_anew(document.data)
        found = compile_playbook(text, catalogue())
        if found.plan is None:
            return None
        behaviour = explored(found.plan)
        # A playbook with too many states is not used, because its behaviour is incomplete.
        return (
            cls(sound, yaml.safe_load(text), text, found.plan, found.diagnostics, behaviour)
            if behaviour.is_complete
            else None
        )

    def mutants(self, sites: int, operators: Iterable[str] = OPERATORS) -> Iterator[Judged]:
        """Yield the mutants of each operator, for a limited number of its places."""
        for name in operators:
            changes = list(OPERATORS[name](self.data, self.plan))
            chosen = Random(f"{name} {self.sound.source} {self.sound.name}").sample(
                changes, min(sites, len(changes))
            )
            for change in chosen:
                text = written_anew(change.data)
                if text != self.text:
                    yield self.judged(name, change, text)

    def judged(self, operator: str, change: Change, text: str) -> Judged:
        found = compile_playbook(text, catalogue())
        known = Counter((d.code, d.message) for d in self.said)
        said = tuple(d for d in found.diagnostics if not _is_among(d, known))
        places = Places(text)
        evidence: set[Place] = set(change.where(places))
        try:
            plan = unchecked_plan(text)
        except NoPlan as problem:
            return Judged(
                operator,
                self.sound,
                text,
                (str(problem),),
                change.is_outside,
                True,
                said,
                frozenset(evidence),
            )
        try:
            behaviour = explored(plan)
        except Exception as problem:  # noqa: BLE001 - what the executor never meets when plans are checked
            worse = [f"it cannot be executed: {type(problem).__name__} {problem}"]
            return Judged(
                operator, self.sound, text, tuple(worse), change.is_outside, True, said, frozenset(evidence)
            )
        shown = Shown(change.data, text, plan, behaviour, places)
        worse = list(shown.worse_than(self))
        differs = self.behaviour.outcomes != behaviour.outcomes
        return Judged(
            operator,
            self.sound,
            text,
            tuple(worse),
            change.is_outside,
            differs,
            said,
            frozenset(evidence | shown.evidence),
        )


def written_anew(data: Data) -> str:
    """Return the data as YAML with every text on one line."""
    return yaml.safe_dump(data, sort_keys=False, width=1_000_000, allow_unicode=True)


def _is_among(diagnostic: Diagnostic, known: Counter[tuple[str, str]]) -> bool:
    key = (diagnostic.code, diagnostic.message)
    known[key] -= 1
    return known[key] >= 0


@dataclass
class Shown:
    """The behaviour of a mutant, and the places in its text that cause it."""

    data: Data
    text: str
    plan: Plan
    behaviour: Explored
    places: Places
    evidence: set[Place] = field(default_factory=set)

    def worse_than(self, original: Original) -> Iterator[str]:
        """Return sentences about errors here that the other does not have."""
        yield from self._mistakes(original.behaviour)
        yield from self._dead(original)
        yield from self._graph(original)

    def _mistakes(self, before: Explored) -> Iterator[str]:
        known = {(m.step, m.type, m.word) for m in before.mistakes}
        for mistake in sorted(self.behaviour.mistakes, key=str):
            if (mistake.step, mistake.type, mistake.word) in known:
                continue
            yield f"{mistake.type} at {mistake.step}: {mistake.message}"
            for path, _ in self._texts_of(mistake.step):
                if mistake.word is not None:
                    self.evidence |= set(self.places.words(path, mistake.word))
                if path[-1] == "case" and mistake.type == "GuardError":
                    self.evidence |= {self.places.key(path), self.places.value(path)}

    def _texts_of(self, step: str | None) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if step is None:
            yield from self.places.texts(("output",)) if "output" in self.data else ()
            return
        for position, step_data in enumerate(self.data["steps"]):
            if step_data["name"] == step:
                yield from self.places.texts(("steps", position))
        if "tasks" in self.data:
            yield from self.places.texts(("tasks",))

    def _dead(self, original: Original) -> Iterator[str]:
        before = _dead_cases(original.plan, original.behaviour)
        for step, cases in _dead_cases(self.plan, self.behaviour).items():
            known = before.get(step, {})
            if step not in self.behaviour.visited or len(cases) <= len(known):
                continue
            new = [index for index, appearance in cases.items() if appearance not in known.values()] or list(
                cases
            )[-1:]
            for position, step_data in enumerate(self.data["steps"]):
                for index in new if step_data["name"] == step else ():
                    path = ("steps", position, "rule", index, "case")
                    self.evidence |= {self.places.key(path), self.places.value(path)}
            yield f"case {', '.join(str(index + 1) for index in new)} of {step} is never taken"
        unseen = {step["name"] for step in original.data["steps"]} - original.behaviour.visited
        for position, step_data in enumerate(self.data["steps"]):
            if step_data["name"] not in self.behaviour.visited | unseen:
                self.evidence.add(self.places.value(("steps", position, "name")))
                yield f"step {step_data['name']} is never visited"

    def _graph(self, original: Original) -> Iterator[str]:
        before, now = original.behaviour, self.behaviour
        if now.is_endless and not before.is_endless:
            yield "a run does not end"
        if now.depends_on_order and not before.depends_on_order:
            yield "what a run does depends on which branch is faster"
        if now.broken - before.broken:
            yield "; ".join(sorted(now.broken))
        for name, *steps in sorted(now.races - before.races):
            yield f"{' and '.join(steps)} save {name} at one time"
            for path, text in self.places.texts(("steps",)):
                if text == name and path[-1] == "as":
                    self.evidence.add(self.places.value(path))
                if path[-2:] == ("set", name):
                    self.evidence.add(self.places.key(path))
        for step, index, name in sorted(dangling(self.text)):
            if (step, index) in now.taken:
                yield f"{step} leads to {name}, which is not there"
        needed = {name for name, declared in self.plan.header.inputs.items() if declared.required}
        for name in sorted(needed - original.plan.header.inputs.keys()):
            yield f"a run needs an input {name}"
            for path, text in self.places.texts():
                if "{{" in text:
                    self.evidence |= set(self.places.words(path, name))
        if now.rejected and not before.rejected:
            yield f"a run cannot begin: {min(now.rejected)}"


def _dead_cases(plan: Plan, behaviour: Explored) -> Mapping[str, dict[int, Any]]:
    """Return the cases of each step that no run takes, and their texts."""
    return {
        step.name: {
            i: _describe_case(case)
            for i, case in enumerate(step.cases)
            if (step.name, i) not in behaviour.taken
        }
        for step in plan.steps.values()
    }


def _describe_case(case: Case) -> Any:
    return case.guard, case.targets, len(case.work)


@dataclass
class Row:
    """The counts of one operator."""

    operator: str
    mutants: int = 0
    same: int = 0
    other: int = 0
    outside: int = 0
    worse: int = 0
    detected: int = 0
    placed: int = 0
    refused_anyway: int = 0

    @property
    def wrong(self) -> int:
        return self.outside + self.worse

    def count(self, mutant: Judged) -> None:
        self.mutants += 1
        if not mutant.is_wrong:
            self.other += mutant.differs
            self.same += not mutant.differs
            self.refused_anyway += mutant.is_refused
            return
        self.worse += bool(mutant.worse)
        self.outside += not mutant.worse
        self.detected += mutant.is_detected
        self.placed += mutant.is_at_the_right_place

    def add(self, other: Row) -> None:
        for name in ("mutants", "same", "other", "outside", "worse", "detected", "placed", "refused_anyway"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Return the counts for reports and results."""
        return {
            "operator": self.operator,
            "mutants": self.mutants,
            "same": self.same,
            "other": self.other,
            "outside": self.outside,
            "worse": self.worse,
            "wrong": self.wrong,
            "detected": self.detected,
            "placed": self.placed,
            "refused_anyway": self.refused_anyway,
        }


def total(rows: Iterable[Row]) -> Row:
    """Return the sums of rows."""
    found = Row("all")
    for row in rows:
        found.add(row)
    return found


def measure(playbooks: Sequence[Sound], sites: int) -> tuple[list[Row], list[Judged]]:
    """Return the counts of every operator over valid playbooks, and the mutants that were missed, misplaced
    or refused without reason.
    """
    logging.disable(logging.CRITICAL)
    rows = {name: Row(name) for name in OPERATORS}
    odd = []
    for sound in playbooks:
        original = Original.from_sound(sound)
        for mutant in original.mutants(sites) if original is not None else ():
            rows[mutant.operator].count(mutant)
            if mutant.is_wrong != mutant.is_detected or (
                mutant.is_wrong and not mutant.is_at_the_right_place
            ):
                odd.append(mutant)
    logging.disable(logging.NOTSET)
    return list(rows.values()), odd
