"""The contract of the list of open waits: what persons are asked, by expiry, in full pages."""

from __future__ import annotations

import base64
import json
from dataclasses import astuple

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.open_waits import rank_wait
from noetl.executor.model.run import NEVER, Claim, ListedWait, Run, RunStatus, VisitStatus, WaitKey
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    CYCLE,
    DIAMOND,
    claim_visit,
    end_run,
    run_concurrently,
    start_run,
    succeed,
    suspend_claim,
)

WRONG_PLACES: list[object] = [
    None,
    True,
    [],
    {},
    "1",
    [1],
    [1, "r", "v"],
    ["1x", "r", "v", "w"],
    [1, 2, "v", "w"],
    [1, "r", None, "w"],
    [1, "\ud800", "v", "w"],
    [10**400, "r", "v", "w"],
    [1e300, "r", "v", "w"],
    [float("nan"), "r", "v", "w"],
]
"""Content of cursors that no list has written."""


def open_ranked(store: Store, claim: Claim, *ranks: float) -> list[WaitKey]:
    """Open a wait for each rank, with a token of its id, and suspend the visit until one is answered."""
    visit = claim.visit
    ids = [f"w{number}#{rank:g}" for number, rank in enumerate(ranks)]
    for id, rank in zip(ids, ranks, strict=True):
        store.waits.open_wait(claim, id, f"{visit.run_id} {visit.id} {id}", None, rank)
    store.queue.commit(suspend_claim(claim, *ids), 1.0)
    return [WaitKey(visit.run_id, visit.id, id) for id in ids]


def start_suspended(store: Store, *ranks: float, tenant: str = "default") -> tuple[Run, list[WaitKey]]:
    """Start a run whose first visit asks a question for each rank."""
    run = start_run(store, tenant=tenant)
    return run, open_ranked(store, claim_visit(store, run), *ranks)


def answer(store: Store, key: WaitKey, now: float = 5.0) -> None:
    store.waits.answer_wait(key, None, "yes", now)


def list_open(store: Store, tenant: str = "default") -> list[WaitKey]:
    waits, cursor = store.waits.find_open(tenant)
    assert cursor is None
    return [wait.key for wait in waits]


