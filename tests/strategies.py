"""Random flows, and what happens at each visit of their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from planner.graph import Flow

Chances = Mapping[str, Sequence[int]]
"""For each step a number for each of its visits, which says how its rule goes."""


@st.composite
def flows(draw: st.DrawFn, *, acyclic: bool, max_steps: int = 9) -> Flow:
    """A flow of some steps with up to three cases each, which lead forward only when it is acyclic."""
    names = [f"s{index}" for index in range(draw(st.integers(3, max_steps)))]
    targets = {}
    for index, name in enumerate(names):
        pool = names[index + 1 :] if acyclic else names
        case = st.lists(st.sampled_from(pool), max_size=3, unique=True) if pool else st.just([])
        targets[name] = tuple(map(tuple, draw(st.lists(case, min_size=1, max_size=3))))
    return Flow(names[0], targets)


def chances(flow: Flow) -> st.SearchStrategy[Chances]:
    return st.fixed_dictionaries({step: st.lists(st.integers(0, 11), min_size=1, max_size=3) for step in flow.targets})


def case_taken(flow: Flow, chances: Chances, step: str, visit: int, most_visits: int) -> tuple[str, ...]:
    """Where the branch goes that visits the step for the `visit`th time; past the bound it ends."""
    numbers = chances[step]
    number = numbers[(visit - 1) % len(numbers)]
    cases = flow.targets[step]
    return cases[number % len(cases)] if cases and visit <= most_visits and number < 11 else ()
