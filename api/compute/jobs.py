"""The jobs of requests: CPU work as data, which any process can perform.

A job is light if a hop to another process would cost more than the job. Light jobs are performed where they
are. The decision reads sizes only, so it is as cheap for a hostile job.
"""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING, Any, Protocol

from noetl.api.service.compiler import PlaybookCompiler, plan_of
from noetl.api.service.graph_views import PlanDescription, RunGraph
from noetl.api.service.playbooks import describe
from noetl.api.service.views import plan_graph
from noetl.executor.engine.evaluation import Evaluation
from noetl.executor.engine.initial_data import InitialData, InitialValues
from noetl.executor.precedence import wait_for_slice
from noetl.planner.frozen import frozen
from noetl.planner.plan import Plan, Step

if TYPE_CHECKING:
    from noetl.api.service.registry_excerpt import RegistryExcerpt, UsedNames
    from noetl.api.service.run_diff import ComparedPair
    from noetl.planner.continuation.switch_state import Switch, SwitchState
    from noetl.planner.continuation.verdict import SwitchVerdict
    from noetl.planner.draw.layout import Layout
    from noetl.planner.draw.run_marks import DrawnRun

MAX_LIGHT_LENGTH = 8 * 1024
"""Longest text that is compiled where the request is. It takes some 30 ms."""

MAX_LIGHT_EDGES = 100
"""Largest graph that is drawn as Mermaid or JSON where the request is."""

STEPS_OF_PART = 50
JOB_SECONDS = 10.0
PICTURE_SECONDS = 5.0
LAYOUT_SECONDS = 30.0
"""How long dot may last, also where the CPU time of a job is not limited."""


class Job(Protocol):
    """A job. It has no effects, so one that starves is performed again.

    Performing it twice has the same result, if `key` is not None.

    `key` identifies the result, `seconds` limits its CPU time, and `subject` names the work in a problem.
    """

    @property
    def key(self) -> str | None: ...

    @property
    def is_light(self) -> bool: ...

    @property
    def seconds(self) -> float: ...

    @property
    def subject(self) -> str: ...

    def perform(self, compiler: PlaybookCompiler) -> Any:
        """Return the result. It can be pickled, and so can an exception."""
        ...


@frozen
class CompileJob:
    """The packed plan of a text. It is not light if its request needs other processes anyway."""

    text: str | bytes
    may_be_light: bool = True
    subject = "The compilation of the playbook"
    seconds = JOB_SECONDS

    @property
    def key(self) -> str:
        return f"compile:{_digest(self.text)}"

    @property
    def is_light(self) -> bool:
        return self.may_be_light and len(self.text) <= MAX_LIGHT_LENGTH

    def perform(self, compiler: PlaybookCompiler) -> bytes:
        plan = plan_of(compiler.compile(self.text))
        return pack_plan(plan, plan.hash)


@frozen
class UsesJob:
    """The playbooks that a text uses, or None if it has errors."""

    text: str | bytes
    subject = "The compilation of the playbook"
    seconds = JOB_SECONDS

    @property
    def key(self) -> str:
        return f"uses:{_digest(self.text)}"

    @property
    def is_light(self) -> bool:
        return len(self.text) <= MAX_LIGHT_LENGTH

    def perform(self, compiler: PlaybookCompiler) -> UsedNames | None:
        from noetl.api.service.registry_excerpt import find_used_names

        plan = compiler.compile(self.text).plan
        return None if plan is None else find_used_names(plan, compiler.catalogue)


