"""The chart of a plan: the boxes, marks and edges of a picture, with their sizes but without coordinates.

A chart does not depend on the state of a run. So one layout serves all pictures of all runs of a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.draw.advances import fit_text, text_width
from noetl.planner.draw.jumps import find_jumps, is_large
from noetl.planner.draw.outline import (
    FINALLY,
    Outline,
    guard_text,
    is_error_path,
    make_outline,
    may_match_no_case,
    step_notes,
)
from noetl.planner.plan import Action, Case, Plan, Step, Work

TITLE_SIZE = 12.0
TEXT_SIZE = 11.0
TITLE_LINE = 16.0
TEXT_LINE = 15.0
PADDING = 10.0
GLYPH = 14.0
GAP = 7.0
FRAME = 4.0
"""Distance of the inner frame of a step that calls a playbook, and of the second sheet of a loop."""

JOIN_HEIGHT = 9.0
MIN_WIDTH = 104.0
MAX_TEXT = 216.0
MAX_LABEL = 190.0
RIM = 3.0
"""Height of the progress of a loop on the lower rim of its box."""

COUNT_WIDTH = 38.0
STATE_WIDTH = 120.0
"""Space for the words of a state, such as `will not run, 12 visits`."""

ITEMS_WIDTH = 164.0
"""Space for the words of a loop, such as `4,512 failed, 10,000 of 10,000`."""


class NodeKind(StrEnum):
    STEP = "step"
    GROUP = "group"
    WORK = "work"
    FORK = "fork"
    JUMP = "jump"
    START = "start"
    GOOD_END = "end"
    FAILURE_END = "failure"


@dataclass(frozen=True, slots=True)
class ChartNode:
    """A node. `steps` are the names of the steps that it shows, `position` is the first's in the outline."""

    key: str
    kind: NodeKind
    width: float
    height: float
    title: str = ""
    lines: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    position: int = 0
    line: int = 0
    join: str = ""
    is_loop: bool = False
    calls: bool = False
    end: NodeKind | None = None
    is_finally: bool = False
    is_unreachable: bool = False

    @property
    def top(self) -> float:
        """The height of what stands on the box: the sign of a join, and the second sheet of a loop."""
        return (JOIN_HEIGHT if self.join else 0.0) + (FRAME if self.is_loop else 0.0)


@dataclass(frozen=True, slots=True)
class ChartEdge:
    """An edge from node to node. `routes` are the step and the case that it shows, with the target.

    `number` is the place of the case in a rule of several cases, else 0. The label is the guard. An edge that
    `may_repeat` has space for the count of how often a run took it.
    """

    source: str
    target: str
    label: str = ""
    number: int = 0
    is_error: bool = False
    leads_back: bool = False
    may_repeat: bool = False
    routes: tuple[tuple[str, int, str], ...] = ()

    @property
    def label_width(self) -> float:
        """The width of the number, the guard and the count."""
        width = text_width(self.label, TEXT_SIZE) + (COUNT_WIDTH if self.may_repeat else 0.0)
        return width + (text_width(f"{self.number} ", TEXT_SIZE, bold=True) if self.number else 0.0)


@dataclass(frozen=True)
class Chart:
    """The nodes and edges of the picture of a plan, and its heading.

    In a chart that `is_large`, leaves and labels are placed next to their nodes (see `frames`).
    """

    name: str
    facts: str
    nodes: tuple[ChartNode, ...]
    edges: tuple[ChartEdge, ...]
    has_states: bool = False
    folded: int = field(default=0)
    is_large: bool = False


def make_chart(
    plan: Plan,
    action_types: Mapping[str, ActionDeclaration],
    groups: Iterable[tuple[str, ...]] = (),
    *,
    has_states: bool = False,
) -> Chart:
    """Return the chart of a plan. Each of `groups`, sets of steps, is one node."""
    return _ChartBuilder(plan, make_outline(plan, action_types), tuple(groups), has_states).build()


