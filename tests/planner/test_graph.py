from __future__ import annotations

from textwrap import dedent

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.syntax.models import Playbook
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document
from noetl.planner.syntax.symbols import SymbolTable

TEXT = """
    name: play
    start: b
    tasks: {work: [{action: log, message: ok}]}
    steps:
    - name: a
      run: [work]
    - name: b
      rule:
      - {case: "{{ x }}", run: [c, {step: d}]}
      - {case: "{{ y }}", run: [work, {task: work}, {action: log, message: ok}]}
      - {case: default, run: []}
    - {name: c, rule: [{case: default, run: [b]}]}
    - {name: d, rule: [{case: default, run: [d, e]}]}
    - {name: e, run: [work]}
"""


@pytest.fixture
def playbook() -> Playbook:
    diagnostics = Diagnostics()
    document = read_document(dedent(TEXT), diagnostics)
    assert document is not None
    parsed = parse_playbook(document, catalogue(), diagnostics)
    assert parsed is not None
    return parsed.playbook


@pytest.fixture
def cfg(playbook: Playbook) -> ControlFlowGraph:
    return ControlFlowGraph.build(playbook, SymbolTable.build(playbook))


def test_targets_and_work_of_cases(playbook: Playbook) -> None:
    symbols = SymbolTable.build(playbook)
    cases = symbols.steps["b"].rule or []
    assert [symbols.targets(case) for case in cases] == [("c", "d"), (), ()]
    assert [len(symbols.work(case)) for case in cases] == [0, 3, 0]


def test_targets_and_edges(cfg: ControlFlowGraph) -> None:
    assert cfg.start == "b"
    assert cfg.targets == {
        "a": (),
        "b": (("c", "d"), (), ()),
        "c": (("b",),),
        "d": (("d", "e"),),
        "e": (),
    }
    assert list(cfg.graph.edges) == [("b", "c"), ("b", "d"), ("c", "b"), ("d", "d"), ("d", "e")]


def test_reachable_steps(cfg: ControlFlowGraph) -> None:
    assert cfg.reachable == {"b", "c", "d", "e"}
    assert "a" not in cfg.component_index


def test_components_come_after_those_they_lead_to(cfg: ControlFlowGraph) -> None:
    assert set(cfg.components) == {frozenset("bc"), frozenset("d"), frozenset("e")}
    order = cfg.component_index
    assert all(order[target] <= order[source] for source, target in cfg.graph.edges if source in order)


def test_cyclic_steps_and_back_edges(cfg: ControlFlowGraph) -> None:
    assert {step: cfg.is_cyclic(step) for step in "bcde"} == {"b": True, "c": True, "d": True, "e": False}
    assert cfg.leads_back("b", ("c",))
    assert cfg.leads_back("d", ("e", "d"))
    assert not cfg.leads_back("b", ("d",))
    assert not cfg.leads_back("b", ())


def test_forks(cfg: ControlFlowGraph) -> None:
    assert list(cfg.forks()) == [("b", 0, ("c", "d")), ("d", 0, ("d", "e"))]


def test_an_unknown_start_is_replaced_by_the_first_step(playbook: Playbook) -> None:
    other = playbook.model_copy(update={"start": "nothing"})
    assert ControlFlowGraph.build(other, SymbolTable.build(other)).start == "a"


def test_the_first_of_two_steps_with_one_name_is_used(playbook: Playbook) -> None:
    twice = playbook.model_copy(update={"steps": [*playbook.steps, playbook.steps[0].model_copy()]})
    assert SymbolTable.build(twice).steps["a"] is twice.steps[0]
