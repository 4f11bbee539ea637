"""Cases that are never taken, and pairs of steps that exclude each other."""

from __future__ import annotations

from collections.abc import Mapping

from noetl.planner.dataflow.fact_encoding import Readings
from noetl.planner.dataflow.solver import Ways
from noetl.planner.dataflow.step_effects import Production
from noetl.planner.dataflow.transfer import EVERYTHING
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import DocumentPath

Untaken = frozenset[tuple[str, int]]
"""Cases that are never taken: the step, and the index of the case."""


class Never:
    """What no run does: `cases` are never taken, and of two steps, or entries of a `run`, that exclude each other one at most is
    ever done, since tests of values that never change have turned out one way before the one, and the other way before the other.
    """

    def __init__(
        self, cases: Untaken = frozenset(), readings: Readings | None = None, must: Mapping[str, int] = {}
    ) -> None:
        self.cases = cases
        self.readings = readings
        self.must = must

    def both(self, step: str, other: str) -> bool:
        """Whether two steps exclude each other."""
        must = self.must
        return self.readings is not None and self.readings.contradict(must.get(step, 0), must.get(other, 0))

    def both_entries(self, entry: int, other: int) -> bool:
        """Whether two entries do, with `around` of each."""
        return self.readings is not None and self.readings.contradict(entry, other)

    def around(self, entry: DocumentPath) -> int:
        """What the guard of an entry says of such tests."""
        return 0 if self.readings is None else self.readings.met_around(entry)


def find_out(subject: Subject, production: Production) -> Ways:
    """The ways through a playbook, and what is there on them, as far as its templates tell.

    Raises:
        TooManyLooksError: they are too many to look at.
    """
    ways = find_ways(subject, production)
    if is_lacking(production, ways):
        # Only now is it worth while to know what is there wherever something else is.
        production.know(ways.implications())
        ways = find_ways(subject, production)
    return ways


def find_ways(subject: Subject, production: Production) -> Ways:
    """The ways through a playbook, and what is there on them.

    Raises:
        TooManyLooksError: they are too many to look at.
    """
    default = subject.playbook.on_error
    on_failure = {name: step.on_error or default for name, step in subject.names.steps.items()}
    in_turns = subject.playbook.mode == "sequential"
    ways = Ways(
        subject.flow,
        subject.joins,
        production.visits,
        on_failure,
        production.readings.at_start,
        in_turns=in_turns,
        resolved=production.readings.resolved,
    )
    ways.find()
    return ways


def is_lacking(production: Production, ways: Ways) -> bool:
    """Whether a step may be entered without something that it needs."""
    return any(production.visits[step].needed & ~must for step, must in ways.found.must.items())


def find_untaken(production: Production, ways: Ways) -> Untaken:
    """The cases that are never taken, for what is there or not whenever the step is entered, or then."""
    visits = [(name, production.visits[name]) for name, must in ways.found.must.items() if must != EVERYTHING]
    return frozenset(
        (name, index)
        for name, visit in visits
        for index in (
            *visit.hidden,
            *(
                at
                for at, taken in visit.taken.items()
                if not any(ways.can_be(name, assumed) for assumed in taken)
            ),
        )
    )
