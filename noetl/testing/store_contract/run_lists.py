"""The contract of the lists of `RunStore`: their filters, their order, and the counts of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run, RunStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.run_tags import MAX_TAGS, TagChange
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CHAIN,
    claim_visit,
    current_run,
    end_run,
    failed_checks,
    run_concurrently,
    start_run,
    succeed,
    suspend_claim,
)

SOME_STATUSES: tuple[tuple[RunStatus, ...], ...] = (
    (RunStatus.FAILED, RunStatus.CANCELLED),
    (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING),
    (RunStatus.WAITING, RunStatus.SUCCEEDED),
    (RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.WAITING, RunStatus.FAILED),
    (RunStatus.QUEUED, RunStatus.QUEUED),
    (RunStatus.PAUSED,),
    (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED),
    tuple(RunStatus),
)


class RunListsContract(ContractFixtures):
    """Tests of lists of runs."""

    def test_a_list_has_runs_of_several_statuses(self, store: Store) -> None:
        runs = start_runs_of_all_statuses(store)
        for statuses in SOME_STATUSES:
            expected = [run.id for run, status in reversed(runs) if status in statuses]
            for limit in (1, 3, 100):
                wanted = RunFilter(statuses=statuses, limit=limit)
                assert list_ids(store, wanted) == expected, statuses
                assert list_ids(store, replace(wanted, is_oldest_first=True)) == expected[::-1], statuses

    def test_changed_tags_are_those_of_lists(self, store: Store) -> None:
        run, other = start_run(store, tags=("env=prod", "nightly")), start_run(store, tags=("env=prod",))
        change = TagChange(["env=test", "<b>\x1b[31m"], ["nightly"])
        for _ in range(2):
            tags = store.runs.change_tags("default", run.id, change)
            assert tags == ("env=test", "<b>\x1b[31m")
        assert current_run(store, run).tags == tags
        for tag, ids in (
            ("env", [other.id, run.id]),
            ("env=prod", [other.id]),
            ("env=test", [run.id]),
            ("nightly", []),
            ("<b>\x1b[31m", [run.id]),
        ):
            assert sorted(list_ids(store, RunFilter(tags=(tag,)))) == sorted(ids)
            assert sum(store.runs.count(RunFilter(tags=(tag,)), None, 10).numbers.values()) == len(ids)
        assert store.runs.change_tags("default", run.id, TagChange(remove=["env", "<b>\x1b[31m"])) == ()
        assert current_run(store, run).tags == ()
        assert list_ids(store, RunFilter(tags=("env",))) == [other.id]
        assert failed_checks(store) == []

    def test_tags_of_an_active_run_are_changed_and_stay(self, store: Store) -> None:
        run = start_run(store, "steps: [{name: a, run: [{action: set, set: {n: 1}}]}]")
        claim = claim_visit(store, run)
        assert store.runs.change_tags("default", run.id, TagChange(["a=1"])) == ("a=1",)
        store.queue.commit(succeed(store, claim), 1.0)
        assert end_run(store, run, RunStatus.SUCCEEDED).tags == ("a=1",)
        assert store.runs.change_tags("default", run.id, TagChange(["b"])) == ("a=1", "b")

    def test_concurrent_changes_of_tags_are_all_applied(self, store: Store) -> None:
        run = start_run(store)
        run_concurrently(
            4, lambda n: store.runs.change_tags("default", run.id, TagChange([f"k{n}=1", f"n{n}"]))
        )
        assert sorted(current_run(store, run).tags) == sorted(
            tag for n in range(4) for tag in (f"k{n}=1", f"n{n}")
        )
        assert [len(list_ids(store, RunFilter(tags=(f"k{n}",)))) for n in range(4)] == [1] * 4

    def test_tags_of_unknown_runs_and_too_many_tags(self, store: Store) -> None:
        run = start_run(store, tags=("x",))
        assert store.runs.change_tags("other", run.id, TagChange(["a"])) is None
        assert store.runs.change_tags("default", "unknown", TagChange(["a"])) is None
        with pytest.raises(RejectedError) as rejected:
            store.runs.change_tags("default", run.id, TagChange([f"t{n}" for n in range(MAX_TAGS)]))
        assert rejected.value.reason == "too_many_tags"
        assert current_run(store, run).tags == ("x",)

    def test_a_list_may_begin_with_the_oldest_run(self, store: Store) -> None:
        runs = [start_run(store, now=float(number // 2), tags=["x"]) for number in range(9)]
        expected = [run.id for run in sorted(runs, key=lambda run: (run.created_at, run.id))]
        for conditions in ({}, {"tags": ("x",)}, {"playbook": "play"}, {"since": 0.0, "until": 9.0}):
            for limit in (1, 4, 9, 100):
                wanted = RunFilter(is_oldest_first=True, limit=limit, **conditions)
                assert list_ids(store, wanted) == expected, conditions

    def test_a_run_that_starts_meanwhile_moves_no_page(self, store: Store) -> None:
        runs = [start_run(store, now=float(number)) for number in range(6)]
        newer: list[str] = []

        def start_newer() -> None:
            newer.append(start_run(store, now=50.0 + len(newer)).id)

        newest = list_ids(store, RunFilter(limit=2), after_page=start_newer)
        assert newest == [run.id for run in reversed(runs)]
        oldest = list_ids(store, RunFilter(limit=2, is_oldest_first=True, until=50.0), after_page=start_newer)
        assert oldest == [run.id for run in runs]

    def test_a_list_has_the_runs_whose_id_begins_with_a_text(self, store: Store) -> None:
        runs = [start_run(store, now=float(number), tags=["x"]) for number in range(40)]
        for run in runs[:3]:
            for length in (1, 3, 8, len(run.id)):
                prefix = run.id[:length]
                expected = [other.id for other in reversed(runs) if other.id.startswith(prefix)]
                for conditions in ({}, {"tags": ("x",)}, {"playbook": "play"}, {"text": run.id[:1]}):
                    for limit in (1, 100):
                        wanted = RunFilter(id_prefix=prefix, limit=limit, **conditions)
                        assert list_ids(store, wanted) == expected, conditions
                assert store.runs.count(RunFilter(id_prefix=prefix), None, 1000).total == len(expected)
        queued = RunFilter(id_prefix=runs[0].id[:12], statuses=(RunStatus.QUEUED,))
        assert list_ids(store, queued) == [runs[0].id]
        assert list_ids(store, replace(queued, statuses=(RunStatus.FAILED,))) == []
        for prefix in ("%", "_", "*", "g", f"{runs[0].id}0", runs[0].id.upper() + "x"):
            assert list_ids(store, RunFilter(id_prefix=prefix)) == []
        assert list_ids(store, RunFilter("another", id_prefix=runs[0].id)) == []

    def test_until_excludes_runs_that_were_created_then(self, store: Store) -> None:
        runs = [start_run(store, now=float(number)) for number in range(5)]
        for since, until, numbers in (
            (None, 3.0, [2, 1, 0]),
            (1.0, 3.0, [2, 1]),
            (2.0, 2.0, []),
            (4.0, 1.0, []),
        ):
            wanted = RunFilter(since=since, until=until)
            assert list_ids(store, wanted) == [runs[number].id for number in numbers]
            assert list_ids(store, replace(wanted, is_oldest_first=True)) == [
                runs[number].id for number in reversed(numbers)
            ]

    @pytest.mark.parametrize(
        ("tags", "numbers"),
        [
            (["env"], [3, 1, 0]),
            (["env=prod"], [1, 0]),
            (["env=test"], []),
            (["env=prod", "eu"], [1]),
            (["eu", "env"], [1]),
            (["env", "eu", "team"], []),
            (["team=a=b"], [2]),
            (["team"], [2]),
            (["team=a"], []),
            (["=x"], [2]),
            ([""], []),
            (["é"], [4]),
            (["é=100%_\\ \u202e"], [4]),
            (["en"], []),
            (["ENV"], []),
        ],
    )
    def test_a_tag_is_found_by_its_key_and_by_its_value(
        self, store: Store, tags: list[str], numbers: list[int]
    ) -> None:
        tags_of_runs = (
            ["env=prod", "env=prod"],
            ["env=prod", "eu", "env"],
            ["team=a=b", "=x"],
            ["env"],
            ["é=100%_\\ \u202e", "<b>"],
        )
        runs = [start_run(store, now=float(number), tags=tags) for number, tags in enumerate(tags_of_runs)]
        start_run(store, now=9.0, tags=["env=prod", "eu", "team=a"], tenant="another")
        for limit in (1, 100):
            wanted = RunFilter(tags=tuple(tags), limit=limit)
            assert list_ids(store, wanted) == [runs[number].id for number in numbers]
        assert store.runs.count(wanted, None, 100).total == len(numbers)
        summary = store.runs.summary("default", runs[0].id)
        assert summary is not None
        assert list(summary.tags) == ["env=prod", "env=prod"]

    def test_children_of_a_run_are_listed_in_both_orders(self, store: Store) -> None:
        root = start_run(store, now=1.0)
        parent = WaitKey(root.id, "visit", "wait")
        children = [start_run(store, now=float(number), parent=parent, depth=1) for number in (2, 3, 4)]
        wanted = RunFilter(parent=root.id)
        for limit in (1, 2, 100):
            page = replace(wanted, limit=limit)
            assert list_ids(store, page) == [run.id for run in reversed(children)]
            assert list_ids(store, replace(page, is_oldest_first=True)) == [run.id for run in children]
        assert list_ids(store, replace(wanted, since=3.0, until=4.0)) == [children[1].id]
        assert store.runs.count(wanted, None, 100).total == 3
        assert list_ids(store, replace(wanted, tenant="another")) == []

    @pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.CANCELLED])
    def test_a_text_leaves_runs_with_a_headline_in_question(self, store: Store, status: RunStatus) -> None:
        """Exclude only runs that have no headline. A store does not know headlines."""
        stopped, ended = start_run(store, now=1.0), start_run(store, now=2.0)
        named = start_run(store, "name: '50%_Ökö'" + dedent(CHAIN), now=3.0)
        end_with(store, stopped, status)
        for run in (ended, named):
            end_with(store, run, RunStatus.SUCCEEDED)
        open_run = start_run(store, now=5.0)
        may_have = [open_run.id, stopped.id]
        for text, found in (
            ("", [open_run.id, named.id, ended.id, stopped.id]),
            (ended.id[:8], [open_run.id, ended.id, stopped.id]),
            (ended.id.upper(), [open_run.id, ended.id, stopped.id]),
            (ended.id[1:], may_have),
            ("50%_", [open_run.id, named.id, stopped.id]),
            ("_ÖK", [open_run.id, named.id, stopped.id]),
            ("_ök", may_have),
            ("%", [open_run.id, named.id, stopped.id]),
            ("5.*", may_have),
            ("PLAY", [open_run.id, ended.id, stopped.id]),
            ("x" * 300, may_have),
        ):
            for limit in (1, 100):
                assert list_ids(store, RunFilter(text=text, limit=limit)) == found, text
        oldest = RunFilter(text="PLAY", is_oldest_first=True, limit=1)
        assert list_ids(store, oldest) == [stopped.id, ended.id, open_run.id]

    def test_runs_are_counted_by_status_and_by_time(self, store: Store) -> None:
        runs = start_runs_of_all_statuses(store)
        counts = store.runs.count(RunFilter(), None, 1000)
        assert counts.is_complete
        assert counts.numbers == Counter((0, status) for _, status in runs)
        for statuses in SOME_STATUSES:
            expected = Counter(
                (int(run.created_at // 4), status) for run, status in runs if status in statuses
            )
            counts = store.runs.count(RunFilter(statuses=statuses, limit=1), 4.0, 1000)
            assert (counts.numbers, counts.is_complete) == (expected, True), statuses
        window = store.runs.count(RunFilter(since=2.0, until=5.0, is_oldest_first=True), 1.0, 1000)
        assert {step for step, _ in window.numbers} == {2, 3, 4}
        assert store.runs.count(RunFilter("another"), None, 1000).total == 0

    def test_a_count_is_bounded(self, store: Store) -> None:
        for number in range(12):
            start_run(store, now=float(number), tags=["x"])
        for conditions in ({}, {"tags": ("x",)}, {"statuses": (RunStatus.QUEUED, RunStatus.FAILED)}):
            wanted = RunFilter(**conditions)
            bounded = store.runs.count(wanted, 6.0, 5)
            assert not bounded.is_complete
            assert 5 <= bounded.total <= 6
            assert {step for step, _ in bounded.numbers} == {1}, "the newest are counted"
            assert store.runs.count(wanted, 6.0, 12).is_complete


def list_ids(
    store: Store, run_filter: RunFilter, after_page: Callable[[], object] = lambda: None
) -> list[str]:
    """Return the ids of all pages of a list. Call `after_page` after each page."""
    ids: list[str] = []
    for page in read_pages(store, run_filter):
        assert len(page) <= run_filter.limit
        ids += [run.id for run in page]
        after_page()
    return ids


def read_pages(store: Store, run_filter: RunFilter) -> Iterator[list[RunSummary]]:
    """Yield the pages of a list."""
    while True:
        page, cursor = store.runs.find(run_filter)
        yield page
        if cursor is None:
            return
        run_filter = replace(run_filter, cursor=cursor)


def start_runs_of_all_statuses(store: Store) -> list[tuple[Run, RunStatus]]:
    """Start two runs of each status, the oldest first, and return them with it."""
    statuses = [*RunStatus, *RunStatus]
    runs = [(start_run(store, now=float(number)), status) for number, status in enumerate(statuses)]
    for run, status in runs:
        if status.is_final:
            end_with(store, run, status)
        elif status is not RunStatus.QUEUED:
            claim: Any = claim_visit(store, run, 100.0)
            if status in (RunStatus.WAITING, RunStatus.PAUSED):
                store.queue.commit(suspend_claim(claim), 100.0)
            if status is RunStatus.PAUSED:
                store.pauses.pause(run.id, 100.0)
    return runs


def end_with(store: Store, run: Run, status: RunStatus) -> None:
    """End a run with a status."""
    store.runs.stop(run.id, RunStatus.CANCELLED, 90.0)
    end_run(store, run, status, 90.0)
