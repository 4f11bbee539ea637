"""Comparison of the compiler's diagnostics with all runs of a playbook, in both directions."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.checks.corpus import CorpusPlaybook
from benchmarks.checks.exploration import Exploration, FaultModel, explore_plan
from benchmarks.checks.places import Places
from benchmarks.checks.samples import MAX_INPUTS
from benchmarks.checks.unchecked import NoPlanError, build_unchecked_plan, find_dangling_targets
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.plan import MAX_COUNTED_VISITS, Plan

NOT_ABOUT_RUNS = frozenset(
    [
        "NP002",
        "NP006",
        "NP010",
        "NP011",
        "NP012",
        "NP101",
        "NP102",
        "NP103",
        "NP104",
        "NP105",
        "NP106",
        "NP107",
        "NP108",
        "NP109",
        "NP110",
        "NP205",
        "NP207",
        "NP305",
        "NP306",
        "NP401",
        "NP402",
        "NP403",
        "NP405",
        "NP406",
        "NP407",
        "NP501",
        "NP502",
        "NP503",
        "NP504",
        "NP505",
        "NP506",
        "NP507",
        "NP508",
        "NP509",
        "NP601",
        "NP602",
        "NP701",
    ]
)
"""Codes of diagnostics about the text. No run confirms or refutes them."""


_CLAIMS_OF_ABSENCE = frozenset({"NP201", "NP203", "NP204", "NP206", "NP404"})
"""Codes of diagnostics that claim that no run does something."""

MAX_INPUTS_TO_REFUTE = 4_096
"""The maximum number of inputs that are explored before a diagnostic counts as refuted."""

_STEP_ATTRIBUTES = frozenset({"result", "error"})
"""The attributes that a step has after a visit."""

LENIENT = FaultModel(loses_workers=True, ignores_undefined=True)


@dataclass(frozen=True)
class Disagreement:
    """A diagnostic that no run confirms, or a fault of a run that no diagnostic reports."""

    playbook: str
    text: str
    description: str


@dataclass
class Agreement:
    """The counts over playbooks, and the disagreements.

    `confirmed`, `refuted` and `undecided` count diagnostics by code. A diagnostic is undecided if no run
    decided it and the exploration was not exhaustive. `unreported` counts faults without a diagnostic, by
    kind.
    """

    playbooks: int = 0
    clean: int = 0
    runs: int = 0
    states: int = 0
    left_out: int = 0
    confirmed: Counter[str] = field(default_factory=Counter)
    refuted: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    unreported: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as a row of the report."""
        return {
            "playbooks": self.playbooks,
            "without_errors": self.clean,
            "runs": self.runs,
            "states": self.states,
            "left_out": self.left_out,
            "confirmed": dict(sorted(self.confirmed.items())),
            "refuted": dict(sorted(self.refuted.items())),
            "undecided": dict(sorted(self.undecided.items())),
            "untold": dict(sorted(self.unreported.items())),
        }


def measure(playbooks: Iterable[CorpusPlaybook]) -> Agreement:
    """Compare the diagnostics of playbooks with their runs."""
    agreement = Agreement()
    logging.disable(logging.CRITICAL)
    try:
        for playbook in playbooks:
            _compare(playbook, agreement)
    finally:
        logging.disable(logging.NOTSET)
    return agreement


