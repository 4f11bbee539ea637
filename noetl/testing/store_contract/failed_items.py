"""The contract of loops that have failed: what a resume does again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.finished_items import ITEMS, read_records
from noetl.executor.model.visit_transition import ALL_ITEMS
from noetl.executor.stores.interface import Store
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.fixtures import ContractFixtures

SENDS = """
    {mode}
    input: {{wrong: array, list: {{type: array, default: [1, 2, 3, 4, 5, 6]}}}}
    output: {{sent: "{{{{ steps.send.result }}}}"}}
    steps:
    - name: send
      on_error: {on_error}
      loop: {{items: "{{{{ input.list }}}}", {loop}}}
      run:
      - {{action: fail, if: "{{{{ item in input.wrong }}}}", message: "no {{{{ item }}}}"}}
      - {{action: file, append: sent.txt, content: "{{{{ item }}}},"}}
      - {{action: set, set: {{n: "{{{{ item }}}}"}}}}
"""


def start_sends(
    store: Store, folder: Path, *wrong: int, mode: str = "", on_error: str = "abort", loop: str = ""
) -> RunHarness:
    """Execute a run whose loop fails at some items, until it has ended."""
    text = SENDS.format(mode=mode, on_error=on_error, loop=loop or "concurrency: 1")
    return RunHarness(store, text, {"wrong": list(wrong)}, folder=folder).finish()


def sent_items(folder: Path) -> Counter[str]:
    """Return how often each item was sent."""
    path = folder / "sent.txt"
    return Counter(path.read_text().strip(",").split(",") if path.exists() else ())


def resume_all_items(harness: RunHarness) -> RunHarness:
    """Resume a run with all items of its failed loop."""
    marks = {harness.visit("send").id: {ALL_ITEMS: True}}
    values = {"skips": marks, "input": {**harness.run.input, "wrong": []}}
    harness.store.runs.resume(harness.id, harness.clock(), deadline_at=None, values=values)
    return harness


def sent(*items: int) -> dict[str, Any]:
    return {"sent": [{"n": item} for item in items]}


class FailedItemsContract(ContractFixtures):
    """The contract of loops that have failed: what a resume does again."""

    @pytest.mark.parametrize("mode", ["mode: parallel", "mode: sequential"])
    @pytest.mark.parametrize("on_error", ["abort", "continue"])
    @pytest.mark.parametrize("loop", ["concurrency: 3", "batch: 2", "batch: 4, concurrency: 2"])
    def test_a_resume_does_each_item_once(
        self, store: Store, tmp_path: Path, mode: str, on_error: str, loop: str
    ) -> None:
        harness = start_sends(store, tmp_path, 2, 5, mode=mode, on_error=on_error, loop=loop)
        assert harness.status in ("failed", "completed_with_errors")
        harness.resume(wrong=[]).finish()
        assert (harness.status, harness.result) == ("succeeded", sent(1, 2, 3, 4, 5, 6))
        assert sent_items(tmp_path) == dict.fromkeys("123456", 1)
        visit = harness.visit("send")
        assert store.runs.batch_results(harness.id, visit.id, ITEMS) == []
        assert store.maintenance.check_consistency() == []

    def test_the_record_of_a_failure_says_what_is_done(self, store: Store, tmp_path: Path) -> None:
        harness = start_sends(store, tmp_path, 3)
        (record,) = read_records(harness.visit("send")).values()
        assert (record.total, record.done, [*record.open_numbers()]) == (6, [[1, 2]], [3, 4, 5, 6])
        harness.resume(wrong=[5]).finish()
        (record,) = read_records(harness.visit("send")).values()
        assert [*record.open_numbers()] == [5, 6]
        harness.resume(wrong=[]).finish()
        assert sent_items(tmp_path) == dict.fromkeys("123456", 1)

    @pytest.mark.parametrize("mode", ["mode: parallel", "mode: sequential"])
    @pytest.mark.parametrize("loop", ["concurrency: 1", "batch: 2"])
    def test_all_items_are_done_again_on_request(
        self, store: Store, tmp_path: Path, mode: str, loop: str
    ) -> None:
        harness = start_sends(store, tmp_path, 4, mode=mode, loop=loop)
        resume_all_items(harness).finish()
        assert (harness.status, harness.result) == ("succeeded", sent(1, 2, 3, 4, 5, 6))
        assert sent_items(tmp_path) == {"1": 2, "2": 2, "3": 2, "4": 1, "5": 1, "6": 1}

    def test_a_shorter_list_has_no_results_of_earlier_batches(self, store: Store, tmp_path: Path) -> None:
        harness = start_sends(store, tmp_path, 6, loop="batch: 2")
        values: dict[str, Any] = {"skips": {harness.visit("send").id: {ALL_ITEMS: True}}}
        values["input"] = {"wrong": {}, "list": [7, 8, 9]}
        store.runs.resume(harness.id, harness.clock(), deadline_at=None, values=values)
        harness.finish()
        assert (harness.status, harness.result) == ("succeeded", sent(7, 8, 9))

    def test_items_that_were_corrected_are_done_again(self, store: Store, tmp_path: Path) -> None:
        harness = start_sends(store, tmp_path, 5, loop="concurrency: 1")
        harness.resume(wrong=[], list=[1, 20, 3, 40, 5]).finish()
        assert harness.result == sent(1, 20, 3, 40, 5)
        assert sent_items(tmp_path) == dict.fromkeys(["1", "2", "3", "4", "20", "40", "5"], 1)
