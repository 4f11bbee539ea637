"""The contract of steps whose work a resume leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.model.run import RunStatus
from noetl.executor.model.visit_transition import read_left_out
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.fixtures import ContractFixtures

FAILS = """
    {mode}
    output: {{page: "{{{{ page }}}}", size: "{{{{ size }}}}", taken: "{{{{ taken | default('none') }}}}"}}
    steps:
    - name: fork
      rule: [{{case: default, run: [load, other]}}]
    - name: load
      on_error: {on_error}
      run:
      - {{action: file, read: missing.json, format: json, as: page}}
      - {{action: set, set: {{size: "{{{{ page.rows | length }}}}"}}}}
      rule:
      - {{case: "{{{{ size > 1 }}}}", run: [big]}}
      - {{case: default, run: [small]}}
    - {{name: big, run: [{{action: set, set: {{taken: big}}}}], rule: [{{case: default, run: [meet]}}]}}
    - {{name: small, run: [{{action: set, set: {{taken: small}}}}], rule: [{{case: default, run: [meet]}}]}}
    - {{name: other, run: [{{action: log, message: x}}], rule: [{{case: default, run: [meet]}}]}}
    - {{name: meet, run: [{{action: log, message: "met {{{{ page | default('') }}}}"}}]}}
"""


def skip_steps(harness: RunHarness, requester: str | None = "eve", **results: Any) -> RunHarness:
    """Resume a run without the work of its last visits of these steps."""
    skips = {harness.visit(step).id: {"result": result, "by": requester} for step, result in results.items()}
    harness.store.runs.resume(harness.id, harness.clock(), deadline_at=None, values={"skips": skips})
    return harness


class SkipsContract(ContractFixtures):
    """The contract of steps whose work a resume leaves out."""

    @pytest.mark.parametrize("mode", ["mode: parallel", "mode: sequential"])
    @pytest.mark.parametrize("on_error", ["abort", "continue"])
    @pytest.mark.parametrize(("rows", "taken"), [([1], "small"), ([1, 2], "big")])
    def test_a_failed_step_is_left_out(
        self, store: Store, mode: str, on_error: str, rows: list[int], taken: str
    ) -> None:
        harness = RunHarness(store, FAILS.format(mode=mode, on_error=on_error)).finish()
        assert harness.status in ("failed", "completed_with_errors")
        skip_steps(harness, load={"rows": rows}).finish()
        expected = {"page": {"rows": rows}, "size": len(rows), "taken": taken}
        assert (harness.status, harness.result) == ("succeeded", expected)
        (skipped,) = (event for event in harness.events if event.type == "step.skipped")
        assert (skipped.step, skipped.payload) == ("load", {"by": "eve"})
        overview = store.runs.overview(harness.tenant, harness.id)
        assert overview is not None
        assert read_left_out(overview.steps["load"].latest) == {"by": "eve"}
        assert [read_left_out(steps.latest) for steps in overview.steps.values()].count(None) >= 1
        types = [type for type in harness.event_types("load") if type.startswith("step.")]
        assert types[-4:] == [
            "step.started",
            "step.skipped",
            "step.transition",
            "step.completed",
        ]
        assert store.maintenance.check_consistency() == []

    def test_a_later_resume_performs_the_step_again(self, store: Store) -> None:
        harness = RunHarness(store, FAILS.format(mode="mode: parallel", on_error="abort")).finish()
        skip_steps(harness, requester=None, load={"rows": 5}).finish()
        assert harness.error_types == ["TemplateError"]
        (skipped,) = (event for event in harness.events if event.type == "step.skipped")
        assert skipped.payload == {}
        assert read_left_out(harness.visit("load")) is None
        harness.resume().finish()
        assert harness.error_types == ["FileError"]
        skip_steps(harness, load={"rows": []}).finish()
        assert (harness.status, harness.result["taken"]) == ("succeeded", "small")

    def test_a_parked_step_that_waits_is_left_out(self, store: Store) -> None:
        text = """
            output: {x: "{{ x }}", steps: "{{ steps.ask.result }}"}
            steps:
            - name: ask
              run: [{action: wait, seconds: 3600}]
              rule: [{case: default, run: [use]}]
            - {name: use, run: [{action: set, set: {x: "{{ steps.ask.result }}"}}]}
        """
        harness = RunHarness(store, text)
        harness.execute_next()
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        before = harness.clock()
        skip_steps(harness, ask="yes").finish()
        assert (harness.status, harness.result) == ("succeeded", {"x": "yes", "steps": "yes"})
        assert harness.clock() - before < 3600

    def test_several_steps_are_left_out(self, store: Store) -> None:
        text = """
            on_error: continue
            steps:
            - {name: fork, rule: [{case: default, run: [a, b]}]}
            - {name: a, run: [{action: fail, message: "no", as: x}], rule: [{case: default, run: [meet]}]}
            - {name: b, run: [{action: fail, message: "no", as: y}], rule: [{case: default, run: [meet]}]}
            - {name: meet, run: [{action: set, set: {z: "{{ x + y }}"}}]}
        """
        harness = RunHarness(store, text).finish()
        skip_steps(harness, a=1, b=2).finish()
        assert (harness.status, harness.result) == ("succeeded", {"x": 1, "y": 2, "z": 3})
