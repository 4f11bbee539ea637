"""The report of `noetl plan --explain-joins`: why a step is a join, or why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import networkx as nx

from noetl.planner.diagnostics.wording import as_code, join_words
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import JoinFinder
from noetl.planner.graph.joins import ROOT
from noetl.planner.plan import Plan

ARROW = " → "


@dataclass(frozen=True, slots=True)
class JoinExplanation:
    """The reason why a step with several incoming edges is a join, or why it is not.

    `join` is the mode of a join or multi-merge, else None. `dominator` is the step after which the arriving
    branches separated (None: the start of the run). For a join, `fork` is a forking step of which two
    branches can arrive, and `paths` are their paths. For other steps, `merged_at` are the steps at which the
    branches of earlier forks have merged.
    """

    step: str
    join: str | None
    dominator: str | None
    fork: str | None = None
    paths: tuple[tuple[str, ...], ...] = ()
    merged_at: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The explanation as a sentence."""
        dominator = "the start of the run" if self.dominator is None else f"`{self.dominator}`"
        if self.join is not None:
            behaviour = _BEHAVIOUR[self.join]
            if self.fork is None:
                return f"{behaviour}: branches that separate after {dominator} arrive at different times"
            return f"{behaviour}: two branches of the fork at `{self.fork}` can arrive"
        if self.merged_at:
            steps = join_words(as_code(self.merged_at), "and")
            return f"no join: the branches of all forks before it have merged at {steps}"
        why = f"no fork after {dominator} has two branches that lead here"
        return f"no join: at most one branch arrives, because {why}"

    def to_json(self) -> dict[str, Any]:
        """Return the explanation as the object that `plan --format json` prints."""
        return {
            "step": self.step,
            "join": self.join,
            "since": self.dominator,
            "fork": self.fork,
            "ways": [list(path) for path in self.paths],
            "together": list(self.merged_at),
            "reason": self.reason,
        }


_BEHAVIOUR = {
    "all": "waits for all branches",
    "any": "continues with the first branch",
    "each": "runs for each branch",
}


def explain_joins(plan: Plan) -> tuple[JoinExplanation, ...]:
    """Explain every step that has several incoming edges or is a join, in the order of the text."""
    steps = plan.steps
    targets = {name: tuple(case.targets for case in step.cases) for name, step in steps.items()}
    modes = {
        name: step.join.mode
        for name, step in steps.items()
        if step.join is not None and step.join.mode != "all"
    }
    modes |= dict.fromkeys((name for name, step in steps.items() if step.runs_per_branch), "each")
    finder = JoinFinder(ControlFlowGraph(plan.header.start, targets), modes)
    finder.solve()
    return tuple(_explain_steps(plan, finder))


def render_explanations(explanations: Sequence[JoinExplanation]) -> str:
    """Return the explanations as text: one line each, followed by the paths to a join."""
    if not explanations:
        return "no step has more than one incoming edge\n"
    lines = []
    for explanation in explanations:
        lines.append(f"{explanation.step}: {explanation.reason}")
        lines += (f"  {ARROW.join(path)}" for path in explanation.paths)
    return "\n".join(lines) + "\n"


def _explain_steps(plan: Plan, finder: JoinFinder) -> Iterator[JoinExplanation]:
    for name, step in plan.steps.items():
        if name not in finder.graph:
            continue
        join = "each" if step.runs_per_branch else step.join.mode if step.join is not None else None
        if join is None and finder.graph.in_degree(name) < 2:
            continue
        dominator = finder.dominators.get(name) or finder.region_dominator(name)
        region = finder.region_of.get(name)
        yield _explain(
            finder, name, join, dominator, finder.region(dominator, name) if region is None else region
        )


def _explain(
    finder: JoinFinder, step: str, join: str | None, dominator: str, region: frozenset[str]
) -> JoinExplanation:
    inside = region | {step}
    last = finder.last_post_dominators(step, inside)
    shown_dominator = None if dominator == ROOT else dominator
    merged_at: dict[str, None] = {}
    forks = sorted(finder.forks_in_region(step, dominator, region), key=lambda fork: finder.preorder[fork[0]])
    for fork, group in forks:
        for left, right in combinations(group, 2):
            if last[left] == last[right]:
                merged_at[last[left]] = None
            elif join is not None:
                paths = tuple(
                    (fork, *_shortest_path(finder, target, step, inside)) for target in (left, right)
                )
                return JoinExplanation(step, join, shown_dominator, fork, paths)
    return JoinExplanation(
        step, join, shown_dominator, merged_at=() if join is not None else tuple(merged_at)
    )


def _shortest_path(finder: JoinFinder, start: str, step: str, inside: frozenset[str]) -> Sequence[str]:
    return nx.shortest_path(finder.graph.subgraph(inside), start, step)
