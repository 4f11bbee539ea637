from __future__ import annotations

from itertools import pairwise

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from noetl.planner.graph.dominators import immediate_dominators

edges = st.integers(2, 14).flatmap(
    lambda count: st.lists(
        st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3 * count
    )
)


@given(edges)
def test_dominators_are_those_of_networkx(pairs: list[tuple[int, int]]) -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([(str(source), str(target)) for source, target in pairs])
    graph.add_node("0")
    expected = {
        node: dominator for node, dominator in nx.immediate_dominators(graph, "0").items() if node != "0"
    }
    assert immediate_dominators("0", graph.successors, graph.predecessors) == expected


def test_a_vertex_with_many_paths_is_dominated_by_the_last_common_vertex() -> None:
    steps = [str(number) for number in range(20_000)]
    graph: nx.DiGraph[str] = nx.DiGraph([*pairwise(steps), *((step, "handler") for step in steps[5:])])
    dominators = immediate_dominators("0", graph.successors, graph.predecessors)
    assert dominators["handler"] == "5"
    assert dominators["19999"] == "19998"
