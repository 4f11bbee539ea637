"""NP301 and NP302: every name that a template reads has been produced, on every path that leads to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from noetl.planner.checks.name_usage import saved_span
from noetl.planner.dataflow.fact_encoding import key_of
from noetl.planner.dataflow.narrowing import FAILED, implied
from noetl.planner.dataflow.solver import TooManyLooksError, Ways
from noetl.planner.dataflow.step_effects import Production
from noetl.planner.dataflow.transfer import EVERYTHING, Needs, Read
from noetl.planner.dataflow.unreachable import Never, Untaken, find_out, find_untaken
from noetl.planner.dataflow.witness import Move, Witness, find_end, find_witness
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.diagnostics.wording import listed
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Place, Use
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Step, TaskEntry

MAX_PATHS = 200
"""How many paths are looked for: reads by the hundred that lack something have one cause."""
MAX_SHOWN = 12
"""How many steps of a path a message names, and how many cases are pointed at."""
ARROW = " → "


def check_production(subject: Subject) -> Never:
    """Report every read of something that no path to it, or not every path, has produced, and every case whose guard asks for
    what cannot be.
    """
    production = Production(subject)
    if not production.readings.keys:
        return Never()
    try:
        ways = find_out(subject, production)
    except TooManyLooksError:
        return Never(readings=production.readings)
    last = subject.playbook.finally_
    if last is not None and last not in ways.found.must:
        production.know_success(last, ways.found.end_must)
    check = _Check(subject, production, ways)
    check.all()
    untaken = find_untaken(production, ways)
    if untaken:
        # Readers may rely on harmless work; that a case is never taken must be true after the loss of a worker, too.
        production = Production(subject, loses=True)
        try:
            untaken &= find_untaken(production, find_out(subject, production))
        except TooManyLooksError:
            untaken = frozenset()
    check.untaken(untaken)
    return Never(untaken, check.production.readings, ways.found.must)


class _Check:
    def __init__(self, subject: Subject, production: Production, ways: Ways) -> None:
        self.subject = subject
        self.production = production
        self.ways = ways
        self.reported: set[tuple[DocumentPath, int]] = set()
        self.paths = 0
        self.at_success = self.at_failure = 0

    def untaken(self, untaken: Untaken) -> None:
        """Report cases that are never taken. What is said to be lacking somewhere comes first: a step that needs it always fails,
        and what is there behind it is known only when it does not.
        """
        told = {bit for _, bit in self.reported}
        behind = self.behind_mistakes() if untaken else frozenset()
        for name, index in sorted(untaken):
            bit, reason = self.why_not(name, index)
            if reason is None or self.is_hopeless(name) or (name in behind and self.is_made_on_the_way(bit)):
                continue
            dead = {one.case for one in self.subject.dead_cases(self.subject.names.steps[name])}
            if bit not in told and index not in dead:
                case = (self.subject.names.steps[name].rule or [])[index]
                self.subject.report(
                    "NP203", f"the case can never be taken: {reason}", (*case.path, "case"), key=True
                )

    def is_hopeless(self, step: str) -> bool:
        """Whether a step needs what nothing that leads to it has produced."""
        found = self.ways.found
        return bool(self.production.visits[step].hopeless & ~found.may[step] & ~found.must[step])

    def behind_mistakes(self) -> AbstractSet[str]:
        """The steps that a hopeless one leads to."""
        stack = [name for name in self.ways.found.must if self.is_hopeless(name)]
        found: set[str] = set()
        while stack:
            ahead = self.subject.flow.graph.succ[stack.pop()].keys() - found
            found |= ahead
            stack += ahead
        return found

    def is_made_on_the_way(self, bit: int) -> bool:
        """Whether it depends on the way to a step if something is there, or if any of it is where no bit is told."""
        return not bit or (
            not bit & self.production.readings.at_start
            and self.is_produced(self.production.readings.key(bit))
        )

    def why_not(self, step: str, case: int) -> tuple[int, str | None]:
        """What a case lacks, or what is always there, if the step could do without. There is no reason to tell where that is a
        name which nothing produces: the step is never entered, for whoever has read it before.
        """
        visit = self.production.visits[step]
        if there := visit.hidden.get(case, 0):
            return there & -there, "a case before it is always taken"
        for assumed in visit.taken[case]:
            if lacking := assumed.asked & ~self.ways.found.may[step]:
                bit = lacking & -lacking
                key = self.production.readings.key(bit)
                if self.is_produced(key):
                    return bit, f"no path that leads here has {_done(key)}"
                return bit, f"nothing in the playbook produces `{key}`"
            if there := assumed.gone & self.ways.found.must[step]:
                bit = there & -there
                key = self.production.readings.key(bit)
                if bit & self.production.readings.at_start:
                    return bit, f"`{key}` always has a value"
                return bit, f"every path that leads here has {_done(key)}" if self.is_produced(key) else None
        there = visit.refuted.get(case, 0)
        return there & -there, "its guard is never true"

    def all(self) -> None:
        found = self.ways.found
        steps = self.subject.names.steps
        for name, must in found.must.items():
            self.step(steps[name], found.may[name], must)
        last = self.subject.playbook.finally_
        if last is not None and last not in found.must:
            self.step(steps[last], found.end_may, self.production.readings.at_start)
        self.find_ends()
        must = self.at_success & self.at_failure
        for use in self.subject.uses:
            if use.place is Place.OUTPUT:
                needs = Needs(wanted=~must)
                self.production.work.read(use, must, 0, needs)
                self.places(needs.places, self.may_be_there(None), None)

    def find_ends(self) -> None:
        """Find what must be there when the output is evaluated. It is not, where the step that runs last fails after a success."""
        found = self.ways.found
        self.at_success, self.at_failure = found.end_must, found.end_anyhow
        last = self.subject.playbook.finally_
        if last is None or last in found.must:
            return
        succeeded = anyhow = EVERYTHING
        for outcome in self.production.visits[last].outcomes:
            anyhow &= outcome.gen
            succeeded &= EVERYTHING if outcome.is_unhandled else outcome.gen
        self.at_success |= succeeded
        self.at_failure |= anyhow if self.ways.forgives else EVERYTHING

    def may_be_there(self, step: Step | None) -> int:
        """What may be there when a step is entered, or with none when the output is evaluated."""
        if step is not None:
            return self.ways.found.may.get(step.name, self.ways.found.end_may)
        found = self.ways.found.end_may
        if (last := self.subject.playbook.finally_) is not None:
            for outcome in self.production.visits[last].outcomes:
                found |= outcome.made
        return found

    def step(self, step: Step, may: int, must: int) -> None:
        if lacking := self.production.visits[step.name].needed & ~must:
            self.places(self.production.places(step, lacking), may, step)

    def places(self, places: Mapping[int, Read], may: int, step: Step | None) -> None:
        """Report what a step lacks, but for what is there where something else is that it lacks in the same template."""
        told: dict[DocumentPath, int] = {}
        for bit, read in sorted(
            places.items(), key=lambda place: _offset(self.production.readings.key(place[0]), place[1].use)
        ):
            earlier = told.get(read.use.path, 0)
            if not bit & self.production.work.widened(earlier, 0) & ~earlier:
                self.lacking(bit, read, may, step)
            told[read.use.path] = earlier | bit

    def lacking(self, bit: int, read: Read, may: int, step: Step | None) -> None:
        """Report a bit that a step, or with none the output, needs and may lack. In a task that many call, once."""
        key, use = self.production.readings.key(bit), read.use
        base = self.production.readings.base(bit)
        if (use.path, base) in self.reported or not self.is_ours(key, use):
            return
        self.reported.add((use.path, base))
        is_shared = use.path[0] == "retry"
        if read.is_hopeless and not base & may and not is_shared:
            self.never(key, use, step)
        else:
            self.sometimes(key, bit, read, step)

    def is_ours(self, key: str, use: Use) -> bool:
        """Whether it is produced somewhere, so that nobody else says that it is not."""
        return self.is_produced(key) or key in use.own

    def is_produced(self, key: str) -> bool:
        return key.startswith("steps.") or key in self.subject.produced

    def never(self, key: str, use: Use, step: Step | None) -> None:
        span = self.span(key, use)
        if key.startswith("steps."):
            message = f"no path that leads here has {_done(key)}"
            hint = _OWN if step is not None and key == f"steps.{step.name}" else _ASK_FIRST
            self.subject.diagnostics.add("NP301", message, span, hint)
            return
        may = self.may_be_there(step)
        readings = self.production.readings
        there = reversed(f"{may & readings.plain:0{len(readings.bits)}b}")
        lacking = {key for key, bit in zip(readings.bits, there, strict=True) if bit == "0"}
        nearest = self.subject.diagnostics.suggest(key, self.subject.known_names - lacking)
        message = f"no path that leads here has {_done(key)}"
        self.subject.diagnostics.add("NP301", message, span, nearest or _PRODUCE, labels=self.producers(key))

    def producers(self, key: str) -> Iterator[Label]:
        """Where a name is saved."""
        if key in self.subject.produced:
            yield Label(saved_span(self.subject, self.subject.produced[key]), "it is saved here")

    def sometimes(self, key: str, bit: int, read: Read, step: Step | None) -> None:
        self.paths += 1
        if self.paths > MAX_PATHS:
            self.subject.diagnostics.leave_out(1)
            return
        what = (
            f"step `{key.removeprefix('steps.')}` may not have been visited"
            if key.startswith("steps.")
            else ""
        )
        what = what or f"`{key}` may have no value"
        hint = _ASK if key.startswith("steps.") else f"{_PRODUCE}, or read it as `{key} | default(…)`"
        span = self.span(key, read.use)
        if step is not None and step.name == self.subject.playbook.finally_:
            message = f"{what}: the run may end before"
            self.subject.diagnostics.add("NP302", message, span, hint)
            return
        if step is None and bit & self.at_success & ~self.ways.found.end_must:
            message = f"{what} in a run with failures: step `{self.subject.playbook.finally_}` may fail too"
            self.subject.diagnostics.add("NP302", message, span, hint)
            return
        if step is None:
            witness = find_end(self.ways, bit, forgiving=bool(self.at_success & bit))
        else:
            witness = find_witness(self.ways, step.name, bit)
        if witness is None:
            self.subject.diagnostics.add("NP302", what, span, hint)
            return
        message = f"{what}{self.told(witness, read, step)}"
        labels = self.labels(witness) or self.left_undone(key, step)
        self.subject.diagnostics.add("NP302", message, span, hint, labels=labels)

    def left_undone(self, key: str, step: Step | None) -> list[Label]:
        """Where the step itself saves a name, if what saves it may be left out or fail."""
        found = []
        for entry in step.run or () if step is not None else ():
            if not isinstance(entry, ActionEntry | TaskEntry) or (
                entry.if_ is None and entry.on_error is None
            ):
                continue
            why = "if this is done" if entry.if_ is not None else "if this succeeds"
            places = (path for name, path in find_saved_names([entry]) if name == key)
            found += [Label(saved_span(self.subject, path), f"it is saved here, {why}") for path in places]
        return found[:MAX_SHOWN]

    def told(self, witness: Witness, read: Read, step: Step | None) -> str:
        """A path in words."""
        names = [f"{move.step} (failed)" if move.failed else move.step for move in witness.way]
        if step is not None:
            names.append(f"{step.name} (failed)" if read.outcomes == FAILED else step.name)
        if len(names) > MAX_SHOWN:
            names[MAX_SHOWN // 2 : -MAX_SHOWN // 2] = ["…"]
        told = f" on the path {ARROW.join(names)}" if len(names) > 1 else ""
        if not told and step is not None and read.outcomes == FAILED:
            told = f" when `{step.name}` has failed"
        if not told and step is None and witness.way[0].failed:
            told = f" when `{witness.way[0].step}` fails"
        ended = [move for move in witness.beside if self.ends(move)]
        for failed, what in ((False, "end"), (True, "fail")):
            steps = [f"`{move.step}`" for move in ended if move.failed is failed][:MAX_SHOWN]
            if steps:
                told += f", where {listed(steps, 'and')} {what}{'s' if len(steps) == 1 else ''}"
        return told

    def ends(self, move: Move) -> bool:
        return move.case is None or not self.subject.flow.targets[move.step][move.case]

    def labels(self, witness: Witness) -> list[Label]:
        """Where the cases stand that are taken, as far as there was a choice."""
        document = self.subject.document
        found = []
        for move in witness.moves:
            step = self.subject.names.steps[move.step]
            if move.case is not None and step.rule is not None and len(step.rule) > 1:
                found.append(Label(document.span((*step.rule[move.case].path, "case")), "this case is taken"))
            elif move.case is None and step.rule:
                why = "it fails" if move.failed else "no case is true"
                found.append(Label(self.subject.name_span(step), why))
        return found[:MAX_SHOWN]

    def span(self, key: str, use: Use) -> Span:
        """The word that is at fault in a template."""
        word = key.removeprefix("steps.")
        offset = _offset(key, use)
        at = max(use.template.source.find(word, offset), 0)
        return self.subject.document.text_span(use.path, at, at + len(word))


_PRODUCE = "let every path save it"
_OWN = "what a step itself has done is in `result`, in its rule"
_ASK_FIRST = "ask for its `status`, or `is defined`, first"
_ASK = "ask for its `status` first"


def _done(key: str) -> str:
    """What has been done where a key is there."""
    return f"visited step `{key.removeprefix('steps.')}`" if key.startswith("steps.") else f"produced `{key}`"


def _offset(key: str, use: Use) -> int:
    """Where a template first needs something."""
    needs = ((need.access, need.offset) for need in implied(use.template).needs)
    return next(offset for access, offset in (*needs, *use.template.reads.items()) if key_of(access) == key)
