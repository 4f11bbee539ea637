"""Random pairs of plans, states of their runs, and an oracle for switches.

Problem: a verdict on a switch claims something about all runs that follow.

Algorithm: property-based testing against explicit-state exploration. A pair is a random playbook and one to
three random changes of it. The states are those of random runs of the old plan, between two visits. The
oracle explores all orders and all choices of the new plan from the state that `carry` returns.

Cost: exponential in the number of branches. At most `MAX_EXPLORED` states are explored for each switch.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from noetl.executor.actions import catalogue
from noetl.executor.model.plan_switch import CarriedRun, carry
from noetl.executor.model.run import Branch, Commit, Run, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords, read_switch_state
from noetl.executor.model.transition import merge_names
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.switch_state import Switch, SwitchState
from noetl.planner.plan import Plan
from tests.state_space import RunState, StateSpaceExplorer, VisitChoice

MAX_EXPLORED = 600
FAILURES = 0.05
RENAMES = 0.07
TRIES = 8
FACTS = {"a": "{{ input.m == 'a' }}", "b": "{{ input.m == 'b' }}"}
"""Guards about the input. In every run, `m` is `a`."""
NAMES = ("x", "y", "z")
Sketch = dict[str, dict[str, Any]]
"""A playbook to be: for each step its saved names, its reads, its cases, its join mode and its bound."""
_FINDINGS = {"NP202", "NP205", "NP301", "NP302", "NP303", "NP306", "NP307"}


class UnsoundError(AssertionError):
    """A run after a switch does what it must not do."""


class TooManyStatesError(Exception):
    """An exploration has reached `MAX_EXPLORED` states."""


def random_sketch(rng: random.Random) -> Sketch:
    """Return a random playbook."""
    size = rng.randint(4, 8)
    names = [f"s{index}" for index in range(size)]
    sketch: Sketch = {}
    for index, name in enumerate(names):
        later = names[index + 1 : index + 5]
        number = rng.choice((1, 1, 2, 2)) if later else 0
        sizes = [min(len(later), rng.choice((1, 1, 2, 2, 3))) for _ in range(number)]
        cases = [sorted(rng.sample(later, size)) for size in sizes]
        sketch[name] = {"saves": [], "reads": [], "cases": cases, "join": "all", "bound": None}
        sketch[name]["fact"] = rng.choice((None, "a", "b"))
        if not index:
            sketch[name]["saves"] = rng.sample(NAMES, rng.randint(0, 2))
        elif rng.random() < 0.3:
            sketch[name]["saves"] = [rng.choice(NAMES)]
        if rng.random() < 0.4:
            sketch[name]["reads"] = [rng.choice(NAMES)]
        if rng.random() < 0.08:
            sketch[name]["join"] = rng.choice(("any", "each"))
    if rng.random() < 0.25:
        add_cycle(rng, sketch)
    return sketch


def add_cycle(rng: random.Random, sketch: Sketch) -> None:
    names = list(sketch)
    last = rng.randrange(1, len(names))
    first = rng.randrange(last)
    sketch[names[last]]["cases"].insert(0, [names[first]])
    sketch[names[first]]["bound"] = rng.choice((2, 3))


def mutate(rng: random.Random, sketch: Sketch) -> tuple[Sketch, dict[str, str]]:
    """Return the playbook after one to three random changes, and the steps that were renamed."""
    changed, renamed = copy.deepcopy(sketch), dict[str, str]()
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(rng, changed, renamed)
    return changed, renamed


def _change(rng: random.Random, sketch: Sketch, renamed: dict[str, str]) -> None:
    name, target = rng.choice(list(sketch)), rng.choice(list(sketch))
    if rng.random() < RENAMES and name not in renamed.values() and name[0] == "s":
        _rename(sketch, name, f"r{name}")
        renamed[name] = f"r{name}"
    else:
        rng.choice(CHANGES)(rng, sketch, name, target)


def _insert(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    new = f"n{len(sketch)}{rng.randrange(100)}"
    for step in sketch.values():
        if rng.random() < 0.7:
            step["cases"] = [[new if old == name else old for old in case] for case in step["cases"]]
    saves = [rng.choice(NAMES)] if rng.random() < 0.3 else []
    sketch[new] = {"saves": saves, "fact": None, "reads": [], "cases": [[name]], "join": "all", "bound": None}


def _delete(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    if len(sketch) < 4:
        return
    following = sketch.pop(name)["cases"][:1]
    for step in sketch.values():
        step["cases"] = [
            sorted({*case, *(following[0] if name in case and following else ())} - {name})
            for case in step["cases"]
        ]


def _retarget(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    case = rng.choice(sketch[name]["cases"] or [[]])
    if case and target not in case:
        case[rng.randrange(len(case))] = target


def _add_target(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    case = rng.choice(sketch[name]["cases"] or [[]])
    if target not in case:
        case.append(target)


def _drop_target(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    case = rng.choice(sketch[name]["cases"] or [[]])
    if case:
        case.pop(rng.randrange(len(case)))


def _fork_or_choose(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    cases = sketch[name]["cases"]
    if len(cases) == 1 and len(cases[0]) > 1:
        sketch[name]["cases"] = [[only] for only in cases[0]]
    elif len(cases) > 1:
        sketch[name]["cases"] = [sorted({old for case in cases for old in case})]


def _change_mode(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    sketch[name]["join"] = rng.choice(("all", "any", "each"))


def _change_bound(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    sketch[name]["bound"] = rng.choice((None, 1, 2, 3))


def _add_cycle(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    add_cycle(rng, sketch)


def _move_saves(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    saves, sketch[name]["saves"] = sketch[name]["saves"], []
    sketch[target]["saves"] = sorted({*sketch[target]["saves"], *saves})


def _change_saves(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    saves = sketch[name]["saves"]
    sketch[name]["saves"] = sorted({*saves, rng.choice(NAMES)}) if rng.random() < 0.5 else []


def _change_fact(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    sketch[name]["fact"] = rng.choice((None, "a", "b"))


def _add_read(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    sketch[name]["reads"] = sorted({*sketch[name]["reads"], rng.choice(NAMES)})


def _swap(rng: random.Random, sketch: Sketch, name: str, target: str) -> None:
    for key in ("saves", "reads", "cases"):
        sketch[name][key], sketch[target][key] = sketch[target][key], sketch[name][key]


def _rename(sketch: Sketch, name: str, new: str) -> None:
    items = [(new if key == name else key, value) for key, value in sketch.items()]
    sketch.clear()
    sketch.update(items)
    for step in sketch.values():
        step["cases"] = [[new if old == name else old for old in case] for case in step["cases"]]


CHANGES: tuple[Callable[[random.Random, Sketch, str, str], None], ...] = (
    _insert,
    _delete,
    _retarget,
    _retarget,
    _add_target,
    _drop_target,
    _fork_or_choose,
    _change_mode,
    _change_bound,
    _add_cycle,
    _move_saves,
    _change_saves,
    _add_read,
    _change_fact,
    _swap,
)


def write_playbook(sketch: Sketch, on_error: str, mode: str = "parallel") -> str:
    """Return the text of a playbook. A guard is about the input, or it is open: every case can be taken."""
    steps = []
    for name, step in sketch.items():
        run: list[Any] = [
            {"action": "log", "message": "".join(f"{{{{ {read} }}}}" for read in step["reads"]) or name}
        ]
        if step["saves"]:
            run.append({"action": "set", "set": dict.fromkeys(step["saves"], f"{{{{ run.id }}}} {name}")})
        fact = step.get("fact")
        guards = [FACTS[fact] if fact else "{{ run.id }}", "{{ run.started_at }}", "{{ run.playbook }}"]
        rule = [
            {"case": "default" if index == len(step["cases"]) - 1 else guards[index % 3], "run": case}
            for index, case in enumerate(step["cases"])
        ]
        data: dict[str, Any] = {"name": name, "run": run}
        if rule:
            data["rule"] = rule
        if step["join"] != "all":
            data["join"] = step["join"]
        if step["bound"]:
            data["max_visits"] = step["bound"]
        steps.append(data)
    head = {"name": "play", "input": {"m": "string"}, "on_error": on_error, "mode": mode}
    return json.dumps({**head, "steps": steps})


def compile_sketch(sketch: Sketch, on_error: str, mode: str = "parallel") -> Plan | None:
    """Return the plan, or None if the playbook has a finding that the theorem excludes."""
    compilation = compile_playbook(write_playbook(sketch, on_error, mode), catalogue())
    if compilation.plan is None or any(finding.code in _FINDINGS for finding in compilation.diagnostics):
        return None
    return compilation.plan


@dataclass(frozen=True)
class SwitchCase:
    """A run of the plan `old` in a state, which is to continue in the plan `new`."""

    old: Plan
    new: Plan
    state: RunState
    switch: Switch

    @property
    def records(self) -> RunRecords:
        waves = {join: wave for join, (_, wave) in self.state.joins.items()}
        arrivals = {join: tuple(arrived.values()) for join, arrived in self.state.arrivals.items() if arrived}
        stack = self.state.stack if self.old.header.sequential else None
        visits = list(self.state.visits.values())
        return RunRecords(a_run(self.old), visits, arrivals, waves, stack=stack)

    def read_state(self) -> SwitchState:
        return read_switch_state(self.records, self.old, self.new)

    def carry(self) -> CarriedRun:
        return carry(self.old, self.new, self.records, self.switch, 0.0)


def a_run(plan: Plan) -> Run:
    inputs = {"m": "a"}
    return Run(
        "r",
        "default",
        "play",
        None,
        plan.hash,
        RunStatus.RUNNING,
        "test",
        "service",
        inputs,
        {},
        {},
        (),
        None,
        0.0,
    )


class SwitchExplorer(StateSpaceExplorer):
    """An explorer that starts in any state, and that checks the reads of each visit."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, concurrent=frozenset(plan.steps))

    def choices(self, state: RunState, visit: Visit) -> Iterator[VisitChoice]:
        step = self.plan.steps[visit.step]
        if step.max_visits is not None and visit.number > step.max_visits:
            yield "fail", -1
            return
        for index, case in enumerate(step.cases):
            if case.guard == FACTS["b"]:
                continue
            yield "case", index
            if case.guard == FACTS["a"]:
                return
        if not step.cases:
            yield "case", 0

    def perform(self, visit: Visit, choice: VisitChoice) -> Commit:
        step = self.plan.steps[visit.step]
        if choice[0] == "case":
            missing = [name for name in step.reads if name not in visit.names]
            if missing:
                raise UnsoundError(f"`{visit.step}` reads {missing} without a value")
        return super().perform(visit, choice)

    def enter(self, state: RunState, branch: Branch) -> RunState:
        step = self.plan.steps[branch.step]
        if branch.id in state.visits:
            raise UnsoundError(f"the id of a visit of `{branch.step}` is taken")
        if not step.cyclic and state.counts.get(branch.step, 0):
            raise UnsoundError(f"`{branch.step}` is done twice")
        return super().enter(state, branch)

    def explore(self, first: RunState) -> list[RunState]:
        """Return the final states. Only one visit runs at a time: commits are atomic."""
        seen = {first.key()}
        stack, finals = [first], []
        while stack:
            state = stack.pop()
            if state.is_final:
                finals.append(state)
            for following in self.moves(state):
                if following.key() not in seen:
                    seen.add(following.key())
                    stack.append(following)
            if len(seen) > MAX_EXPLORED:
                raise TooManyStatesError
        return finals

    def moves(self, state: RunState) -> Iterator[RunState]:
        for visit in state.visits_with_status(VisitStatus.READY):
            key = (visit.step, visit.number, visit.attempt * 2)
            for choice in [state.choices[key]] if key in state.choices else list(self.choices(state, visit)):
                try:
                    commit = self.perform(visit, choice)
                    yield self.commit(replace(state, choices={**state.choices, key: choice}), commit)
                except UnsoundError:
                    raise
                except AssertionError as broken:
                    raise UnsoundError(str(broken) or "a join waits for less than no branch") from broken

    def check(self, first: RunState, since: int = 0) -> None:
        """Explore all that follows from a state. Two last writes with one clock after `since` are a race.

        Raises:
            UnsoundError: a run does what it must not do.
        """
        is_unordered = any(
            step.runs_per_branch or (step.join is not None and step.join.mode == "any")
            for step in self.plan.steps.values()
        )
        results: dict[Any, Any] = {}
        for final in self.explore(first):
            if final.stop is not None:
                continue
            self.check_end(final)
            if not is_unordered:
                _check_writes(final, since)
                seen = _observe(final)
                choices = tuple(sorted(final.choices.items()))
                if results.setdefault(choices, seen) != seen:
                    raise UnsoundError("the result depends on an order")

    def check_end(self, final: RunState) -> None:
        waiting = [join for join, arrived in final.arrivals.items() if arrived]
        if waiting or final.live:
            raise UnsoundError(f"branches are stuck at {waiting}, {final.live} are live")
        if any(count for count, _ in final.joins.values()):
            raise UnsoundError("a counter of a join is not 0")