class _ChartBuilder:
    def __init__(
        self, plan: Plan, shape: Outline, groups: tuple[tuple[str, ...], ...], has_states: bool
    ) -> None:
        self._plan = plan
        self._shape = shape
        self._groups = groups
        self._has_states = has_states
        self._group_of = {name: index for index, group in enumerate(groups) for name in group}
        self._jumps = find_jumps(plan, shape, self._group_of)

    def build(self) -> Chart:
        nodes = [ChartNode("start", NodeKind.START, GLYPH, GLYPH)]
        edges = [ChartEdge("start", self._key(self._plan.header.start))]
        seen: set[int] = set()
        for name in self._shape.order:
            group = self._group_of.get(name)
            if group is None:
                nodes.append(self._step_node(self._plan.steps[name]))
            elif group not in seen:
                seen.add(group)
                nodes.append(self._group_node(self._groups[group]))
            for node, edge in self._cases(self._plan.steps[name]):
                nodes += [node] if node is not None else []
                edges += [edge] if edge is not None else []
        folded = sum(map(len, self._groups))
        header = self._plan.header
        return Chart(
            to_printable(header.name),
            facts_of(self._plan),
            tuple(nodes),
            tuple(_merge_edges(edges)),
            self._has_states,
            folded,
            is_large(self._plan, self._group_of),
        )

    def _key(self, name: str) -> str:
        group = self._group_of.get(name)
        return f"s{self._shape.position[name]}" if group is None else f"g{group}"

    def _box(self, node: ChartNode) -> ChartNode:
        """Return the node with the size of its text."""
        texts = [text_width(node.title, TITLE_SIZE, bold=True)]
        texts += [text_width(line, TEXT_SIZE) for line in node.lines]
        rows = len(node.lines)
        if self._has_states:
            texts.append(ITEMS_WIDTH if node.is_loop else STATE_WIDTH)
            rows += 1
        width = max(*texts, MIN_WIDTH - 2 * PADDING) + 2 * PADDING
        width += (GLYPH + GAP) * (self._has_states + (node.end is not None))
        width += 2 * FRAME * node.calls
        height = TITLE_LINE + TEXT_LINE * rows + PADDING + 4 + 2 * FRAME * node.calls
        return replace(node, width=round(width, 1), height=round(height + node.top, 1))

    def _step_node(self, step: Step) -> ChartNode:
        work = self._shape.summarise_run(step.run, parallel=step.parallel, limit=60)
        return self._box(
            ChartNode(
                key=self._key(step.name),
                kind=NodeKind.STEP,
                width=0,
                height=0,
                title=fit_text(to_printable(step.name), MAX_TEXT, TITLE_SIZE, bold=True),
                lines=tuple(
                    fit_text(line, MAX_TEXT, TEXT_SIZE)
                    for line in (work, *_pack(note for note in step_notes(step) if note != FINALLY))
                    if line
                ),
                steps=(step.name,),
                position=self._shape.position[step.name],
                line=step.line,
                join="each" if step.runs_per_branch else step.join.mode if step.join is not None else "",
                is_loop=step.loop is not None or any(work.loop is not None for work in step.run),
                calls=any(calls_playbook(work, self._shape.action_types) for work in step.run),
                end=self._end_of(step),
                is_finally=step.is_finally_step,
                is_unreachable=step.name in self._shape.unreachable and not step.is_finally_step,
            )
        )

    def _group_node(self, group: tuple[str, ...]) -> ChartNode:
        ordered = sorted(group, key=self._shape.position.__getitem__)
        ends = " … ".join(to_printable(name) for name in (ordered[0], ordered[-1]))
        return self._box(
            ChartNode(
                key=self._key(ordered[0]),
                kind=NodeKind.GROUP,
                width=0,
                height=0,
                title=f"{len(ordered):,} steps",
                lines=(fit_text(ends, MAX_TEXT, TEXT_SIZE),),
                steps=tuple(ordered),
                position=self._shape.position[ordered[0]],
                line=self._plan.steps[ordered[0]].line,
            )
        )

    def _cases(self, step: Step) -> Iterator[tuple[ChartNode | None, ChartEdge | None]]:
        if self._end_of(step) is not None:
            return
        several = len(step.cases) + may_match_no_case(step) > 1
        is_folded = step.name in self._group_of
        for index, case in enumerate(step.cases):
            if not is_folded:
                yield from self._case(step, index, case, several=several)
            elif case.targets:
                yield from ((None, edge) for edge in self._edges_to(self._key(step.name), step, index))
        if may_match_no_case(step) and not is_folded:
            key = self._key(step.name)
            node = _end_node(f"e{key}", NodeKind.GOOD_END)
            label = "otherwise" if several else ""
            yield node, ChartEdge(key, node.key, label, routes=((step.name, -1, ""),))

    def _case(
        self, step: Step, index: int, case: Case, *, several: bool
    ) -> Iterator[tuple[ChartNode | None, ChartEdge | None]]:
        key = self._key(step.name)
        edge = ChartEdge(
            key,
            "",
            fit_text(guard_text(case), MAX_LABEL, TEXT_SIZE) if several else "",
            index + 1 if several else 0,
            is_error_path(case),
            may_repeat=self._has_states and step.cyclic,
            routes=((step.name, index, ""),),
        )
        suffix = f"{key}-{index}"
        if case.work:
            node = self._work_node(f"w{suffix}", case.work)
            yield node, _aim(edge, node.key)
        elif not case.targets:
            node = _end_node(f"e{suffix}", NodeKind.GOOD_END)
            yield node, _aim(edge, node.key)
        elif len(case.targets) == 1 or not several:
            yield from self._arrows(step, index, edge)
        else:
            node = ChartNode(f"f{suffix}", NodeKind.FORK, 44.0, 4.0)
            yield node, _aim(edge, node.key)
            yield from self._arrows(step, index, ChartEdge(node.key, ""))

    def _arrows(
        self, step: Step, index: int, edge: ChartEdge
    ) -> Iterator[tuple[ChartNode | None, ChartEdge]]:
        """Yield the edges of a case from the source of `edge` on, some with the node of a jump."""
        for place, direct in enumerate(self._edges_to(edge.source, step, index)):
            target = direct.routes[0][2]
            if (step.name, target) in self._jumps:
                jump = self._jump_node(f"{self._key(step.name)}-{index}-{place}", target, edge)
                yield jump, replace(_aim(edge, jump.key, direct), label="", number=0)
            else:
                yield None, _aim(edge, direct.target, direct)

    def _edges_to(self, source: str, step: Step, index: int) -> Iterator[ChartEdge]:
        for target in step.cases[index].targets:
            key = self._key(target)
            if key != source or self._group_of.get(step.name) is None:
                yield ChartEdge(
                    source,
                    key,
                    leads_back=self._shape.leads_back(step.name, target),
                    routes=((step.name, index, target),),
                )

    def _end_of(self, step: Step) -> NodeKind | None:
        """Return how the branch ends if it always ends after the step, else None."""
        if any(case.targets or case.work for case in step.cases):
            return None
        if len(step.cases) > 1 or (step.cases and guard_text(step.cases[0]) != "default"):
            return None
        return self._end_after(step.run)

    def _end_after(self, run: tuple[Work, ...]) -> NodeKind:
        fails = any(_fails(work, self._shape.action_types) for work in run)
        return NodeKind.FAILURE_END if fails else NodeKind.GOOD_END

    def _jump_node(self, suffix: str, target: str, edge: ChartEdge) -> ChartNode:
        words = (str(edge.number) if edge.number else "", edge.label, f"\u2192 {to_printable(target)}")
        text = fit_text(" ".join(filter(None, words)), MAX_TEXT, TEXT_SIZE)
        width = round(text_width(text, TEXT_SIZE) + 4, 1)
        return ChartNode(f"t{suffix}", NodeKind.JUMP, width, 16.0, lines=(text,))

    def _work_node(self, key: str, run: tuple[Work, ...]) -> ChartNode:
        text = fit_text(self._shape.summarise_run(run, limit=60), MAX_TEXT, TEXT_SIZE)
        end = self._end_after(run)
        width = text_width(text, TEXT_SIZE) + 2 * PADDING + GLYPH + GAP
        return ChartNode(key, NodeKind.WORK, round(width, 1), 26.0, lines=(text,), end=end)


