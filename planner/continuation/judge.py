"""The verdict: whether a run may continue in a new version of its playbook.

Problem: a run in the middle has done steps, holds names and waits at joins. In the new version, what is left
must do no step twice, read no name without a value, and meet as the new version says.

Algorithm: compliance by replay (Rinderle, Reichert and Dadam 2004) where it is enough, and program
specialisation otherwise. Conditions on single steps and branches are checked first. If the new version has
not changed what was performed, the state of the run is a state of the new version. The check of the new
version covers it. Otherwise the continuation (`noetl.planner.continuation.playbook`) is analysed. Findings of
it that the new version does not have are reasons. So are joins that differ from those of the new version.

Writes before the switch need no check for races. No visit is claimed, so the switch is later than each of
them, and earlier than all that follows.

Cost: linear in the new version without a changed history; otherwise that of its data-flow analysis.

In sequential mode, branches that wait for their turn are a part of the state. Their order must be that of the
new version (`noetl.executor.model.sequential_history`), and nothing that was performed may have changed.

Limits: guards are not evaluated. At most MAX_REASONS reasons, required values and notices are listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum

from noetl.planner.catalogue import Catalogue
from noetl.planner.checks.data_flow import check_data_flow
from noetl.planner.continuation.new_version import NewVersion, analyse_version, finding_key, step_form
from noetl.planner.continuation.playbook import Continuation, build_continuation, reach
from noetl.planner.continuation.rounds import RoundPlace
from noetl.planner.continuation.switch_state import BranchPosition, Switch, SwitchState, rename_steps
from noetl.planner.continuation.verdict import Reason, Required, SwitchVerdict
from noetl.planner.continuation.work_comparison import (
    compare_begun_work,
    compare_items,
    find_repeated_actions,
    find_repeated_items,
)
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import replace
from noetl.planner.gc_control import gc_paused
from noetl.planner.plan import Input, Plan, Step
from noetl.planner.program.program import Program
from noetl.planner.templates.template import temporary_templates

_UNDEFINED = re.compile(r"^`(?P<maybe>[^`]+)` may be undefined|assigns `(?P<never>[^`]+)`$")

ALL_CONDITIONS = frozenset(
    {"mode", "arrivals", "repeats", "discriminators", "names", "joins", "races", "bounds", "work"}
)
"""The conditions that tests can switch off one by one, to show that each is needed."""


MAX_REASONS = 100
"""How many reasons, required values and notices a verdict lists. A request may name thousands of steps."""


def may_continue(
    old: Plan,
    new: Plan,
    state: SwitchState,
    switch: Switch,
    catalogue: Catalogue,
) -> SwitchVerdict:
    """Return whether the run of the plan `old`, whose state is `state`, may continue in the plan `new`."""
    return SwitchJudge(old, new, state, switch).judge(catalogue)


@dataclass
class SwitchJudge:
    """The judgement of one switch. `conditions` are those that are checked."""

    old: Plan
    new: Plan
    state: SwitchState
    switch: Switch
    conditions: AbstractSet[str] = ALL_CONDITIONS
    reasons: list[Reason] = field(default_factory=list)
    required: list[Required] = field(default_factory=list)
    notices: list[Reason] = field(default_factory=list)

    def judge(self, catalogue: Catalogue) -> SwitchVerdict:
        """Return the verdict."""
        self.check_run()
        self.check_map()
        state = release_arrivals(rename_steps(self.state, self.switch.renamed), self.new)
        self.check_branches(state)
        self.check_inputs()
        if not self.reasons:
            version = analyse_version(self.new, catalogue)
            if version is None:
                self.refuse("NC119", "the new version has errors")
            else:
                with gc_paused(), temporary_templates():
                    self.check_rest(version, state, catalogue)
        required, more = self.required[:MAX_REASONS], max(len(self.required) - MAX_REASONS, 0)
        reasons, notices = self.reasons[:MAX_REASONS], self.notices[:MAX_REASONS]
        return SwitchVerdict(tuple(reasons), tuple(required), tuple(notices), more)

    def refuse(self, code: str, message: str, step: str | None = None, line: int | None = None) -> None:
        """Add a reason, unless there are too many. Without a line, it is that of the step."""
        if len(self.reasons) >= MAX_REASONS:
            return
        if line is None and step is not None and step in self.new.steps:
            line = self.new.steps[step].line
        reason = Reason(code, message, step, line)
        if reason not in self.reasons:
            self.reasons.append(reason)

    # Conditions on the run and on single branches.

    def check_run(self) -> None:
        if self.state.is_claimed:
            self.refuse("NC101", "a step of the run is being performed: wait until it has ended")
        if self.state.has_begun_to_end or not (self.state.branches or self.state.is_over):
            self.refuse("NC111", "the run has no branch that could continue")
        if "mode" in self.conditions:
            if self.is_ordered() and not self.state.follows_order:
                message = "the new version performs the branches that wait for their turn in another order"
                if self.old.header.sequential != self.new.header.sequential:
                    message = "several branches cannot change their mode: wait for one branch"
                self.refuse("NC103", message)

    def is_ordered(self) -> bool:
        """Return whether a run has several branches and performs them one at a time, in one of the plans."""
        is_sequential = self.old.header.sequential or self.new.header.sequential
        return is_sequential and len(self.state.branches) + self.state.in_line > 1

    def check_map(self) -> None:
        renamed = self.switch.renamed
        for before, after in renamed.items():
            if before not in self.old.steps or after not in self.new.steps:
                missing = before if before not in self.old.steps else after
                self.refuse("NC117", f"the map names the unknown step `{abbreviate(missing)}`")
        targets = [
            renamed.get(step, step) for step in {*self.state.done, *(b.step for b in self.state.branches)}
        ]
        if len(set(renamed.values())) < len(renamed) or len(set(targets)) < len(targets):
            self.refuse("NC117", "the map makes one step of two")

    def check_branches(self, state: SwitchState) -> None:
        for before, branch in zip(self.state.branches, state.branches, strict=True):
            step = self.new.steps.get(branch.step)
            if step is None or step.is_finally_step:
                message = f"step `{branch.step}` has begun and is not in the new version"
                self.refuse("NC102", message, branch.step)
                continue
            if branch.has_arrived:
                if (step.join is None or step.join.mode != "all") and "arrivals" in self.conditions:
                    message = f"a branch waits at `{step.name}`, which is no `join: all` in the new version"
                    self.refuse("NC104", message, step.name)
                continue
            earlier = self.old.steps.get(before.step)
            if earlier is None or "work" not in self.conditions:
                continue
            self.reasons += compare_begun_work(self.old, self.new, earlier, step, branch)
            given_inputs = self.switch.given.keys() & self.new.header.inputs.keys()
            self.reasons += compare_items(step, branch, given_inputs)
            self.notices += find_repeated_actions(self.old, earlier, step, branch)
            self.notices += find_repeated_items(self.new, step, branch)

    def check_inputs(self) -> None:
        inputs = {**self.state.inputs, **self.switch.given}
        for name, declared in self.new.header.inputs.items():
            match judge_input(declared, inputs, name):
                case InputFit.MISSING if declared.required:
                    self.required.append(Required(name, declared.type, declared.line))
                case InputFit.OTHER_TYPE:
                    message = f"input `{name}` is not of type `{declared.type}`"
                    self.refuse("NC112", message, None, declared.line)
                case InputFit.NOT_LISTED:
                    message = f"input `{name}` is none of the values of `enum`"
                    self.refuse("NC112", message, None, declared.line)

    # Conditions on what is left of the run.

    def check_rest(self, version: NewVersion, state: SwitchState, catalogue: Catalogue) -> None:
        headless = sorted({branch.step for branch in state.branches} & version.loops.headless)
        for step in headless:
            self.refuse("NC108", f"step `{step}` is in a cycle with several entries", step)
        if headless:
            return
        sinks = self.find_sinks(version, state)
        reached = reach(version.program, version.loops, state, sinks)
        self.check_repeats(version, state, reached)
        self.check_finally(state)
        self.check_discriminators(state, reached)
        self.check_bounds(state, reached)
        self.check_given(version, state)
        self.find_steps_left_out(state, reached)
        if self.reasons or self.is_replay(version, state, catalogue):
            return
        if self.is_ordered() and "mode" in self.conditions:
            # The continuation has no order of branches.
            message = "branches wait for their turn, and what the run has done is changed in the new version"
            self.refuse("NC103", message)
            return
        self.check_continuation(version, state, sinks)

    def find_sinks(self, version: NewVersion, state: SwitchState) -> frozenset[RoundPlace]:
        """Return the discriminators that were visited, also now, and that absorb the rest of their wave.

        In sequential mode, the stack of the run knows them, and a switch begins a new one.
        """
        if self.new.header.sequential:
            return frozenset()
        sinks = set()
        clocks = {name: done.clock for name, done in state.done.items()}
        for branch in state.branches:
            if not branch.has_arrived:
                clocks[branch.step] = max(branch.clock, clocks.get(branch.step, 0))
        for name, clock in clocks.items():
            step, before = self.new.steps.get(name), self.old_step(name)
            if step is None or before is None or step.join is None or before.join is None:
                continue
            if step.join.mode == before.join.mode == "any" and self.is_same_wave(name):
                chain = version.loops.loops_around(name)
                starts = self.round_start(state, chain[-1]) if chain else -1
                if not chain or clock > starts:
                    sinks.add(RoundPlace(name, len(chain)))
        return frozenset(sinks)

    def old_step(self, name: str) -> Step | None:
        """Return the step of the old plan that has this name in the new one."""
        before = {after: step for step, after in self.switch.renamed.items()}
        return self.old.steps.get(before.get(name, name))

    def is_same_wave(self, name: str) -> bool:
        """Return whether both plans derive the id of a visit of a discriminator from the same visit."""
        step, before = self.new.steps[name], self.old_step(name)
        if before is None or before.name != name:
            # The id is a hash of the name, too.
            return False
        dominators = []
        for plan, join in ((self.new, step.join), (self.old, before.join)):
            dominator = None if join is None else join.dominator
            is_cyclic = dominator is not None and plan.steps[dominator].cyclic
            if dominator is not None and plan is self.old:
                dominator = self.switch.renamed.get(dominator, dominator)
            dominators.append(dominator if is_cyclic else None)
        return dominators[0] == dominators[1] and step.cyclic == before.cyclic

    def round_start(self, state: SwitchState, head: str) -> int:
        """Return the clock at which the round under way has begun, or 0."""
        clocks = [branch.clock for branch in state.branches if branch.step == head and not branch.has_arrived]
        if head in state.done:
            clocks.append(state.done[head].clock)
        return max(clocks, default=0)

    def check_repeats(self, version: NewVersion, state: SwitchState, reached: list[RoundPlace]) -> None:
        """Refuse steps ahead that the run has entered, unless they may be visited again."""
        if "repeats" not in self.conditions:
            return
        visiting: dict[str, int] = {}
        for branch in state.branches:
            if not branch.has_arrived:
                visiting[branch.step] = visiting.get(branch.step, 0) + 1
        for name, number in visiting.items():
            if number > 1 and name not in version.program.joins.multi_merges:
                self.refuse("NC105", f"step `{name}` would be done by {number} branches", name)
        open_loops = {
            chain[: depth + 1]
            for branch in state.branches
            for chain in [version.loops.loops_around(branch.step)]
            for depth in range(len(chain))
        }
        for place in reached:
            name = place.step
            if name in version.program.joins.multi_merges:
                continue
            chain = version.loops.loops_around(name)
            if chain[: place.depth + 1] in open_loops and place.depth < len(chain):
                continue
            if name in visiting:
                self.refuse("NC105", f"step `{name}` has begun, and another branch can reach it", name)
            elif name in state.done:
                done = state.done[name]
                if not place.depth or done.clock > self.round_start(state, chain[place.depth - 1]):
                    self.refuse("NC105", f"step `{name}` is done, and a branch can reach it again", name)

    def check_finally(self, state: SwitchState) -> None:
        finally_step = self.new.header.finally_step
        if state.is_over and finally_step is not None:
            step = self.new.steps[finally_step]
            message = f"step `{finally_step}` is done again, because `finally` names it"
            self.notices.append(Reason("NC151", message, finally_step, step.line))
        if finally_step in state.done and "repeats" in self.conditions:
            self.refuse("NC105", f"step `{finally_step}` is done, and `finally` names it", finally_step)

    def check_discriminators(self, state: SwitchState, reached: list[RoundPlace]) -> None:
        """Refuse first-come joins ahead that were visited in another wave than the new version knows."""
        if "discriminators" not in self.conditions:
            return
        for name in {place.step for place in reached} & state.done.keys():
            step, before = self.new.steps[name], self.old_step(name)
            if step.join is not None and step.join.mode == "any":
                is_same = before is not None and before.join is not None and before.join.mode == "any"
                if not is_same or not self.is_same_wave(name):
                    self.refuse(
                        "NC106", f"`{name}` has been visited, and its branches separate elsewhere now", name
                    )

    def check_bounds(self, state: SwitchState, reached: list[RoundPlace]) -> None:
        """Refuse a round under way that its bound would end, and give notice of bounds that are reached."""
        if "bounds" not in self.conditions:
            return
        for branch in state.branches:
            step = self.new.steps[branch.step]
            is_fresh = branch.begun is None or not branch.begun.is_suspended
            number = max(branch.number, state.visits_of(step.name) + 1)
            if (
                step.max_visits is not None
                and is_fresh
                and not branch.has_arrived
                and number > step.max_visits
            ):
                self.refuse(
                    "NC116", f"this is visit {number} of `{step.name}`, more than `max_visits`", step.name
                )
        for place in reached:
            step = self.new.steps[place.step]
            visits = state.visits_of(place.step)
            if step.max_visits is None or visits < step.max_visits:
                continue
            if place.depth:
                self.refuse("NC116", f"step `{step.name}` has had all of its visits in this round", step.name)
            else:
                message = f"step `{step.name}` has had {visits} visits: the next one exceeds `max_visits`"
                self.notices.append(Reason("NC153", message, step.name, step.line))

    def check_given(self, version: NewVersion, state: SwitchState) -> None:
        used = {*version.program.definitions, *self.new.header.inputs}
        for name in self.switch.given:
            is_held = all(name in branch.names for branch in state.branches)
            if state.is_over:
                is_held = name in state.ended_names
            if name not in used or (is_held and name not in self.new.header.inputs):
                reason = "the run has one, or the new version has no such name"
                self.refuse("NC118", f"`{abbreviate(name)}` needs no value: {reason}")

    def find_steps_left_out(self, state: SwitchState, reached: list[RoundPlace]) -> None:
        """Give notice of new steps behind done ones that no branch reaches."""
        entered = {place.step for place in reached} | {branch.step for branch in state.branches}
        for name in state.done:
            step, before = self.new.steps.get(name), self.old_step(name)
            known = (
                {target for case in before.cases for target in case.targets} if before is not None else set()
            )
            for target in (
                {target for case in step.cases for target in case.targets} if step is not None else ()
            ):
                if target not in known and target not in entered and target not in state.done:
                    message = f"step `{target}` is not made up for: `{name}`, which leads to it, is done"
                    self.notices.append(Reason("NC152", message, target, self.new.steps[target].line))

    def is_replay(self, version: NewVersion, state: SwitchState, catalogue: Catalogue) -> bool:
        """Return whether the new version has not changed what was performed, so that its own check holds.

        Texts of done actions may change, because no analysis depends on them.
        """
        if self.switch.renamed or self.required or self.switch.given or state.is_edited:
            return False
        old, new = self.old.header, self.new.header
        if old.start != new.start or old.variables != new.variables or old.environment != new.environment:
            return False
        if dict(old.inputs) != dict(new.inputs) and not _same_declarations(old.inputs, new.inputs):
            return False
        if any(version.loops.loops_around(branch.step) for branch in state.branches):
            return False
        if any(branch.begun is not None and branch.begun.is_suspended for branch in state.branches):
            return False
        return all(
            name in self.new.steps
            and name in self.old.steps
            and not self.new.steps[name].cyclic
            and step_form(self.old, name, catalogue) == step_form(self.new, name, catalogue)
            for name in state.done
        )

    # The analysis of the continuation.

    def check_continuation(
        self, version: NewVersion, state: SwitchState, sinks: AbstractSet[RoundPlace]
    ) -> None:
        given = frozenset(self.switch.given)
        carried = keep_live_names(state, self.new, given)
        continuation = build_continuation(version.program, version.loops, carried, sinks)
        program = continuation.program
        if program is None or program.joins.is_too_large:
            self.refuse("NC119", "the rest of the run is too large for an analysis")
            return
        self.check_joins(version, continuation, program, is_alone=len(state.branches) == 1)
        if self.reasons and "joins" in self.conditions:
            return
        findings = self.find_new_findings(version, continuation)
        undefined = {name for finding in findings if (name := _undefined_name(finding)) is not None}
        if undefined and "names" in self.conditions:
            again = build_continuation(
                version.program, version.loops, keep_live_names(state, self.new, given | undefined), sinks
            )
            for finding in self.find_new_findings(version, again):
                if finding.code in ("NP301", "NP302"):
                    self.refuse_finding(finding, again)
        required = {known.name for known in self.required}
        for finding in findings:
            name = _undefined_name(finding)
            if name is None:
                self.refuse_finding(finding, continuation)
            elif "names" in self.conditions and name not in required:
                required.add(name)
                self.required.append(Required(name, "any", finding.span.line))

    def find_new_findings(self, version: NewVersion, continuation: Continuation) -> list[Diagnostic]:
        """Return the findings of the data flow that the new version does not have.

        The first race of each later step is reported. Synthetic steps are the last ones, so a race with one
        of them hides none between other steps.
        """
        program = continuation.program
        assert program is not None
        check_data_flow(program)
        history = tuple(f"`{name}`" for name in continuation.synthetic)
        return [
            finding
            for finding in program.diagnostics
            if finding.code in ("NP301", "NP302", "NP303", "NP902")
            and finding_key(finding) not in version.findings
            and not (finding.code == "NP303" and any(name in finding.message for name in history))
        ]

    def refuse_finding(self, finding: Diagnostic, continuation: Continuation) -> None:
        line = finding.span.line
        step = next((step.name for step in reversed([*self.new.steps.values()]) if step.line <= line), None)
        if finding.code == "NP303" and "races" in self.conditions:
            self.refuse("NC114", continuation.describe(finding.message), step, line)
        elif finding.code in ("NP301", "NP302") and "names" in self.conditions:
            code = "NC113" if _undefined_name(finding) is not None else "NC115"
            self.refuse(code, continuation.describe(finding.message), step, line)
        elif finding.code == "NP902" and "names" in self.conditions:
            self.refuse("NC119", "the rest of the run has too many findings")

    def check_joins(
        self, version: NewVersion, continuation: Continuation, program: Program, *, is_alone: bool
    ) -> None:
        """Refuse joins that differ from those of the new version.

        If one branch is alone, others come only from forks reached, and the new version knows all of them.
        """
        if "joins" not in self.conditions:
            return
        joins, places = program.joins, continuation.places
        if joins.overlapping_cycles or not program.is_well_formed:
            cycle = next((cycle.step for cycle in joins.overlapping_cycles), None)
            step = places[cycle].step if cycle is not None and cycle in places else None
            self.refuse("NC107", "a cycle could begin again while a branch of its last round is active", step)
            return
        known = version.program.joins
        for name, place in places.items() if not is_alone else ():
            step = place.step
            if name in joins.dominators and step not in known.dominators:
                self.refuse(
                    "NC107", f"branches could reach `{step}` that do not meet in the new version", step
                )
            elif name in joins.multi_merges and step not in known.multi_merges:
                self.refuse("NC107", f"several branches could visit `{step}`", step)
            for join in joins.regions.get(name, ()):
                if join in places and places[join].step not in known.regions.get(step, ()):
                    message = f"`{places[join].step}` would not wait for a branch at `{step}`"
                    self.refuse("NC107", message, step)


def release_arrivals(state: SwitchState, new: Plan) -> SwitchState:
    """Return the state in which a branch that waits at a step which is no join any more stands at it."""
    waiting = [branch for branch in state.branches if branch.has_arrived and _is_released(branch, new)]
    if not waiting:
        return state
    branches = tuple(
        replace(branch, has_arrived=False, number=state.visits_of(branch.step) + 1)
        if branch.has_arrived and _is_released(branch, new)
        else branch
        for branch in state.branches
    )
    return replace(state, branches=branches)


def keep_live_names(state: SwitchState, new: Plan, given: AbstractSet[str]) -> SwitchState:
    """Return the state in which branches have the names that they carry in the new plan, with given ones.

    A step hands on only what it may have in its plan. The output sees the other names as well.
    """
    branches, dropped = [], set(state.ended_names)
    if state.is_over:
        dropped |= given
    for branch in state.branches:
        names = {**dict.fromkeys(given, (0, "")), **branch.names}
        live = new.steps[branch.step].live_names
        dropped |= names.keys() - live
        kept = {name: pointer for name, pointer in names.items() if name in live}
        branches.append(replace(branch, names=kept))
    return replace(state, branches=tuple(branches), ended_names=frozenset(dropped))


def _is_released(branch: BranchPosition, new: Plan) -> bool:
    step = new.steps.get(branch.step)
    return step is not None and step.join is None and not step.is_finally_step


def _same_declarations(old: Mapping[str, Input], new: Mapping[str, Input]) -> bool:
    def forms(inputs: Mapping[str, Input]) -> dict[str, dict[str, object]]:
        return {
            name: {
                key: value for key, value in declared.to_json().items() if key not in ("line", "description")
            }
            for name, declared in inputs.items()
        }

    return forms(old) == forms(new)


def _undefined_name(finding: Diagnostic) -> str | None:
    """Return the name that a finding says is or may be undefined."""
    if finding.code not in ("NP301", "NP302"):
        return None
    match = _UNDEFINED.search(finding.message)
    return None if match is None else match["maybe"] or match["never"]


class InputFit(StrEnum):
    """Relation of the value of an input to its declaration in the new version."""

    MISSING = "missing"
    OTHER_TYPE = "of another type"
    NOT_LISTED = "none of the values"
    FITS = "fits"


def judge_input(declared: Input, inputs: Mapping[str, object], name: str) -> InputFit:
    """Return whether an input has a value that fits its declaration."""
    if name not in inputs:
        return InputFit.MISSING
    if not _fits(inputs[name], declared.type):
        return InputFit.OTHER_TYPE
    is_listed = declared.enum is None or inputs[name] in declared.enum
    return InputFit.FITS if is_listed else InputFit.NOT_LISTED


def find_shape(new: Plan, state: SwitchState, switch: Switch) -> str:
    """Return a text that is equal for states of runs of one plan which have the same verdict.

    Of the inputs, only their names and whether they fit is part of it: guards are not evaluated.
    """
    inputs = {**state.inputs, **switch.given}
    fits = [judge_input(declared, inputs, name).value for name, declared in new.header.inputs.items()]
    return repr((replace(state, inputs={}, variables={}), sorted(inputs), fits))


def _fits(value: object, type_: str) -> bool:
    """Return whether a value is of a type of the language.

    >>> _fits(1, "number"), _fits(True, "integer")
    (True, False)
    """
    if isinstance(value, bool):
        return type_ in ("boolean", "any")
    types: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "object": (dict,),
        "array": (list, tuple),
    }
    return type_ == "any" or isinstance(value, types[type_])