@frozen
class DescribeJob:
    """The description of the plan of a text, as JSON. With `draws`, it has the drawing of the plan.

    `registry` is what the plan is compared with.
    """

    text: str | bytes
    draws: bool = False
    registry: RegistryExcerpt | None = None
    subject = "The compilation of the playbook"
    seconds = JOB_SECONDS

    @property
    def key(self) -> str:
        registry = "" if self.registry is None else self.registry.key
        return f"{'draw' if self.draws else 'describe'}:{registry}:{_digest(self.text)}"

    @property
    def is_light(self) -> bool:
        return not self.draws and len(self.text) <= MAX_LIGHT_LENGTH

    def perform(self, compiler: PlaybookCompiler) -> bytes:
        from noetl.api.http.responses import JsonResponse

        compilation = compiler.compile(self.text)
        plan, diagnostics = plan_of(compilation), compilation.diagnostics
        if self.registry is not None:
            diagnostics = self.registry.extend(plan, diagnostics, compiler.catalogue)
        description = describe(compilation, diagnostics)
        if self.draws:
            drawing, problem = _draw_plan(plan, compiler)
            graph = None if drawing is None else RunGraph(**drawing)
            description = PlanDescription(**vars(description), drawing=graph, drawing_problem=problem)
        return bytes(JsonResponse(description).body)


@frozen
class LayoutJob:
    """The layout of a picture of a plan, whatever the states of its steps. A large plan is folded.

    Groups of steps with one of `failed` or of `opened` are not folded. The plan is packed and the key is
    given, because the thread that passes them on answers all requests.
    """

    key: str
    packed_plan: bytes
    failed: tuple[str, ...]
    opened: tuple[str, ...] = ()
    subject = "The picture"
    seconds = PICTURE_SECONDS
    is_light = False

    def perform(self, compiler: PlaybookCompiler) -> Layout:
        from noetl.api.pictures import LayoutRequest, lay_out

        request = LayoutRequest(
            has_states=True, failed=self.failed, opened=self.opened, seconds=LAYOUT_SECONDS
        )
        return lay_out(unpack_plan(self.packed_plan), compiler.catalogue, request)


@frozen
class GraphJob:
    """The graph of a plan with the states of its steps, as `svg`, `mermaid`, `json` or `coordinates`.

    `layout` is set for `svg` and `coordinates`, and packed like the plan.
    """

    key: str
    edges: int
    packed_plan: bytes
    run: DrawnRun
    format: str
    layout: Layout | None = None
    subject = "The graph"
    seconds = PICTURE_SECONDS

    @property
    def is_light(self) -> bool:
        return self.edges <= MAX_LIGHT_EDGES

    def perform(self, compiler: PlaybookCompiler) -> bytes:
        from noetl.api.http.responses import JsonResponse
        from noetl.planner.draw import mermaid, run_graph, run_marks, svg

        plan = unpack_plan(self.packed_plan)
        if self.layout is not None:
            marks = run_marks.mark_run(plan, self.run)
            if self.format == "svg":
                return svg.write_svg(self.layout, marks).encode()
            return bytes(JsonResponse(run_graph.describe_run_graph(self.layout, marks)).body)
        if self.format == "mermaid":
            return mermaid.draw(plan, compiler.catalogue, self.run.states).encode()
        return bytes(JsonResponse(plan_graph(plan, self.run.states)).body)


@frozen
class InitialDataJob:
    """The evaluation of the environment and the variables of a new run. It may read the time."""

    data: InitialData
    subject = "The evaluation of `environment` and `variables`"
    seconds = JOB_SECONDS
    key = None

    @property
    def is_light(self) -> bool:
        return self.data.is_light

    def perform(self, compiler: PlaybookCompiler) -> InitialValues:
        return self.data.evaluate()


@frozen
class EvaluationJob:
    """The evaluation of expressions that a thread of the service needs. It is packed, as it may be large."""

    packed: bytes
    subject = "The evaluation of the expressions"
    seconds = JOB_SECONDS
    key = None
    is_light = False

    def perform(self, compiler: PlaybookCompiler) -> Any:
        evaluation: Evaluation = pickle.loads(self.packed)  # noqa: S301  This service wrote it.
        return evaluation.evaluate()


