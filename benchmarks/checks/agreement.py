"""Agreement of diagnostics and execution: each diagnostic must be confirmed by a run, and each failure must
be diagnosed.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.plan import MAX_COUNTED_VISITS, Plan

from benchmarks.checks.corpus import Sound
from benchmarks.checks.exploration import Explored, explored
from benchmarks.checks.places import Places
from benchmarks.checks.samples import MOST_BEGINNINGS
from benchmarks.checks.unchecked import NoPlan, dangling, unchecked_plan

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
"""Findings about the text, which no run confirms or refutes."""


_NEVER = frozenset({"NP201", "NP203", "NP204", "NP206", "NP404"})
"""Diagnostics about what no run does."""

MANY_BEGINNINGS = 4_096

_OF_STEPS = frozenset({"result", "error"})
"""What a step has once it was visited."""


@dataclass(frozen=True)
class Disagreement:
    """A diagnostic that no run confirms, or a failure that no diagnostic predicts."""

    playbook: str
    text: str
    description: str


@dataclass
class Agreement:
    """Counts over playbooks, and the disagreements.

    `confirmed`, `refuted` and `undecided` count diagnostics by code. A diagnostic is undecided if no run
    confirms it and the exploration is incomplete.
    """

    playbooks: int = 0
    clean: int = 0
    runs: int = 0
    worlds: int = 0
    left_out: int = 0
    confirmed: Counter[str] = field(default_factory=Counter)
    refuted: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    undiagnosed: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the counts for reports and results."""
        return {
            "playbooks": self.playbooks,
            "without_errors": self.clean,
            "runs": self.runs,
            "states": self.worlds,
            "left_out": self.left_out,
            "confirmed": dict(sorted(self.confirmed.items())),
            "refuted": dict(sorted(self.refuted.items())),
            "undecided": dict(sorted(self.undecided.items())),
            "untold": dict(sorted(self.undiagnosed.items())),
        }


def measure(playbooks: Iterable[Sound]) -> Agreement:
    """Compare the diagnostics of playbooks with all of their runs."""
    logging.disable(logging.CRITICAL)
    found = Agreement()
    for playbook in playbooks:
        _compare(playbook, found)
    logging.disable(logging.NOTSET)
    return found


def _compare(playbook: Sound, found: Agreement) -> None:
    compilation = compile_playbook(playbook.text, catalogue())
    try:
        plan = compilation.plan or unchecked_plan(playbook.text)
    except NoPlan:
        found.left_out += 1
        return
    judge, verdicts = _judged(playbook.text, plan, compilation.diagnostics)
    found.playbooks += 1
    found.runs += len(judge.behaviour.endings)
    found.worlds += judge.behaviour.worlds
    for diagnostic, verdict in zip(compilation.diagnostics, verdicts, strict=True):
        if verdict is None:
            continue
        # What never happens is seen where everything was.
        if verdict is (diagnostic.code in _NEVER) and not judge.has_seen_all:
            found.undecided[diagnostic.code] += 1
            continue
        (found.confirmed if verdict else found.refuted)[diagnostic.code] += 1
        if not verdict:
            said = (
                f"{diagnostic.code} at {diagnostic.span.line}:{diagnostic.span.column}: {diagnostic.message}"
            )
            found.disagreements.append(Disagreement(playbook.name, playbook.text, f"does not happen: {said}"))
    if compilation.plan is not None:
        found.clean += 1
        for kind, description in judge.undiagnosed(compilation.diagnostics, explored(plan, loses=True)):
            found.undiagnosed[kind] += 1
            found.disagreements.append(
                Disagreement(playbook.name, playbook.text, f"was not diagnosed: {description}")
            )


def _judged(text: str, plan: Plan, diagnostics: Sequence[Diagnostic]) -> tuple[Judge, list[bool | None]]:
    """Return a judge and its verdicts. If some diagnostics are not confirmed, explore more runs."""
    for most in (MOST_BEGINNINGS, MANY_BEGINNINGS):
        behaviour = explored(plan, most_beginnings=most)
        judge = Judge(text, plan, behaviour, explored(plan, loses=True, repairs=True, most_beginnings=most))
        verdicts = [judge.happens(diagnostic) for diagnostic in diagnostics]
        if behaviour.all_beginnings or False not in verdicts:
            break
    return judge, verdicts