def _compare(playbook: CorpusPlaybook, agreement: Agreement) -> None:
    compilation = compile_playbook(playbook.text, catalogue())
    try:
        plan = compilation.plan or build_unchecked_plan(playbook.text)
    except NoPlanError:
        agreement.left_out += 1
        return
    judge, verdicts = _judge(playbook.text, plan, compilation.diagnostics)
    agreement.playbooks += 1
    agreement.runs += len(judge.behaviour.endings)
    agreement.states += judge.behaviour.states
    for diagnostic, verdict in zip(compilation.diagnostics, verdicts, strict=True):
        if verdict is None:
            continue
        # Only an exhaustive exploration can show that something never happens.
        if verdict is (diagnostic.code in _CLAIMS_OF_ABSENCE) and not judge.is_exhaustive:
            agreement.undecided[diagnostic.code] += 1
            continue
        (agreement.confirmed if verdict else agreement.refuted)[diagnostic.code] += 1
        if not verdict:
            place = f"{diagnostic.span.line}:{diagnostic.span.column}"
            description = f"does not happen: {diagnostic.code} at {place}: {diagnostic.message}"
            agreement.disagreements.append(Disagreement(playbook.name, playbook.text, description))
    if compilation.plan is not None:
        agreement.clean += 1
        lossy = explore_plan(plan, FaultModel(loses_workers=True))
        for kind, description in judge.find_unreported(compilation.diagnostics, lossy):
            agreement.unreported[kind] += 1
            agreement.disagreements.append(
                Disagreement(playbook.name, playbook.text, f"is not reported: {description}")
            )


def _judge(text: str, plan: Plan, diagnostics: Sequence[Diagnostic]) -> tuple[Judge, list[bool | None]]:
    """Return a judge and its verdicts. Before it refutes a diagnostic, it explores more inputs."""
    for max_inputs in (MAX_INPUTS, MAX_INPUTS_TO_REFUTE):
        behaviour = explore_plan(plan, max_inputs=max_inputs)
        judge = Judge(text, plan, behaviour, explore_plan(plan, LENIENT, max_inputs=max_inputs))
        verdicts = [judge.confirms(diagnostic) for diagnostic in diagnostics]
        if behaviour.all_inputs or False not in verdicts:
            break
    return judge, verdicts