@frozen
class SwitchJob:
    """The verdict on a switch of a run to another plan. The plans are packed."""

    packed_plans: tuple[bytes, bytes]
    state: SwitchState
    switch: Switch
    subject = "The verdict on the switch"
    seconds = JOB_SECONDS
    key = None
    is_light = False

    def perform(self, compiler: PlaybookCompiler) -> SwitchVerdict:
        from noetl.planner.continuation.judge import may_continue

        old, new = map(unpack_plan, self.packed_plans)
        return may_continue(old, new, self.state, self.switch, compiler.catalogue)


@frozen
class CompareJob:
    """The differences of two runs, as JSON."""

    pair: ComparedPair
    subject = "The comparison of the runs"
    seconds = JOB_SECONDS
    key = None

    @property
    def is_light(self) -> bool:
        return self.pair.size <= MAX_LIGHT_LENGTH and not self.pair.has_large_values

    def perform(self, compiler: PlaybookCompiler) -> bytes:
        from noetl.api.http.responses import JsonResponse
        from noetl.api.service.run_diff import compare_runs

        return bytes(JsonResponse(compare_runs(self.pair)).body)


def _draw_plan(plan: Plan, compiler: PlaybookCompiler) -> tuple[dict[str, Any] | None, str | None]:
    """Return the drawing of a plan, or the problem if it has none."""
    from noetl.api import graphviz
    from noetl.api.pictures import LayoutRequest, PictureError, lay_out
    from noetl.planner.draw.run_graph import describe_plan_graph

    try:
        layout = lay_out(plan, compiler.catalogue, LayoutRequest(seconds=LAYOUT_SECONDS))
        return describe_plan_graph(layout), None
    except (PictureError, graphviz.GraphvizError) as error:
        message = str(error)
        return None, f"{message[:1].upper()}{message[1:]}."


def graph_key(plan_hash: str, run: DrawnRun, format: str, opened: tuple[str, ...] = ()) -> str:
    """Return the key of the job that draws a run with some groups open.

    The states are joined, because no other thread runs while thousands of them are sorted. They are in the
    order of the plan.
    """
    facts = (run.taken, run.visits, run.last_visits, run.last_taken, run.loops)
    states = "\0".join((*run.states, *run.states.values()))
    text = repr(
        (run.id, run.status, states, [sorted(fact.items()) for fact in facts], sorted(run.left_out), opened)
    )
    return f"graph:{format}:{plan_hash}:{_digest(text)}"


def layout_key(plan_hash: str, failed: tuple[str, ...], opened: tuple[str, ...] = ()) -> str:
    """Return the key of the job that lays out a plan."""
    return f"layout:{plan_hash}:{_digest(repr((failed, opened)))}"


def pack_plan(plan: Plan, plan_hash: str | None = None) -> bytes:
    """Return a plan as bytes for `unpack_plan`, with its hash if it is given.

    The steps are packed in parts, because no other thread runs while a part is packed.
    """
    steps = tuple(plan.steps.items())
    parts = [steps[start : start + STEPS_OF_PART] for start in range(0, len(steps), STEPS_OF_PART)]
    packed = []
    for part in parts:
        wait_for_slice()
        packed.append(pickle.dumps(part, pickle.HIGHEST_PROTOCOL))
    return pickle.dumps((plan.header, plan.tasks, plan.source, plan_hash, packed), pickle.HIGHEST_PROTOCOL)


def unpack_plan(data: bytes) -> Plan:
    """Return the plan of `pack_plan`."""
    header, tasks, source, plan_hash, packed = pickle.loads(data)  # noqa: S301  This service wrote it.
    steps: dict[str, Step] = {}
    for part in packed:
        wait_for_slice()
        steps.update(pickle.loads(part))  # noqa: S301
    plan = Plan(header, steps, tasks, source)
    if plan_hash is not None:
        # That of a large plan takes 50 ms, and no other thread runs for half of it.
        vars(plan)["hash"] = plan_hash
    return plan


def _digest(text: str | bytes) -> str:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()
