"""Whether what the compiler says is what happens: its findings are looked for in every run, and every run in its findings."""

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
"""Findings that say what no run does."""

MANY_BEGINNINGS = 4_096

_OF_STEPS = frozenset({"result", "error"})
"""What a step has once it was visited."""


@dataclass(frozen=True)
class Disagreement:
    """A finding that does not happen, or something that happens and was not found."""

    playbook: str
    text: str
    what: str


@dataclass
class Agreement:
    """Counts over playbooks, and what did not agree. `confirmed`, `refuted` and `undecided` count findings by their codes: the last
    are those that were not seen where not everything was looked at.
    """

    playbooks: int = 0
    clean: int = 0
    runs: int = 0
    worlds: int = 0
    left_out: int = 0
    confirmed: Counter[str] = field(default_factory=Counter)
    refuted: Counter[str] = field(default_factory=Counter)
    undecided: Counter[str] = field(default_factory=Counter)
    untold: Counter[str] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The counts, as reports and results show them."""
        return {
            "playbooks": self.playbooks,
            "without_errors": self.clean,
            "runs": self.runs,
            "states": self.worlds,
            "left_out": self.left_out,
            "confirmed": dict(sorted(self.confirmed.items())),
            "refuted": dict(sorted(self.refuted.items())),
            "undecided": dict(sorted(self.undecided.items())),
            "untold": dict(sorted(self.untold.items())),
        }


def measure(playbooks: Iterable[Sound]) -> Agreement:
    """What the compiler says of playbooks, compared with everything they can do."""
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
        for kind, what in judge.untold(compilation.diagnostics, explored(plan, loses=True)):
            found.untold[kind] += 1
            found.disagreements.append(Disagreement(playbook.name, playbook.text, f"was not told: {what}"))


def _judged(text: str, plan: Plan, diagnostics: Sequence[Diagnostic]) -> tuple[Judge, list[bool | None]]:
    """A judge, and what it says to findings: one who has seen more, where some of them were not seen to happen."""
    for most in (MOST_BEGINNINGS, MANY_BEGINNINGS):
        behaviour = explored(plan, most_beginnings=most)
        judge = Judge(text, plan, behaviour, explored(plan, loses=True, mends=True, most_beginnings=most))
        verdicts = [judge.happens(diagnostic) for diagnostic in diagnostics]
        if behaviour.all_beginnings or False not in verdicts:
            break
    return judge, verdicts


class Judge:
    """Compares findings of one playbook with its runs."""

    def __init__(self, text: str, plan: Plan, behaviour: Explored, mended: Explored) -> None:
        self.places = Places(text)
        self.text = text
        self.plan = plan
        self.has_seen_all = behaviour.all_beginnings and behaviour.is_whole and mended.is_whole
        self.behaviour = behaviour
        self.mended = mended
        """The same runs, and those in which workers die or that go on where a name has no value."""

    def happens(self, diagnostic: Diagnostic) -> bool | None:
        """Whether a finding is what happens in some run, or in none where it says so; None where no run can tell."""
        if diagnostic.code in NOT_ABOUT_RUNS or diagnostic.severity is Severity.NOTE:
            return None
        place = (diagnostic.span.line, diagnostic.span.column)
        path, _ = self.places.at(place)
        step, case = self._stands_in(path)
        match diagnostic.code:
            case "NP201":
                return step not in self.mended.visited
            case "NP203" | "NP206" | "NP404":
                return (
                    None
                    if step not in self.mended.visited or case is None
                    else (step, case) not in self.mended.taken
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
                    diagnostic.code == "NP301" or self._is_met_behind(words, step, diagnostic.message)
                )
            case "NP303":
                return self._is_raced(self.places.word(place), path, step)
        return None

    def _is_unbounded(self, circle: Sequence[str]) -> bool:
        """Whether a cycle is there and none of its steps has a bound: then it has none by the rules, driven or not."""
        steps = [self.plan.steps.get(name.strip()) for name in circle]
        following = [*steps[1:], *steps[:1]]
        return all(
            one is None
            or other is None
            or (one.max_visits is None and any(other.name in c.targets for c in one.cases))
            for one, other in zip(steps, following, strict=True)
        )

    def _is_met(self, words: frozenset[str], step: str | None, path: Sequence[str | int]) -> bool | None:
        """Whether something has no value where it is read; None where no run comes by."""
        steps = {m.step for m in self.mended.mistakes if m.word in words}
        if path[:1] == ("tasks",):
            return bool(steps) or None
        if step == self.plan.header.finally_step:
            # It runs when a run is cancelled, too, which may be at any time and is not explored.
            return step in steps or None
        if step is None and not any(e.status != "failed" for e in self.behaviour.endings):
            return None
        return (step in steps) or (None if step is not None and step not in self.mended.visited else False)

    def _is_met_behind(self, words: frozenset[str], step: str | None, message: str) -> bool:
        """Whether a name has no value on the very path that a message shows."""
        _, _, told = message.partition(" on the path ")
        if not told or "…" in told:
            return True
        path, *beside = told.split(", where ")
        names = path.split(" → ")
        needed = {
            (name.removesuffix(" (failed)"), name.endswith(" (failed)"))
            for name in (names[:-1] if step is not None else names)
        }
        for part in beside:
            needed |= {(name, part.endswith(("fail", "fails"))) for name in re.findall(r"`([^`]+)`", part)}
        return any(needed <= behind for word in words for behind in self.mended.met.get((step, word), ()))

    def _is_raced(self, name: str, path: Sequence[str | int], step: str | None) -> bool | None:
        if any(name == saved and step in steps for saved, *steps in self.mended.writers):
            return True
        return None if step is None or step not in self.mended.visited else False

    def _stands_in(self, path: Sequence[str | int]) -> tuple[str | None, int | None]:
        if path[:1] != ("steps",) or len(path) < 2:
            return None, None
        step = dict(self.places.texts(("steps", path[1], "name")))[("steps", path[1], "name")]
        case = int(path[3]) if len(path) > 3 and path[2] == "rule" else None
        return step, case

    def untold(self, diagnostics: Sequence[Diagnostic], lossy: Explored) -> list[tuple[str, str]]:
        """What happens in some run of a playbook without errors and was not found; `lossy` are runs whose workers may die."""
        told = {
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
            if mistake.name is not None and mistake.name not in told
        ]
        found += [("stuck", broken) for broken in sorted(self.behaviour.broken)]
        found += [
            ("race", f"{one} and {other} save {name}") for name, one, other in sorted(self.behaviour.writers)
        ]
        bound = self.plan.header.statistics["most_visits"]
        if self.behaviour.is_endless or (bound < MAX_COUNTED_VISITS and self.behaviour.most_visits > bound):
            found.append(
                ("more visits", f"{self.behaviour.most_visits} visits, and {bound} were said to be the most")
            )
        found += [("no such step", str(name)) for name in sorted(dangling(self.text))]
        seen = {(d.span.line, d.span.column) for d in diagnostics if d.code == "NP201"}
        found += self._unseen(seen)
        return found

    def _unseen(self, told: set[tuple[int, int]]) -> list[tuple[str, str]]:
        """Steps that no run has visited, where that is for want of a path."""
        walked = self.plan.steps.keys()
        return [
            ("unreachable", f"{value} is never visited")
            for path, value in self.places.texts(("steps",))
            if path[2:] == ("name",) and value not in walked and not told
        ]