class Judge:
    """The comparison of the diagnostics of one playbook with its runs."""

    def __init__(self, text: str, plan: Plan, behaviour: Exploration, lenient: Exploration) -> None:
        self.places = Places(text)
        self.text = text
        self.plan = plan
        self.is_exhaustive = behaviour.all_inputs and behaviour.is_complete and lenient.is_complete
        self.behaviour = behaviour
        self.lenient = lenient
        """The runs of `LENIENT`: also those that lose workers or continue after an undefined name."""

    def confirms(self, diagnostic: Diagnostic) -> bool | None:
        """Return whether the runs confirm a diagnostic, or None if they cannot decide it."""
        if diagnostic.code in NOT_ABOUT_RUNS or diagnostic.severity is Severity.NOTE:
            return None
        place = (diagnostic.span.line, diagnostic.span.column)
        path, _ = self.places.path_at(place)
        step, case = self._locate(path)
        match diagnostic.code:
            case "NP201":
                return step not in self.lenient.visited
            case "NP203" | "NP206" | "NP404":
                return (
                    None
                    if step not in self.lenient.visited or case is None
                    else (step, case) not in self.lenient.taken
                )
            case "NP202":
                return self._is_unbounded(re.findall(r"[\w ]+(?= →)", diagnostic.message))
            case "NP204":
                if self.behaviour.broken:
                    return None
                return self.behaviour.is_endless or not any(
                    e.status == "succeeded" for e in self.behaviour.endings
                )
            case "NP301" | "NP302":
                is_of_step = re.search(r"visits step|unvisited", diagnostic.message) is not None
                words = _STEP_ATTRIBUTES if is_of_step else frozenset([self.places.word(place)])
                is_undefined = self._is_undefined(words, step, path)
                return is_undefined and (
                    diagnostic.code == "NP301" or self._is_undefined_on_path(words, step, diagnostic.message)
                )
            case "NP303":
                return self._has_race(self.places.word(place), path, step)
        return None

    def _is_unbounded(self, cycle: Sequence[str]) -> bool:
        """Return whether the cycle exists and none of its steps has a bound, whether runs take it or not."""
        steps = [self.plan.steps.get(name.strip()) for name in cycle]
        successors = [*steps[1:], *steps[:1]]
        return all(
            step is None
            or successor is None
            or (step.max_visits is None and any(successor.name in case.targets for case in step.cases))
            for step, successor in zip(steps, successors, strict=True)
        )

    def _is_undefined(
        self, words: frozenset[str], step: str | None, path: Sequence[str | int]
    ) -> bool | None:
        """Return whether a run reads one of the words without a value, or None if no run reaches the read."""
        steps = {m.step for m in self.lenient.mistakes if m.word in words}
        if path[:1] == ("tasks",):
            return bool(steps) or None
        if step == self.plan.header.finally_step:
            # The `finally` step also runs after a cancellation. Cancellations are not explored.
            return step in steps or None
        if step is None and not any(e.status != "failed" for e in self.behaviour.endings):
            return None
        return (step in steps) or (None if step is not None and step not in self.lenient.visited else False)

    def _is_undefined_on_path(self, words: frozenset[str], step: str | None, message: str) -> bool:
        """Return whether one of the words is undefined on the path that a message shows."""
        _, _, reported = message.partition(" on the path ")
        if not reported or "…" in reported:
            return True
        path, *conditions = reported.split(", where ")
        names = path.split(" → ")
        needed = {
            (name.removesuffix(" (failed)"), name.endswith(" (failed)"))
            for name in (names[:-1] if step is not None else names)
        }
        for part in conditions:
            needed |= {(name, part.endswith(("fail", "fails"))) for name in re.findall(r"`([^`]+)`", part)}
        contexts = self.lenient.ended_before
        return any(needed <= ended for word in words for ended in contexts.get((step, word), ()))

    def _has_race(self, name: str, path: Sequence[str | int], step: str | None) -> bool | None:
        if any(name == saved and step in steps for saved, *steps in self.lenient.writers):
            return True
        return None if step is None or step not in self.lenient.visited else False

    def _locate(self, path: Sequence[str | int]) -> tuple[str | None, int | None]:
        if path[:1] != ("steps",) or len(path) < 2:
            return None, None
        step = dict(self.places.texts(("steps", path[1], "name")))[("steps", path[1], "name")]
        case = int(path[3]) if len(path) > 3 and path[2] == "rule" else None
        return step, case

    def find_unreported(self, diagnostics: Sequence[Diagnostic], lossy: Exploration) -> list[tuple[str, str]]:
        """Return the kinds and descriptions of faults of runs that no diagnostic reports.

        `lossy` are the runs that may lose workers.
        """
        reported = {
            self.places.word((d.span.line, d.span.column))
            for d in diagnostics
            if d.code in ("NP302", "NP306")
        }
        unreported = [
            (kind, f"{kind}: {mistake.type} at {mistake.step}: {mistake.message}")
            for kind, mistakes in (
                ("undefined name", self.behaviour.first),
                ("undefined name after a loss", lossy.first - self.behaviour.first),
            )
            for mistake in sorted(mistakes, key=str)
            if mistake.name is not None and mistake.name not in reported
        ]
        unreported += [("stuck", broken) for broken in sorted(self.behaviour.broken)]
        unreported += [
            ("race", f"{first} and {second} save {name}")
            for name, first, second in sorted(self.behaviour.writers)
        ]
        bound = self.plan.header.statistics["most_visits"]
        if self.behaviour.is_endless or (bound < MAX_COUNTED_VISITS and self.behaviour.most_visits > bound):
            unreported.append(
                ("more visits", f"{self.behaviour.most_visits} visits, but the plan allows {bound}")
            )
        unreported += [("no such step", str(name)) for name in sorted(find_dangling_targets(self.text))]
        seen = {(d.span.line, d.span.column) for d in diagnostics if d.code == "NP201"}
        unreported += self._find_unreachable(seen)
        return unreported

    def _find_unreachable(self, reported: set[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return the steps that the plan omits, if no diagnostic reports unreachable steps."""
        planned = self.plan.steps.keys()
        return [
            ("unreachable", f"{value} is never visited")
            for path, value in self.places.texts(("steps",))
            if path[2:] == ("name",) and value not in planned and not reported
        ]