def _check_writes(final: RunState, since: int) -> None:
    """Check that the clocks decide which write of a name is the last one. Otherwise a hash does."""
    last: dict[str, list[int]] = {}
    for visit in final.visits.values():
        for name in () if visit.has_ended_branch or visit.clock <= since else visit.saved:
            last.setdefault(name, []).append(visit.clock)
    for name, clocks in last.items():
        if clocks.count(max(clocks)) > 1:
            raise UnsoundError(f"a hash decides on `{name}`")


def _observe(final: RunState) -> Any:
    visits = final.visits.values()
    writes = [(visit.clock, visit.id, visit.saved) for visit in visits if not visit.has_ended_branch]
    names = sorted(
        (visit.step, visit.number, sorted((n, p[1]) for n, p in visit.names.items())) for visit in visits
    )
    return merge_names(writes), names


def random_states(rng: random.Random, plan: Plan, walks: int) -> list[RunState]:
    """Return states of random runs of a plan, between two visits."""
    explorer = SwitchExplorer(plan)
    states: dict[Any, RunState] = {}
    for _ in range(walks):
        state = explorer.initial_state()
        for _ in range(30):
            if state.is_final and state.stop is None:
                break
            states[state.key()] = state
            if state.stop is not None:
                break
            ready = rng.choice(state.visits_with_status(VisitStatus.READY))
            choice = rng.choice(list(explorer.choices(state, ready)))
            if rng.random() < FAILURES:
                choice = ("fail", -1)
            key = (ready.step, ready.number, ready.attempt * 2)
            state = explorer.commit(
                replace(state, choices={**state.choices, key: choice}), explorer.perform(ready, choice)
            )
    return list(states.values())


