"""The continuation: what is left of a run in a new version, as a playbook of its own.

Problem: the analyses of the planner say what holds for all runs from the start. For a switch, they must say
what holds for the runs that begin in the state of one run.

Algorithm: program specialisation (Jones, Gomard and Sestoft 1993). A synthetic first step saves the names
that every live branch has, and forks to one synthetic step for each branch. This step saves what else the
branch has, and leads to the step where the branch stands, or to the join where it waits. A last branch saves
what ended branches have saved, and ends. A step whose round of a cycle is under way is copied, and an edge to
the head of the cycle leads to the original. A done step of which a field is read has a stub that counts as
visited. Steps that no branch can reach are left out. One step that is never reached saves the names that no
branch has, so a name that only such steps save is still a name. All other steps stay as they are, so every
finding has its position in the new text.

Cost: one parse of the data of the new version, without a parse of YAML.

Limits: a copy does not count as a visit of its original, so `steps.NAME` of it may seem unvisited. The same
holds for a step that several branches have visited, but not all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from noetl.planner.catalogue import Catalogue
from noetl.planner.continuation.rounds import NestedLoops, RoundPlace
from noetl.planner.continuation.switch_state import BranchPosition, SwitchState
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_template_uses
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.syntax.parser import parse_playbook

MARK = "@"
"""The first character of the names of copies and synthetic steps. Names in playbooks never start with it."""

CARRIED = "carried"
"""The input from which synthetic steps take values. Nothing is known of it."""


class ContinuationDocument(Document):
    """A document whose copied and synthetic steps have the positions of steps in the text."""

    def __init__(self, document: Document, data: Any, origins: list[int | None]) -> None:
        super().__init__(document.text, data, document._root)  # noqa: SLF001  It is a view of the document.
        self.origins = origins

    def _find(self, path: DocumentPath) -> tuple[Any, Any]:
        if len(path) > 1 and path[0] == "steps" and isinstance(path[1], int):
            origin = self.origins[path[1]]
            path = ("steps",) if origin is None else ("steps", origin, *path[2:])
        return super()._find(path)


@dataclass(frozen=True)
class Continuation:
    """The program of a continuation, and the place in the new version of each step that is not synthetic.

    `program` is None if the playbook cannot be parsed, because it is too large. `synthetic` are the names of
    the steps that stand for the history.
    """

    program: Program | None
    places: Mapping[str, RoundPlace]
    synthetic: frozenset[str] = frozenset()

    def describe(self, message: str) -> str:
        """Return a message in which copies have the names of their steps, without the path to the read."""
        for name, place in self.places.items():
            if name != place.step:
                message = message.replace(f"`{name}`", f"`{place.step}`")
        return message.split(" on the path ")[0].split(" when ")[0]


def reach(
    program: Program, loops: NestedLoops, state: SwitchState, sinks: AbstractSet[RoundPlace] = frozenset()
) -> list[RoundPlace]:
    """Return the places that branches of a run can reach, without those where they stand.

    Branches end at `sinks`. A join where a branch waits is reached.
    """
    stack = [place for branch in state.branches for place in _first_places(program, loops, branch)]
    reached: dict[RoundPlace, None] = {}
    while stack:
        place = stack.pop()
        if place in reached or place in sinks:
            continue
        reached[place] = None
        stack += _successors(program, loops, place)
    return list(reached)


def _first_places(program: Program, loops: NestedLoops, branch: BranchPosition) -> Iterable[RoundPlace]:
    if branch.has_arrived:
        return (loops.arrival_place(branch.step),)
    return _successors(program, loops, loops.visit_place(branch.step))


def _successors(program: Program, loops: NestedLoops, place: RoundPlace) -> Iterable[RoundPlace]:
    cases = program.cfg.targets[place.step]
    return [loops.follow(place, target) for case in cases for target in case]


def build_continuation(
    program: Program,
    loops: NestedLoops,
    state: SwitchState,
    sinks: AbstractSet[RoundPlace] = frozenset(),
) -> Continuation:
    """Return the continuation of a run in a new version, whose names of steps `state` has."""
    builder = _Builder(program, loops, state, sinks)
    data = builder.build()
    document = ContinuationDocument(program.document, data, builder.origins)
    diagnostics = Diagnostics()
    synthetic = frozenset(builder.synthetic)
    return Continuation(_parse(document, program.catalogue, diagnostics), builder.places, synthetic)


def _parse(document: Document, catalogue: Catalogue, diagnostics: Diagnostics) -> Program | None:
    parsed = parse_playbook(document, catalogue, diagnostics)
    uses = None if parsed is None else find_template_uses(parsed.playbook, document, diagnostics)
    if parsed is None or uses is None:
        return None
    return Program(parsed.playbook, document, catalogue, diagnostics, uses)


class _Builder:
    """The data of a continuation. `origins` has, for each step, its index in the new version, or None."""

    def __init__(
        self,
        program: Program,
        loops: NestedLoops,
        state: SwitchState,
        sinks: AbstractSet[RoundPlace],
    ) -> None:
        self.program = program
        self.loops = loops
        self.state = state
        self.sinks = sinks
        self.raw: list[Any] = list(program.document.data["steps"])
        self.index = {step.name: index for index, step in enumerate(program.playbook.steps)}
        self.origins: list[int | None] = list(range(len(self.raw)))
        self.places: dict[str, RoundPlace] = {}
        self.names_of_copies: dict[RoundPlace, str] = {}
        self.synthetic: list[str] = []
        self.stubs: list[str] = []
        self.saved: set[str] = set()
        inputs = program.playbook.input or {}
        self.carried = CARRIED
        while self.carried in inputs or self.carried in program.defined_names:
            self.carried += "_"

    def build(self) -> dict[str, Any]:
        """Return the data of the playbook."""
        visitors = Counter(branch.step for branch in self.state.branches if not branch.has_arrived)
        reached = reach(self.program, self.loops, self.state, self.sinks)
        for place in reached:
            self.add_place(place)
        firsts = [self.first_step(branch, visitors) for branch in self.state.branches]
        self.add_history(
            firsts, {place.step for place in reached} | {branch.step for branch in self.state.branches}
        )
        self.drop_steps()
        data = {**self.program.document.data, "steps": self.raw, "start": f"{MARK}start"}
        data["input"] = self.declare_inputs()
        return data

    def drop_steps(self) -> None:
        """Drop the steps that no branch reaches. Those of which a field is read stay, without their work."""
        last = self.program.playbook.finally_
        kept = {*self.places, *self.synthetic, *self.stubs}
        kept |= set() if last is None else {last}
        read = self.find_read_steps()
        pairs = [
            (step if step["name"] in kept else {"name": step["name"]}, origin)
            for step, origin in zip(self.raw, self.origins, strict=True)
            if step["name"] in kept or step["name"] in read
        ]
        self.raw, self.origins = [step for step, _ in pairs], [origin for _, origin in pairs]
        lost = self.program.definitions.keys() - self.saved
        if lost:
            self.add_synthetic(f"{MARK}unreached", lost, [])

    def declare_inputs(self) -> dict[str, Any]:
        playbook = self.program.playbook
        written = self.program.document.data.get("input") or {}
        known = {} if playbook.input is not None else dict.fromkeys(self.state.inputs, "any")
        return {**known, **written, self.carried: "any"}

    def name_of(self, place: RoundPlace) -> str:
        """Return the name of a place. At depth 0 it is that of the step."""
        if place.depth == 0:
            return place.step
        if place not in self.names_of_copies:
            self.names_of_copies[place] = f"{MARK}round {len(self.names_of_copies)}"
        return self.names_of_copies[place]

    def add_place(self, place: RoundPlace) -> None:
        name = self.name_of(place)
        self.places[name] = place
        if place.depth or self.leads_to_sink(place):
            self.put_copy(place, name, is_original=place.depth == 0)

    def leads_to_sink(self, place: RoundPlace) -> bool:
        return bool(self.sinks) and not self.sinks.isdisjoint(_successors(self.program, self.loops, place))

    def put_copy(self, place: RoundPlace, name: str, *, is_original: bool) -> None:
        """Add a copy of a step whose edges lead from `place`, or put it in the place of the original."""
        index = self.index[place.step]
        step = dict(self.raw[index])
        step["name"] = name
        if isinstance(step.get("rule"), list):
            step["rule"] = [self.moved_case(place, case) for case in step["rule"]]
        if is_original:
            self.raw[index] = step
        else:
            self.raw.append(step)
            self.origins.append(index)

    def moved_case(self, place: RoundPlace, case: Any) -> Any:
        if not isinstance(case, dict) or not isinstance(case.get("run"), list):
            return case
        entries = []
        for entry in case["run"]:
            target = entry.get("step") if isinstance(entry, dict) else entry
            if target not in self.index:
                entries.append(entry)
            elif (following := self.loops.follow(place, target)) not in self.sinks:
                entries.append(self.name_of(following))
        return {**case, "run": entries}

    def first_step(self, branch: BranchPosition, visitors: Mapping[str, int]) -> str:
        """Return the name of the step with which a branch continues."""
        if branch.has_arrived:
            return self.name_of(self.loops.arrival_place(branch.step))
        place = self.loops.visit_place(branch.step)
        is_original = place.depth == 0 and visitors[branch.step] == 1
        if is_original and branch.step not in self.program.joins.multi_merges:
            self.add_place(place)
            return branch.step
        name = f"{MARK}{len(self.places)}"
        self.places[name] = place
        self.put_copy(place, name, is_original=False)
        return name

    def add_history(self, firsts: list[str], entered: AbstractSet[str]) -> None:
        """Add the synthetic steps: the first one, one for each branch, and that of the ended branches."""
        known = self.program.definitions.keys()
        held = [branch.names.keys() & known for branch in self.state.branches]
        # Without a branch, the end of the run has what ended branches have saved.
        common = frozenset.intersection(*map(frozenset, held or [{*self.state.ended_names} & known]))
        stubs = self.find_stubs(entered)
        entries = []
        for number, (first, names) in enumerate(zip(firsts, held, strict=True)):
            name = f"{MARK}branch {number}"
            targets = [first]
            for stub in stubs.get(number, ()):
                self.put_stub(stub, targets)
                targets = [stub]
            self.add_synthetic(name, names - common, targets)
            entries.append(name)
        # What a branch has is saved in its step, also if other branches have dropped it.
        ended = (self.state.ended_names & known).difference(common, *held)
        if ended and self.program.playbook.mode == "parallel":
            self.add_synthetic(f"{MARK}ended", ended, [])
            entries.append(f"{MARK}ended")
        for stub in stubs.get(None, ()):
            self.put_stub(stub, entries)
            entries = [stub]
        self.add_synthetic(f"{MARK}start", common, entries)

    def find_stubs(self, entered: AbstractSet[str]) -> dict[int | None, list[str]]:
        """Return the done steps that need a stub: under None those that all branches have visited, else under
        the number of the branch that has.
        """
        read = self.find_read_steps()
        stubs: dict[int | None, list[str]] = {}
        for step in sorted((read & self.index.keys() & self.state.done.keys()) - entered):
            visitors = [n for n, branch in enumerate(self.state.branches) if f"steps.{step}" in branch.names]
            if len(visitors) == len(self.state.branches):
                stubs.setdefault(None, []).append(step)
            elif len(visitors) == 1:
                stubs.setdefault(visitors[0], []).append(step)
        return stubs

    def find_read_steps(self) -> set[str]:
        """Return the names of steps of which a field is read."""
        return {
            path[1]
            for use in self.program.uses
            for path in use.template.reads
            if path[0] == "steps" and len(path) > 1
        }

    def put_stub(self, name: str, targets: list[str]) -> None:
        """Put a stub in the place of a done step. It may have failed, and nothing is known of its result."""
        work = {"action": "log", "message": f"{{{{ input.{self.carried}.text }}}}"}
        cases = [{"case": "error", "run": targets}, {"case": "default", "run": targets}]
        self.raw[self.index[name]] = {"name": name, "run": [work], "rule": cases}
        self.stubs.append(name)

    def add_synthetic(self, name: str, names: AbstractSet[str], targets: list[str]) -> None:
        rule = [{"case": "default", "run": targets}]
        step: dict[str, Any] = {"name": name, "on_error": "abort", "rule": rule}
        message = f"{{{{ input.{self.carried} }}}}"
        if names:
            step["run"] = [{"action": "log", "message": message, "as": saved} for saved in sorted(names)]
        self.raw.append(step)
        self.origins.append(None)
        self.synthetic.append(name)
        self.saved |= names
