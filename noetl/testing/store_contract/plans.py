"""The contract of `PlanStore`."""

from __future__ import annotations

import pytest

from noetl.executor.errors import StoreError
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import CHAIN, CYCLE, DIAMOND


class PlansContract(ContractFixtures):
    """Tests of plans."""

    # Plans

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND, CYCLE])
    def test_a_plan_is_read_as_it_was_saved(self, store: Store, text: str) -> None:
        plan = compile_text(text)
        store.plans.save(plan)
        store.plans.save(plan)
        stored = store.plans.get(plan.hash)
        assert stored.to_json() == plan.to_json()
        assert stored.hash == plan.hash
        assert stored.source == plan.source
        assert list(stored.steps) == list(plan.steps)
        assert store.plans.step_names(plan.hash) == tuple(plan.steps)
        assert store.plans.header(plan.hash) == plan.header
        assert all(store.plans.step(plan.hash, name) == step for name, step in plan.steps.items())

    def test_every_part_of_a_plan_is_stored(self, store: Store) -> None:
        plan = compile_text("""
            name: "Ünïcode \U0001f600"
            version: "3"
            input: {a: {type: integer, default: 1, enum: [1, 2]}, b: string}
            environment: {url: "x/{{ input.b }}"}
            variables: {v: [1, 2.5, null, {x: true}]}
            timeout: 1h
            retry: {attempts: 3, delay: 1s, if: "{{ error.status == 500 }}"}
            tasks:
            - name: t
              parallel: true
              run: [{action: log, message: "{{ args.x }}"}, {action: set, set: {y: 1}}]
            steps:
            - name: Run Import
              run:
              - {task: t, with: {x: 1}, if: "{{ v }}", as: z, on_error: continue}
              - {action: fail, message: no, timeout: 2s}
              rule:
              - {case: error, run: [{action: log, message: "{{ steps['Run Import'].visits }}"}]}
              - {case: "{{ y }}", run: []}
              timeout: 3s
              on_error: continue
            output: {y: "{{ y | default(0) }}"}
        """)
        store.plans.save(plan)
        assert store.plans.get(plan.hash).to_json() == plan.to_json()
        assert store.plans.get(plan.hash).hash == plan.hash
        assert store.plans.task(plan.hash, "t") == plan.tasks["t"]

    def test_an_unknown_plan_is_reported(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.plans.header("0" * 64)