def carried_state(case: SwitchCase, carried: CarriedRun) -> RunState:
    """Return the state of the new plan, as a store would hold it after the switch."""
    before = case.state.visits
    visits = {
        id: replace(visit, step=case.switch.renamed.get(visit.step, visit.step))
        for id, visit in before.items()
    }
    visits |= {visit.id: visit for visit in carried.visits}
    counts: dict[str, int] = {}
    for visit in visits.values():
        counts[visit.step] = counts.get(visit.step, 0) + 1
    for step, count in carried.counts.items():
        if counts.get(step, 0) != count:
            raise UnsoundError(f"the visits of `{step}` are miscounted")
    return RunState(
        visits,
        counts,
        {} if case.new.header.sequential else dict(carried.joins),
        {join: {branch.id: branch for branch in arrived} for join, arrived in carried.arrivals.items()},
        dict(carried.clocks),
        carried.live,
        stack=carried.stack,
    )


def check_branches(case: SwitchCase, carried: CarriedRun) -> None:
    """Check that no branch is lost, except those that joins have merged.

    Raises:
        UnsoundError: a branch is lost.
    """
    position = case.read_state()
    waiting = sum(branch.has_arrived for branch in position.branches)
    if carried.live < len(position.branches) + position.in_line - waiting:
        raise UnsoundError("a branch is lost")