def facts_of(plan: Plan) -> str:
    """Return the version of a plan and the numbers of its steps, edges, forks and joins as text."""
    steps = plan.steps.values()
    numbers = (
        (len(steps), "step"),
        (sum(len(case.targets) for step in steps for case in step.cases), "edge"),
        (sum(len(case.targets) > 1 for step in steps for case in step.cases), "fork"),
        (sum(step.join is not None for step in steps), "join"),
    )
    counts = ", ".join(f"{number:,} {noun}{'s' * (number != 1)}" for number, noun in numbers if number)
    version = plan.header.version
    return f"version {to_printable(version)} · {counts}" if version else counts


def calls_playbook(work: Work, action_types: Mapping[str, ActionDeclaration]) -> bool:
    """Return whether the work runs another playbook."""
    declaration = action_types.get(work.type) if isinstance(work, Action) else None
    return declaration is not None and declaration.child_run is not None


def _fails(work: Work, action_types: Mapping[str, ActionDeclaration]) -> bool:
    """Return whether the work always fails."""
    declaration = action_types.get(work.type) if isinstance(work, Action) else None
    return declaration is not None and declaration.never_succeeds and work.condition is None


def _pack(notes: Iterable[str]) -> Iterator[str]:
    """Yield the notes, joined to lines that are as long as a box allows."""
    line = ""
    for note in notes:
        longer = f"{line} · {note}" if line else note
        if line and text_width(longer, TEXT_SIZE) > MAX_TEXT:
            yield line
            line = note
        else:
            line = longer
    yield line


def _end_node(key: str, kind: NodeKind) -> ChartNode:
    return ChartNode(key, kind, GLYPH, GLYPH)


def _aim(edge: ChartEdge, target: str, direct: ChartEdge | None = None) -> ChartEdge:
    """Return the edge with a target, and with the routes of the edge that it replaces."""
    if direct is None:
        return replace(edge, target=target)
    return replace(edge, target=target, routes=direct.routes, leads_back=direct.leads_back)


def _merge_edges(edges: Iterable[ChartEdge]) -> Iterator[ChartEdge]:
    """Yield the edges. Those to and from a group that have no label and the same ends are one."""
    merged: dict[tuple[str, str], ChartEdge] = {}
    for edge in edges:
        if edge.label or edge.number or not (edge.source.startswith("g") or edge.target.startswith("g")):
            yield edge
            continue
        ends = (edge.source, edge.target)
        if ends in merged:
            edge = replace(merged[ends], routes=merged[ends].routes + edge.routes)  # noqa: PLW2901
        merged[ends] = edge
    yield from merged.values()
