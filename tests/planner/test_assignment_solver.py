"""Compare the definite-assignment analysis with all runs of small random playbooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.transition import find_refusal
from noetl.planner.compile import compile_playbook
from noetl.planner.dataflow.fact_encoding import FactTable
from noetl.planner.dataflow.solver import AssignmentSolution, solve
from noetl.planner.dataflow.step_effects import step_effects
from noetl.planner.dataflow.transfer import FactSet
from noetl.planner.dataflow.witness import Witness, find_end_witness, find_witness
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import Joins
from noetl.planner.plan import Case, Plan, Step
from tests.planner.programs import build_program
from tests.planner.stack_model import OPAQUE, StackModel
from tests.state_space import MAX_STATES, RunState, StateSpaceExplorer, VisitChoice
from tests.strategies import any_flows, mixed_modes

RESULT_GUARDS = ("error", "{{ result.success }}")
FACT_GUARDS = (
    "{{ v_K is defined }}",
    "{{ x is undefined }}",
    "{{ steps.K.visits > 0 }}",
    "{{ steps.K.status == 'succeeded' }}",
    "{{ not error and v_K is defined }}",
)


@dataclass(frozen=True)
class RandomPlaybook:
    """A playbook in which every step reads all names, each with a default."""

    text: str
    cfg: ControlFlowGraph = field(repr=False)
    joins: Joins = field(repr=False)
    plan: Plan = field(repr=False)

    def live_at(self, step: str) -> frozenset[str]:
        """Return the live names of a step. Branches do not carry other names to it."""
        return self.plan.steps[step].live_names

    @property
    def has_races(self) -> bool:
        return any(step.join is not None and step.join.mode == "any" for step in self.plan.steps.values())

    @property
    def is_acyclic(self) -> bool:
        return not any(map(self.cfg.is_cyclic, self.cfg.reachable))


@st.composite
def drawn_playbooks(draw: st.DrawFn, *, tests_facts: bool, is_sequential: bool = False) -> RandomPlaybook:
    cfg = draw(any_flows())
    assume(len(cfg.reachable) <= 7)
    modes = draw(mixed_modes(cfg))
    joins = find_joins(cfg, modes)
    assume(not joins.overlapping_cycles)
    names = list(cfg.targets)
    working = draw(st.sets(st.sampled_from(names))) - joins.multi_merges
    sharing = draw(st.sets(st.sampled_from(names), max_size=2)) & working
    lenient = draw(st.sets(st.sampled_from(names)))
    reads = ", ".join(
        [*(f"v_{name} | default(0), steps.{name}.result | default(0)" for name in names), "x | default(0)"]
    )
    lines = ["name: drawn", f"mode: {'sequential' if is_sequential else 'parallel'}", "steps:"]
    for name, cases in cfg.targets.items():
        saved = f"v_{name}: 1" + (", x: 1" if name in sharing else "")
        lines.append(f"- name: {name}")
        if name in working:
            lines.append(
                f'  run: [{{action: log, message: "{{{{ [{reads}] }}}}"}}, {{action: set, set: {{{saved}}}}}]'
            )
        if cfg.is_cyclic(name):
            lines.append("  max_visits: 2")
        if name in modes:
            lines.append(f"  join: {modes[name]}")
        lines.append(f"  on_error: {'continue' if name in lenient else 'abort'}")
        lines.append("  rule:")
        for index, targets in enumerate(cases):
            kinds = [f"{OPAQUE}{index}:] }}}}", *RESULT_GUARDS, *(FACT_GUARDS if tests_facts else ())]
            guard = draw(st.sampled_from([*kinds, "default"] if index + 1 == len(cases) else kinds))
            guard = guard.replace("K", draw(st.sampled_from(names)))
            lines.append(f'  - {{case: "{guard}", run: [{", ".join(targets)}]}}')
    text = "\n".join([*lines, ""])
    found = compile_playbook(text, catalogue())
    assume(all(d.severity is not Severity.ERROR for d in found.diagnostics))
    assert found.plan is not None
    return RandomPlaybook(text, cfg, joins, found.plan)


class FactExplorer(StateSpaceExplorer):
    """An explorer of runs in which guards about names, steps and failures have their real truth values.

    Orders of branches are tried only if the first arrival at a join matters.
    """

    def __init__(self, drawn: RandomPlaybook, deeds: Mapping[str, VisitChoice] | None = None) -> None:
        working = frozenset(name for name, step in drawn.plan.steps.items() if step.run)
        super().__init__(drawn.plan, failing=working, concurrent=frozenset(drawn.plan.steps))
        self.in_any_order = drawn.has_races
        self.fixed = deeds or {}
        self.entered: dict[str, set[frozenset[str]]] = {}
        self.ended: set[frozenset[str]] = set()
        self.ended_with_failures: set[frozenset[str]] = set()
        self.is_too_large = False

    def explore(self) -> None:
        first = self.initial_state()
        seen = {first.key()}
        stack = [first]
        while stack:
            world = stack.pop()
            for visit in world.visits.values():
                self.entered.setdefault(visit.step, set()).add(frozenset(visit.names))
            if world.is_final and world.stop is None:
                done = [(v.saved, v.step) for v in world.visits.values()]
                facts = frozenset(name for saved, step in done for name in (*saved, f"steps.{step}"))
                self.ended_with_failures.add(facts)
                if not world.failed_branches:
                    self.ended.add(facts)
            for following in () if world.is_final else self.successors(world):
                if following.key() not in seen:
                    seen.add(following.key())
                    stack.append(following)
            if len(seen) > MAX_STATES // 20:
                self.is_too_large = True
                return

    def successors(self, world: RunState) -> Iterator[RunState]:
        ready = world.visits_with_status(VisitStatus.READY)
        for visit in ready if self.in_any_order else ready[:1]:
            key = (visit.step, visit.number, 0)
            running = replace(
                visit, status=VisitStatus.RUNNING, claims=1, fence=visit.fence + 1, started_at=0.0
            )
            begun = replace(world, visits={**world.visits, visit.id: running})
            for deed in self.choices(begun, running):
                yield self.commit(
                    replace(begun, choices={**begun.choices, key: deed}), self.perform(running, deed)
                )

    def choices(self, world: RunState, visit: Visit) -> Iterator[VisitChoice]:
        step = self.plan.steps[visit.step]
        kinds = [("fail", True)]
        if find_refusal(step, visit) is None:
            kinds = [("case", False)]
            if step.run:
                kinds.append(("fail", True))
            if any(case.guard is not None and case.guard.startswith(OPAQUE) for case in step.cases):
                kinds.append(("broken", True))
        for kind, failed in kinds:
            for index in self.chosen(world, step, visit, failed=failed):
                deed = kind, index
                wanted = self.fixed.get(visit.step)
                if wanted is None or wanted == ("fail" if failed else "case", index):
                    yield deed

    def chosen(self, world: RunState, step: Step, visit: Visit, *, failed: bool) -> Iterator[int]:
        refused = step.max_visits is not None and visit.number > step.max_visits
        for index, case in enumerate(step.cases):
            if (failed and not case.error_aware) or (refused and case.leads_back):
                continue
            truth = self.truth(world, case, step, visit, failed=failed)
            if truth is not False:
                yield index if case.guard is not None else -1
            if truth is True:
                return
        yield -1

    def truth(self, world: RunState, case: Case, step: Step, visit: Visit, *, failed: bool) -> bool | None:
        """Return whether a guard is true; `None` if both values are possible."""
        guard = case.guard
        assigned = visit.names.keys() | (set() if failed or not step.run else set(step.saves))
        if guard is None or guard == "{{ result.success }}":
            return not failed
        if guard == "{{ error }}":
            return failed
        if guard.startswith(OPAQUE):
            return None
        word = guard.split()[-3] if "is " in guard else guard.split()[1]
        if guard.endswith("is undefined }}"):
            return "x" not in assigned
        if guard.endswith("is defined }}"):
            name = guard.split(" is ")[0].split()[-1]
            return name in assigned and not ("not error" in guard and failed)
        name = word.split(".")[1]
        pointer = visit.names.get(f"steps.{name}")
        if "visits" in guard:
            return pointer is not None
        return pointer is not None and world.visits[pointer[1]].status is VisitStatus.SUCCEEDED


def analyse(
    drawn: RandomPlaybook, *, with_implications: bool = False
) -> tuple[FactTable, AssignmentSolution]:
    program = build_program(drawn.text)
    table = FactTable(program)
    solution = solve(program, table, step_effects(program, table))
    if with_implications:
        solution = solve(program, table, step_effects(program, table, solution.implications()))
    return table, solution


def keys_of(table: FactTable, facts: FactSet) -> frozenset[str]:
    return frozenset(key for key, bit in table.bits.items() if bit & facts)


def explore(drawn: RandomPlaybook) -> FactExplorer:
    explorer = FactExplorer(drawn)
    explorer.explore()
    assume(not explorer.is_too_large)
    return explorer


@settings(max_examples=80)
@given(drawn_playbooks(tests_facts=True))
def test_must_sets_are_below_and_may_sets_above_all_runs(drawn: RandomPlaybook) -> None:
    explorer, (table, solution) = explore(drawn), analyse(drawn, with_implications=True)
    keys = frozenset(table.bits)
    for step, entered in explorer.entered.items():
        must, may = (keys_of(table, bits[step]) for bits in (solution.must, solution.may))
        assert must & drawn.live_at(step) <= frozenset.intersection(*entered), step
        assert must <= may, step
        assert keys & frozenset.union(*entered) <= may, step
    if explorer.ended:
        assert keys_of(table, solution.end_must) <= keys & frozenset.intersection(*explorer.ended)
    if explorer.ended_with_failures:
        assert keys_of(table, solution.end_must_after_failures) <= keys & frozenset.intersection(
            *explorer.ended_with_failures
        )
        assert keys & frozenset.union(*explorer.ended_with_failures) <= keys_of(table, solution.end_may)


@settings(max_examples=150)
@given(drawn_playbooks(tests_facts=True, is_sequential=True))
def test_must_sets_are_below_and_may_sets_above_all_sequential_runs(drawn: RandomPlaybook) -> None:
    model = StackModel(drawn.plan, drawn.cfg, drawn.joins)
    model.explore()
    assume(not model.is_too_large)
    table, solution = analyse(drawn, with_implications=True)
    keys = frozenset(table.bits)
    for step, entered in model.entered.items():
        must, may = (keys_of(table, facts[step]) for facts in (solution.must, solution.may))
        assert must <= keys & frozenset.intersection(*entered), step
        assert keys & frozenset.union(*entered) <= may, step
    if model.ended:
        assert keys_of(table, solution.end_must) <= frozenset.intersection(*model.ended)
    if model.ended_with_failures:
        ended = model.ended_with_failures
        assert keys_of(table, solution.end_must_after_failures) <= frozenset.intersection(*ended)
        assert keys & frozenset.union(*ended) <= keys_of(table, solution.end_may)


@settings(max_examples=80)
@given(drawn_playbooks(tests_facts=False))
def test_must_and_may_sets_are_exact_on_acyclic_playbooks(drawn: RandomPlaybook) -> None:
    """The sets are exact if guards may have both values and there are no cycles.

    With `join: any`, a branch with a longer path may never arrive first, so `may` is only a bound.
    """
    assume(drawn.is_acyclic)
    explorer, (table, solution) = explore(drawn), analyse(drawn)
    keys = frozenset(table.bits)
    for step, entered in explorer.entered.items():
        live = keys & drawn.live_at(step)
        assert live & keys_of(table, solution.must[step]) == live & frozenset.intersection(*entered), step
        if not drawn.has_races:
            assert live & keys_of(table, solution.may[step]) == live & frozenset.union(*entered), step
    if explorer.ended:
        assert keys_of(table, solution.end_must) == keys & frozenset.intersection(*explorer.ended)
    if explorer.ended_with_failures:
        assert keys_of(table, solution.end_must_after_failures) == keys & frozenset.intersection(
            *explorer.ended_with_failures
        )


def follow(drawn: RandomPlaybook, witness: Witness) -> FactExplorer:
    """Return an explorer of the runs that make the exits of a witness."""
    deeds: dict[str, VisitChoice] = {}
    for move in (*witness.path, *witness.other_exits):
        cases = drawn.plan.steps[move.step].cases
        is_default = move.case is not None and cases[move.case].guard is None
        deeds[move.step] = (
            "fail" if move.failed else "case",
            -1 if move.case is None or is_default else move.case,
        )
    explorer = FactExplorer(drawn, deeds)
    explorer.explore()
    return explorer


@settings(max_examples=80)
@given(drawn_playbooks(tests_facts=False))
def test_witnesses_are_real_runs(drawn: RandomPlaybook) -> None:
    assume(drawn.is_acyclic)
    explorer, (table, solution) = explore(drawn), analyse(drawn)
    for step in explorer.entered:
        for key, fact in table.bits.items():
            if key in drawn.live_at(step) and not solution.must[step] & fact:
                witness = find_witness(solution, step, fact)
                assert witness is not None, (step, key)
                entered = follow(drawn, witness).entered.get(step, set())
                assert any(key not in names for names in entered), (step, key, witness)
    for key, fact in table.bits.items():
        if explorer.ended_with_failures and not solution.end_must_after_failures & fact:
            is_certain = bool(solution.end_must & fact)
            witness = find_end_witness(solution, fact, with_failures=is_certain)
            assert witness is not None, key
            explorer_of_witness = follow(drawn, witness)
            ended = explorer_of_witness.ended_with_failures if is_certain else explorer_of_witness.ended
            assert any(key not in names for names in ended), (key, witness)