def check_bounds(case: SwitchCase, state: RunState) -> None:
    """Check that no visit which goes on exceeds its bound.

    Raises:
        UnsoundError: a visit does.
    """
    for visit in state.visits.values():
        if case.records.is_live(visit):
            bound = case.new.steps[visit.step].max_visits
            if bound is not None and visit.number > bound:
                raise UnsoundError(f"the bound of `{visit.step}` ends the run at once")


def find_violation(case: SwitchCase) -> str | None:
    """Return what a run does after a switch that it must not do, or None.

    Raises:
        TooManyStatesError: there are too many states.
    """
    return find_violation_after(case, None)


def find_violation_after(case: SwitchCase, carried: CarriedRun | None) -> str | None:
    """Return the same for a run that was carried in another way than `carry` does.

    Raises:
        TooManyStatesError: there are too many states.
    """
    try:
        live = [visit for visit in case.state.visits.values() if case.records.is_live(visit)]
        if any(case.switch.renamed.get(visit.step, visit.step) not in case.new.steps for visit in live):
            return "a step is missing"
        carried = carried or case.carry()
        explorer, state = SwitchExplorer(case.new), carried_state(case, carried)
        check_branches(case, carried)
        check_bounds(case, state)
        since = max(visit.clock for visit in case.state.visits.values())
        explorer.check(state if case.state.stop is None else explorer.resume(state), since)
    except UnsoundError as unsound:
        return str(unsound)
    except KeyError as missing:
        return f"a step is missing: {missing}"
    return None


def random_cases(seed: int, mode: str = "parallel") -> list[SwitchCase]:
    """Return switches from states of one random pair of plans; none if a plan of the pair has findings."""
    rng = random.Random(seed)
    old = new = None
    on_error = rng.choice(("abort", "abort", "continue"))
    while old is None:
        sketch = random_sketch(rng)
        old = compile_sketch(sketch, on_error, mode)
    for _ in range(TRIES):
        changed, renamed = mutate(rng, sketch)
        new = compile_sketch(changed, on_error, mode)
        if new is not None and new.hash != old.hash:
            break
    else:
        return []
    switch = Switch(
        {before: after for before, after in renamed.items() if after in new.steps and before in old.steps}
    )
    explorer = SwitchExplorer(new)
    try:
        explorer.check(explorer.initial_state())
        states = random_states(rng, old, 4)
    except (TooManyStatesError, UnsoundError):
        return []
    rng.shuffle(states)
    return [SwitchCase(old, new, state, switch) for state in states[:4]]
