"""The picture of the states shows the table of the executor."""

from __future__ import annotations

from noetl.executor.model.run import VisitStatus
from noetl.executor.model.visit_states import COMBINED, TRANSITIONS, VisitTrigger
from noetl.infra.state_diagram import (
    combined_rows,
    draw_mermaid,
    edges,
    functions_of_triggers,
    transition_rows,
)


def test_the_picture_has_an_arrow_for_each_pair_of_states() -> None:
    picture = draw_mermaid().splitlines()
    pairs = {
        ("[*]" if before is None else before.value, after.value)
        for before, row in TRANSITIONS.items()
        for after in row.values()
    }
    arrows = [line.split(":")[0].strip() for line in picture if ":" in line]
    assert sorted(arrows) == sorted(f"{before} --> {after}" for before, after in pairs)
    assert "    succeeded --> [*]" in picture
    assert "    failed --> [*]" not in picture


def test_every_trigger_labels_an_arrow() -> None:
    picture = draw_mermaid()
    assert [trigger for trigger in VisitTrigger if trigger.value not in picture] == []


def test_every_transition_is_made_by_a_function() -> None:
    functions = functions_of_triggers()
    assert [trigger for trigger, names in functions.items() if not names] == []
    assert functions[VisitTrigger.CLAIM] == ["claim"]
    assert functions[VisitTrigger.RETRY] == ["build_commit"]


def test_the_table_for_readers_has_every_row() -> None:
    rows = [
        (name, trigger, after) for names, trigger, after, _ in transition_rows() for name in names.split(", ")
    ]
    expected = [
        ("(no visit)" if before is None else before.value, trigger.value, after.value)
        for before, trigger, after in edges()
    ]
    assert sorted(rows) == sorted(expected)


def test_combined_transitions_are_seen_as_one() -> None:
    rows = list(combined_rows())
    assert len(rows) == len(COMBINED)
    assert rows[0] == ("branch enters the step", "claimed", f"(no visit) → {VisitStatus.RUNNING.value}")