class Judge:
    """A comparison of the diagnostics of one playbook with its runs."""

    def __init__(self, text: str, plan: Plan, behaviour: Explored, repaired: Explored) -> None:
        self.places = Places(text)
        self.text = text
        self.plan = plan
        self.has_seen_all = behaviour.all_beginnings and behaviour.is_complete and repaired.is_complete
        self.behaviour = behaviour
        self.repaired = repaired
        """The same runs, and those in which workers die or that go on where a name has no value."""

    def happens(self, diagnostic: Diagnostic) -> bool | None:
        """Return whether a run confirms the diagnostic; None if no run can decide it."""
        if diagnostic.code in NOT_ABOUT_RUNS or diagnostic.severity is Severity.NOTE:
            return None
        place = (diagnostic.span.line, diagnostic.span.column)
        path, _ = self.places.find_path(place)
        step, case = self._stands_in(path)
        match diagnostic.code:
            case "NP201":
                return step not in self.repaired.visited
            case "NP203" | "NP206" | "NP404":
                return (
                    None
                    if step not in self.repaired.visited or case is None
                    else (step, case) not in self.repaired.taken
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
                words = _OF_STEPS if is_of_step else frozenset([self.places.word(place)])
                found = self._is_met(words, step, path)
                return found and (
                    diagnostic.code == "NP301" or self._is_met_on_path(words, step, diagnostic.message)
                )
            case "NP303":
                return self._is_raced(self.places.word(place), path, step)
        return None

    def _is_unbounded(self, circle: Sequence[str]) -> bool:
        """Return whether the cycle exists and none of its steps has a bound."""
        steps = [self.plan.steps.get(name.strip()) for name in circle]
        following = [*steps[1:], *steps[:1]]
        return all(
            step is None
            or next_step is None
            or (step.max_visits is None and any(next_step.name in case.targets for case in step.cases))
            for step, next_step in zip(steps, following, strict=True)
        )

    def _is_met(self, words: frozenset[str], step: str | None, path: Sequence[str | int]) -> bool | None:
        """Return whether the name is undefined where it is read; None if no run reads it."""
        steps = {m.step for m in self.repaired.mistakes if m.word in words}
        if path[:1] == ("tasks",):
            return bool(steps) or None
        if step == self.plan.header.finally_step:
            # It runs when a run is cancelled, too, which may be at any time and is not explored.
            return step in steps or None
        if step is None and not any(e.status != "failed" for e in self.behaviour.endings):
            return None
        return (step in steps) or (None if step is not None and step not in self.repaired.visited else False)

    def _is_met_on_path(self, words: frozenset[str], step: str | None, message: str) -> bool:
        """Return whether the name is undefined on the path that the message shows."""
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
        return any(needed <= facts for word in words for facts in self.repaired.met.get((step, word), ()))

    def _is_raced(self, name: str, path: Sequence[str | int], step: str | None) -> bool | None:
        if any(name == saved and step in steps for saved, *steps in self.repaired.writers):
            return True
        return None if step is None or step not in self.repaired.visited else False

    def _stands_in(self, path: Sequence[str | int]) -> tuple[str | None, int | None]:
        if path[:1] != ("steps",) or len(path) < 2:
            return None, None
        step = dict(self.places.texts(("steps", path[1], "name")))[("steps", path[1], "name")]
        case = int(path[3]) if len(path) > 3 and path[2] == "rule" else None
        return step, case

    def undiagnosed(self, diagnostics: Sequence[Diagnostic], lossy: Explored) -> list[tuple[str, str]]:
        """Yield failures of runs that no diagnostic predicts. `lossy` are runs whose workers may die."""
        reported = {
            self.places.word((d.span.line, d.span.column))
            for d in diagnostics
            if d.code in ("NP302", "NP306")
        }
        found = [
            (kind, f"{kind}: {mistake.type} at {mistake.step}: {mistake.message}")
            for kind, mistakes in (
                ("undefined name", self.behaviour.first),
                ("undefined name after a loss", lossy.first - self.behaviour.first),
            )
            for mistake in sorted(mistakes, key=str)
            if mistake.name is not None and mistake.name not in reported
        ]
        found += [("stuck", broken) for broken in sorted(self.behaviour.broken)]
        found += [
            ("race", f"{first} and {second} save {name}")
            for name, first, second in sorted(self.behaviour.writers)
        ]
        bound = self.plan.header.statistics["most_visits"]
        if self.behaviour.is_endless or (bound < MAX_COUNTED_VISITS and self.behaviour.most_visits > bound):
            found.append(
                (
                    "more visits",
                    f"{self.behaviour.most_visits} visits, but the compiler promised at most {bound}",
                )
            )
        found += [("no such step", str(name)) for name in sorted(dangling(self.text))]
        seen = {(d.span.line, d.span.column) for d in diagnostics if d.code == "NP201"}
        found += self._unseen(seen)
        return found

    def _unseen(self, reported: set[tuple[int, int]]) -> list[tuple[str, str]]:
        """Return the steps that no run visits because no path leads to them."""
        walked = self.plan.steps.keys()
        return [
            ("unreachable", f"{value} is never visited")
            for path, value in self.places.texts(("steps",))
            if path[2:] == ("name",) and value not in walked and not reported
        ]
