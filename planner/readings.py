"""What templates need and tell, as bits of integers: a bit for every name, and for every step that has been visited.

What is given, and what nothing produces, has one only where a guard may ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from planner.accesses import Access
from planner.checks.names import RESERVED
from planner.checks.subject import Subject
from planner.entries import saved_names
from planner.implied import ANY, SUCCEEDED_RUN, Facts, implied, is_unconditional
from planner.playbook import ActionEntry, Entry, Step, TaskEntry
from planner.saves import called
from planner.uses import Use


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


class Readings:
    """The templates of a playbook. `keys` are the keys of the bits, in order, `at_start` the bits that are there when a run
    starts, `at_success` those that are when it has succeeded, as far as that is known.
    """

    def __init__(self, subject: Subject) -> None:
        self.names = subject.names
        playbook = subject.playbook
        self.takes_no_others = playbook.input is not None
        self.given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        self.keys: list[str] = []
        self.bits: dict[str, int] = {}
        self.saved = {name for run in subject.runs() for name, _ in saved_names(run, in_loops=True)} - self.given
        self.at_start = self.at_success = 0
        self.found: dict[tuple[str, frozenset[str]], Reading] = {}
        self.sure: dict[str, int] = {}
        for use in subject.uses:
            self.allot(use)

    def know_success(self, bits: int) -> None:
        """Take note of what is there when a run has succeeded."""
        self.at_success = bits
        self.found.clear()

    def allot(self, use: Use) -> None:
        """Give a bit to everything that a template reads and something produces, and to any other name where a guard may ask for it."""
        may_ask = "defined" in use.template.source
        for access in use.template.reads:
            key = access[0]
            is_given = key in self.given and may_ask
            is_nowhere = may_ask and self.takes_no_others and key not in RESERVED
            if key == "steps" and len(access) > 2 and access[1] in self.names.steps:
                key = f"steps.{access[1]}"
            elif not (key in self.saved or is_given or is_nowhere) or key in use.local:
                continue
            if key not in self.bits:
                self.bits[key] = 1 << len(self.keys)
                self.keys.append(key)
                self.at_start |= self.bits[key] if is_given else 0

    def key(self, bit: int) -> str:
        return self.keys[bit.bit_length() - 1]

    def of(self, use: Use) -> Reading:
        """What a template needs and tells."""
        template = use.template
        found = self.found.get((template.source, use.local))
        if found is None:
            if is_unconditional(template):
                needs = self.mask(template.reads, use.local)
                known = Known(needs)
                found = Reading(needs, (), needs, known, known, known)
            else:
                found = self.conditional(use)
            self.found[template.source, use.local] = found
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
