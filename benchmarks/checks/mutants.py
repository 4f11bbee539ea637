"""Mutation analysis of the compiler.

Problem: measure how many faults of playbooks the compiler detects, and whether it reports their places.

Algorithm: mutation testing (DeMillo, Lipton and Sayward 1978). Operators change one place of a valid
playbook. Exhaustive execution of the original and of the mutant decides whether the mutant is worse.

Cost: one exploration (`exploration.py`) for each original and each mutant.

Limits: originals with too many states are left out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import yaml

from benchmarks.checks.corpus import CorpusPlaybook
from benchmarks.checks.exploration import Exploration, explore_plan
from benchmarks.checks.operators import OPERATORS, Change
from benchmarks.checks.places import Place, Places
from benchmarks.checks.unchecked import NoPlanError, build_unchecked_plan, find_dangling_targets
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.plan import Case, Plan
from noetl.planner.syntax.reader import read_document

Data = dict[str, Any]


@dataclass(frozen=True)
class JudgedMutant:
    """A mutant, its regressions by execution, and the new diagnostics of the compiler.

    `worse` contains sentences about regressions. `is_outside` is true if the language does not allow the
    mutant, whatever execution shows. `differs` is true if the outcomes of runs differ from the original.
    `places` are the right places of a diagnostic.
    """

    operator: str
    playbook: CorpusPlaybook
    text: str
    worse: tuple[str, ...]
    is_outside: bool
    differs: bool
    diagnostics: tuple[Diagnostic, ...]
    places: frozenset[Place]

    @property
    def is_wrong(self) -> bool:
        return bool(self.worse) or self.is_outside

    @property
    def is_detected(self) -> bool:
        return any(_is_problem(d) for d in self.diagnostics)

    @property
    def is_at_the_right_place(self) -> bool:
        return any(_is_problem(d) and (d.span.line, d.span.column) in self.places for d in self.diagnostics)

    @property
    def is_refused(self) -> bool:
        return any(d.severity is Severity.ERROR for d in self.diagnostics)


def _is_problem(diagnostic: Diagnostic) -> bool:
    """Return whether a diagnostic reports a fault. The note NP306 reports an undeclared input."""
    return diagnostic.severity is not Severity.NOTE or diagnostic.code == "NP306"


@dataclass
class Original:
    """A valid playbook as data that operators change, and its behaviour."""

    playbook: CorpusPlaybook
    data: Data
    text: str
    plan: Plan
    diagnostics: tuple[Diagnostic, ...]
    behaviour: Exploration

    @classmethod
    def compile(cls, playbook: CorpusPlaybook) -> Original | None:
        """Compile and explore a playbook. Return None if it does not compile or has too many states."""
        document = read_document(playbook.text, Diagnostics())
        if document is None:
            return None
        text = dump_yaml(document.data)
        compilation = compile_playbook(text, catalogue())
        if compilation.plan is None:
            return None
        behaviour = explore_plan(compilation.plan)
        # An incomplete exploration cannot be compared with that of a mutant.
        return (
            cls(playbook, yaml.safe_load(text), text, compilation.plan, compilation.diagnostics, behaviour)
            if behaviour.is_complete
            else None
        )

    def mutants(self, sites: int, operators: Iterable[str] = OPERATORS) -> Iterator[JudgedMutant]:
        """Yield the mutants of each operator, at `sites` random places at most."""
        for name in operators:
            changes = list(OPERATORS[name](self.data, self.plan))
            chosen = Random(f"{name} {self.playbook.source} {self.playbook.name}").sample(
                changes, min(sites, len(changes))
            )
            for change in chosen:
                text = dump_yaml(change.data)
                if text != self.text:
                    yield self.judge(name, change, text)

    def judge(self, operator: str, change: Change, text: str) -> JudgedMutant:
        compilation = compile_playbook(text, catalogue())
        known = Counter((d.code, d.message) for d in self.diagnostics)
        diagnostics = tuple(d for d in compilation.diagnostics if not _is_among(d, known))
        places = Places(text)
        evidence: set[Place] = set(change.locate(places))
        try:
            plan = build_unchecked_plan(text)
        except NoPlanError as problem:
            return JudgedMutant(
                operator,
                self.playbook,
                text,
                (str(problem),),
                change.is_outside,
                True,
                diagnostics,
                frozenset(evidence),
            )
        try:
            behaviour = explore_plan(plan)
        except Exception as problem:  # noqa: BLE001 - a checked plan never raises it
            worse = [f"it cannot be executed: {type(problem).__name__} {problem}"]
            return JudgedMutant(
                operator,
                self.playbook,
                text,
                tuple(worse),
                change.is_outside,
                True,
                diagnostics,
                frozenset(evidence),
            )
        shown = MutantEvidence(change.data, text, plan, behaviour, places)
        worse = list(shown.regressions(self))
        differs = self.behaviour.outcomes != behaviour.outcomes
        return JudgedMutant(
            operator,
            self.playbook,
            text,
            tuple(worse),
            change.is_outside,
            differs,
            diagnostics,
            frozenset(evidence | shown.evidence),
        )


def dump_yaml(data: Data) -> str:
    """Return the data as YAML, with every text on one line."""
    return yaml.safe_dump(data, sort_keys=False, width=1_000_000, allow_unicode=True)


def _is_among(diagnostic: Diagnostic, known: Counter[tuple[str, str]]) -> bool:
    key = (diagnostic.code, diagnostic.message)
    known[key] -= 1
    return known[key] >= 0


@dataclass
class MutantEvidence:
    """The regressions of a mutant by execution, and their places in its text."""

    data: Data
    text: str
    plan: Plan
    behaviour: Exploration
    places: Places
    evidence: set[Place] = field(default_factory=set)

    def regressions(self, original: Original) -> Iterator[str]:
        """Yield a sentence for each fault that the original does not have."""
        yield from self._new_mistakes(original.behaviour)
        yield from self._new_dead_code(original)
        yield from self._graph(original)

    def _new_mistakes(self, before: Exploration) -> Iterator[str]:
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
        for index, data in enumerate(self.data["steps"]):
            if data["name"] == step:
                yield from self.places.texts(("steps", index))
        if "tasks" in self.data:
            yield from self.places.texts(("tasks",))

    def _new_dead_code(self, original: Original) -> Iterator[str]:
        before = _dead_cases(original.plan, original.behaviour)
        for step, cases in _dead_cases(self.plan, self.behaviour).items():
            known = before.get(step, {})
            if step not in self.behaviour.visited or len(cases) <= len(known):
                continue
            new = [index for index, signature in cases.items() if signature not in known.values()] or list(
                cases
            )[-1:]
            for step_index, data in enumerate(self.data["steps"]):
                for index in new if data["name"] == step else ():
                    path = ("steps", step_index, "rule", index, "case")
                    self.evidence |= {self.places.key(path), self.places.value(path)}
            yield f"case {', '.join(str(index + 1) for index in new)} of {step} is never taken"
        unseen = {step["name"] for step in original.data["steps"]} - original.behaviour.visited
        for index, data in enumerate(self.data["steps"]):
            if data["name"] not in self.behaviour.visited | unseen:
                self.evidence.add(self.places.value(("steps", index, "name")))
                yield f"step {data['name']} is never visited"

    def _graph(self, original: Original) -> Iterator[str]:
        before, now = original.behaviour, self.behaviour
        if now.is_endless and not before.is_endless:
            yield "a run does not end"
        if now.depends_on_order and not before.depends_on_order:
            yield "the result of a run depends on the order of branches"
        if now.broken - before.broken:
            yield "; ".join(sorted(now.broken))
        yield from self._new_races(before)
        for step, index, name in sorted(find_dangling_targets(self.text)):
            if (step, index) in now.taken:
                yield f"{step} leads to the missing step {name}"
        yield from self._new_inputs(original)
        if now.rejected and not before.rejected:
            yield f"a run cannot start: {min(now.rejected)}"

    def _new_races(self, before: Exploration) -> Iterator[str]:
        for name, *steps in sorted(self.behaviour.races - before.races):
            yield f"{' and '.join(steps)} save {name} in parallel"
            for path, text in self.places.texts(("steps",)):
                if text == name and path[-1] == "as":
                    self.evidence.add(self.places.value(path))
                if path[-2:] == ("set", name):
                    self.evidence.add(self.places.key(path))

    def _new_inputs(self, original: Original) -> Iterator[str]:
        needed = {name for name, declared in self.plan.header.inputs.items() if declared.required}
        for name in sorted(needed - original.plan.header.inputs.keys()):
            yield f"a run needs an input {name}"
            for path, text in self.places.texts():
                if "{{" in text:
                    self.evidence |= set(self.places.words(path, name))


def _dead_cases(plan: Plan, behaviour: Exploration) -> Mapping[str, dict[int, Any]]:
    """Return the cases of each step that no run takes, by index."""
    return {
        step.name: {
            i: _case_signature(case)
            for i, case in enumerate(step.cases)
            if (step.name, i) not in behaviour.taken
        }
        for step in plan.steps.values()
    }


def _case_signature(case: Case) -> Any:
    return case.guard, case.targets, len(case.work)


_COUNTS = ("mutants", "unchanged", "other", "outside", "worse", "detected", "placed", "refused_anyway")


@dataclass
class OperatorCounts:
    """The counts of one operator."""

    operator: str
    mutants: int = 0
    unchanged: int = 0
    other: int = 0
    outside: int = 0
    worse: int = 0
    detected: int = 0
    placed: int = 0
    refused_anyway: int = 0

    @property
    def wrong(self) -> int:
        return self.outside + self.worse

    def count(self, mutant: JudgedMutant) -> None:
        self.mutants += 1
        if not mutant.is_wrong:
            self.other += mutant.differs
            self.unchanged += not mutant.differs
            self.refused_anyway += mutant.is_refused
            return
        self.worse += bool(mutant.worse)
        self.outside += not mutant.worse
        self.detected += mutant.is_detected
        self.placed += mutant.is_at_the_right_place

    def add(self, other: OperatorCounts) -> None:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a row of the report."""
        return {
            "operator": self.operator,
            "mutants": self.mutants,
            "same": self.unchanged,
            "other": self.other,
            "outside": self.outside,
            "worse": self.worse,
            "wrong": self.wrong,
            "detected": self.detected,
            "placed": self.placed,
            "refused_anyway": self.refused_anyway,
        }


def total(rows: Iterable[OperatorCounts]) -> OperatorCounts:
    """Return the sums of the rows."""
    sums = OperatorCounts("all")
    for row in rows:
        sums.add(row)
    return sums


def measure(
    playbooks: Sequence[CorpusPlaybook], sites: int
) -> tuple[list[OperatorCounts], list[JudgedMutant]]:
    """Count the mutants of valid playbooks for every operator.

    Return also the mutants that the compiler misses, reports at a wrong place, or reports without a fault.
    """
    rows = {name: OperatorCounts(name) for name in OPERATORS}
    misjudged = []
    logging.disable(logging.CRITICAL)
    try:
        for playbook in playbooks:
            original = Original.compile(playbook)
            for mutant in original.mutants(sites) if original is not None else ():
                rows[mutant.operator].count(mutant)
                if mutant.is_wrong != mutant.is_detected or (
                    mutant.is_wrong and not mutant.is_at_the_right_place
                ):
                    misjudged.append(mutant)
    finally:
        logging.disable(logging.NOTSET)
    return list(rows.values()), misjudged