class OpenWaitsContract(ContractFixtures):
    """Tests of the list of open waits."""

    def test_a_suspended_visit_is_listed_with_its_wait(self, store: Store, second: Store) -> None:
        assert store.waits.find_open("default") == ([], None)
        run, (key,) = start_suspended(store, 60.0)
        for used in (store, second):
            (listed,), cursor = used.waits.find_open("default")
            assert (listed.key, listed.rank, listed.playbook) == (key, 60.0, run.playbook)
            assert (listed.plan_hash, cursor) == (run.plan_hash, None)
            visit = listed.visit
            assert (visit.id, visit.run_id, visit.step, visit.number) == (key.visit_id, run.id, "a", 1)
            assert (visit.status, visit.saved, visit.result) == (VisitStatus.WAITING, {}, None)
            assert visit.progress is not None
            assert visit.progress.journal == {"run": {"at": 0}}

    def test_a_later_visit_of_a_step_has_its_number(self, store: Store) -> None:
        run = start_run(store, CYCLE)
        for _ in range(2):
            store.queue.commit(succeed(store, claim_visit(store, run, 1.0)), 1.0)
        open_ranked(store, claim_visit(store, run, 1.0), 60.0)
        (listed,), _ = store.waits.find_open("default")
        assert (listed.visit.step, listed.visit.number) == ("a", 2)

    def test_a_question_is_listed_while_other_branches_work(self, store: Store) -> None:
        run = start_run(store, DIAMOND)
        store.queue.commit(succeed(store, claim_visit(store, run)), 1.0)
        (key,) = open_ranked(store, claim_visit(store, run, 1.0), 60.0)
        claim_visit(store, run, 1.0)
        summary = store.runs.summary("default", run.id)
        assert summary is not None
        assert summary.status is RunStatus.RUNNING
        assert list_open(store) == [key]

    def test_what_expires_first_comes_first(self, store: Store) -> None:
        never = [rank_wait(NEVER, opened_at) for opened_at in (3.0, 1.0)]
        _, first = start_suspended(store, 50.0, never[0], 10.5)
        _, second = start_suspended(store, 20.0, never[1], 10.0)
        expected = [second[2], first[2], second[0], first[0], second[1], first[1]]
        assert list_open(store) == expected

    def test_pages_are_full_and_neither_skip_nor_repeat(self, store: Store) -> None:
        ranks = (1.0, 1.0, 2.0, NEVER, NEVER)
        opened = [
            pair for _ in range(3) for pair in zip(ranks, start_suspended(store, *ranks)[1], strict=True)
        ]
        expected = sorted(opened, key=lambda pair: (pair[0], *astuple(pair[1])))
        for number in range(4):  # questions of ended runs, of unfinished first visits, and answered ones
            run, keys = start_suspended(store, 1.0, 2.0)
            answer(store, keys[0])
            store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
            end_run(store, run, RunStatus.CANCELLED, 3.0)
            claim = claim_visit(store, start_run(store))
            store.waits.open_wait(claim, "early", f"early {number}", None, 1.5)
        for limit in (1, 2, 4, 7, 15, 100):
            found: list[ListedWait] = []
            cursor = None
            while True:
                page, cursor = store.waits.find_open("default", limit=limit, cursor=cursor)
                found += page
                if cursor is None:
                    break
                assert len(page) == limit
            assert [(wait.rank, wait.key) for wait in found] == expected

    def test_a_page_ends_where_the_journals_of_its_visits_are_too_long(self, store: Store) -> None:
        lengths = (400, 30, 30, 30, 500, 30)
        for rank, length in enumerate(lengths):
            claim = claim_visit(store, start_run(store))
            store.waits.open_wait(claim, "w", f"token {rank}", None, float(rank))
            store.queue.commit(suspend_claim(claim, "w", memory="x" * length), 1.0)
        pages: list[list[float]] = []
        cursor = None
        while cursor is not None or not pages:
            page, cursor = store.waits.find_open("default", limit=4, cursor=cursor, journal_bytes=350)
            pages.append([wait.rank for wait in page])
        assert pages == [[0.0], [1.0, 2.0, 3.0], [4.0], [5.0]]
        (only,), cursor = store.waits.find_open("default", limit=1, journal_bytes=350)
        assert (only.rank, cursor is not None) == (0.0, True)

    def test_an_answer_or_its_end_removes_a_question(self, store: Store) -> None:
        run, (first, second, third) = start_suspended(store, 10.0, 20.0, 30.0)
        answer(store, second)
        assert list_open(store) == [first, third]
        store.waits.close_wait(first, 6.0)
        assert list_open(store) == [third]
        claim = claim_visit(store, run, 6.0)
        # The visit runs, and may suspend again: its other question is still open.
        assert list_open(store) == [third]
        store.queue.commit(succeed(store, claim), 7.0)
        assert list_open(store) == []

    def test_a_run_that_stops_asks_nothing_until_it_is_resumed(self, store: Store) -> None:
        run, keys = start_suspended(store, 10.0, 20.0)
        _, (other,) = start_suspended(store, 15.0)
        answer(store, keys[0])
        store.runs.stop(run.id, RunStatus.CANCELLED, 6.0)
        assert list_open(store) == [other]
        end_run(store, run, RunStatus.CANCELLED, 7.0)
        for _ in range(2):  # A reader may tidy up.
            assert list_open(store) == [other]
        store.runs.resume(run.id, 8.0, deadline_at=None, values={})
        assert list_open(store) == [other, keys[1]]
        answer(store, keys[1], 9.0)
        assert list_open(store) == [other]

    def test_a_paused_run_still_asks(self, store: Store) -> None:
        run, (key,) = start_suspended(store, 10.0)
        store.pauses.pause(run.id, 2.0)
        assert list_open(store) == [key]
        store.pauses.unpause(run.id, 3.0)
        assert list_open(store) == [key]
        store.pauses.pause(run.id, 4.0)
        answer(store, key)
        assert list_open(store) == []

    def test_a_deleted_run_asks_nothing(self, store: Store) -> None:
        run, _ = start_suspended(store, 10.0)
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        end_run(store, run, RunStatus.CANCELLED, 3.0)
        store.maintenance.delete_run("default", run.id)
        assert list_open(store) == []

    def test_each_tenant_has_its_own_list(self, store: Store) -> None:
        _, mine = start_suspended(store, 10.0, 20.0, tenant="mine")
        _, theirs = start_suspended(store, 15.0, tenant="theirs")
        assert (list_open(store, "mine"), list_open(store, "theirs"), list_open(store)) == (mine, theirs, [])
        _, cursor = store.waits.find_open("mine", limit=1)
        assert [wait.key for wait in store.waits.find_open("theirs", cursor=cursor)[0]] == theirs

    def test_a_child_run_is_no_question(self, store: Store) -> None:
        run = start_run(store)
        store.queue.commit(suspend_claim(claim_visit(store, run), "child"), 1.0)
        assert list_open(store) == []

    def test_each_of_two_answers_at_once_removes_the_question(self, store: Store, second: Store) -> None:
        _, keys = start_suspended(store, *map(float, range(6)))

        def give(index: int) -> None:
            answer(second if index % 2 else store, keys[index])

        run_concurrently(5, give)
        assert list_open(store) == list_open(second) == keys[5:]

    @pytest.mark.parametrize("place", WRONG_PLACES)
    def test_cursors_of_no_list_are_refused(self, store: Store, place: object) -> None:
        cursor = base64.urlsafe_b64encode(json.dumps(place).encode()).decode()
        for text in (cursor, f"{cursor}é", "!", "\0"):
            with pytest.raises(RejectedError) as rejected:
                store.waits.find_open("default", cursor=text)
            assert rejected.value.reason == "invalid_cursor"
