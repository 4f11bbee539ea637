"""Lists of runs over HTTP: headlines, filters, the search for text, cursors, counts and the histogram."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.service import overviews, run_lists
from noetl.api.service.headlines import Headline
from noetl.api.service.run_lists import RunListService
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.views import RunHistogram, RunPage, StatusCounts, StepCounts
from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.executor.model.gates import LimitKind, named_gate
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import Claim, Lease, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import RunOverview
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.damage import missing_plan
from noetl.executor.stores.sql import latest_visits, run_list
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.compile import compile_playbook
from noetl.planner.frozen import replace
from noetl.testing.run_harness import FakeClock, RunHarness
from noetl.testing.store_contract.operations import suspend_claim
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

PLAYBOOK = """\
name: Orders
input: {message: {type: string, default: ""}}
steps:
  - name: check
    run: [{action: fail, message: "{{ input.message }}"}]
"""
FINE = "name: fine\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\n"
LIMITED = (
    "name: x\nconcurrency: 1\nsteps: [{name: a, run: [{action: wait, seconds: 60}]}]\n",
    "name: y\nsteps: [{name: a, concurrency: {use: api}, run: [{action: set, set: {n: 1}}]}]\n",
    "name: z\nsteps: [{name: a, rate: {limit: 1, per: 60s}, run: [{action: set, set: {n: 1}}]}]\n",
)
HOSTILE = "<script>alert(1)</script> \x1b[31m\u202e100%_ a.*b \\ '; drop"


async def start(http: httpx.AsyncClient, playbook: str, tags: list[str], **input: Any) -> str:
    response = await http.post(
        "/workflows/run",
        json={"playbook": playbook, "input": input, "tags": tags},
        headers={"Prefer": "wait=25"},
    )
    assert response.status_code == 200, response.text
    workflow_id: str = response.json()["workflow_id"]
    return workflow_id


async def read_page(http: httpx.AsyncClient, **query: Any) -> RunPage:
    response = await http.get("/workflows", params=query)
    assert response.status_code == 200, response.text
    return read_view(RunPage, response.json())


async def list_ids(http: httpx.AsyncClient, **query: Any) -> list[str]:
    return [item.workflow_id for item in (await read_page(http, **query)).items]


async def test_each_run_of_a_list_has_its_headline(http: httpx.AsyncClient) -> None:
    failed = await start(http, PLAYBOOK, [], message="too\x1b[31m small\n<b>")
    fine = await start(http, FINE, [])
    page = await read_page(http)
    headlines = {item.workflow_id: item.headline for item in page.items}
    assert headlines == {failed: "check: too␛[31m small <b>", fine: ""}
    assert {item.workflow_id: item.steps for item in page.items} == {
        failed: StepCounts(done=1, total=1),
        fine: None,
    }
    assert {item.workflow_id: item.step_count for item in page.items} == {failed: None, fine: 1}
    details = (await http.get(f"/workflows/{failed}")).json()
    assert details["headline"] == headlines[failed]


async def test_a_list_is_filtered_by_several_statuses_and_tags(http: httpx.AsyncClient) -> None:
    failed = await start(http, PLAYBOOK, ["env=prod", "eu"], message="no")
    fine = await start(http, FINE, ["env=test", "eu"])
    assert await list_ids(http, status=["failed", "succeeded"]) == [fine, failed]
    assert await list_ids(http, status=["failed", "failed", "queued"]) == [failed]
    assert await list_ids(http, tag="env") == [fine, failed]
    assert await list_ids(http, tag=["eu", "env=prod"]) == [failed]
    assert await list_ids(http, tag=["eu"], status="succeeded", sort="created_at") == [fine]
    assert await list_ids(http, sort="created_at") == [failed, fine]
    assert await list_ids(http, parent=failed) == []


async def test_until_ends_a_list_before_a_time(http: httpx.AsyncClient) -> None:
    first, second = [await start(http, FINE, []) for _ in range(2)]
    (newest, oldest) = (await read_page(http)).items
    assert await list_ids(http, until=newest.created_at) == [first]
    assert await list_ids(http, since=oldest.created_at, until="2999-01-01T00:00:00") == [second, first]
    assert await list_ids(http, since=newest.created_at, until=oldest.created_at) == []


async def test_a_search_finds_literal_text(http: httpx.AsyncClient) -> None:
    """Find it at the beginning of an id, in a playbook, and in a headline, without patterns."""
    hostile = await start(http, PLAYBOOK, [], message=HOSTILE)
    fine = await start(http, FINE, [])
    for text, expected in (
        (fine[:6], [fine]),
        (fine.upper(), [fine]),
        (fine[1:], []),
        ("FIN", [fine]),
        ("orders", [hostile]),
        ("<SCRIPT>", [hostile]),
        ("100%_", [hostile]),
        ("a.*b", [hostile]),
        ("'; drop", [hostile]),
        ("a.b", []),
        ("%", [hostile]),
        ("_", [hostile]),
        ("check: <script>", [hostile]),
        ("\u202e\x00", []),
        ("x" * 200, []),
    ):
        assert await list_ids(http, q=text) == expected, text
    assert await list_ids(http, q="alert", status="succeeded") == []
    counts = (await http.get("/workflows/counts", params={"q": "alert"})).json()
    assert (counts["total"], counts["statuses"]["failed"]) == (1, 1)


async def test_a_cursor_of_another_filter_is_refused(http: httpx.AsyncClient) -> None:
    for _ in range(3):
        await start(http, FINE, ["eu"])
    query: dict[str, Any] = {"limit": 1, "tag": "eu", "status": "succeeded"}
    cursor = (await read_page(http, **query)).next_cursor
    assert cursor is not None
    older = (await list_ids(http, tag="eu"))[1:]
    assert await list_ids(http, **{**query, "limit": 5}, cursor=cursor) == older
    assert await list_ids(http, **query, cursor=cursor, since="2000-01-01T00:00:00Z") == older[:1]
    for changed in (
        {"tag": "us"},
        {"status": "failed"},
        {"sort": "created_at"},
        {"q": "a"},
        {"playbook": "fine"},
    ):
        response = await http.get("/workflows", params={**query, **changed, "cursor": cursor})
        assert_problem(response, 400, "invalid-cursor")
        assert "another list, filter or order" in response.json()["detail"]


async def test_runs_are_counted_by_status_and_interval(http: httpx.AsyncClient) -> None:
    await start(http, PLAYBOOK, ["eu"], message="no")
    await start(http, FINE, ["eu"])
    await start(http, FINE, [])
    counts = read_view(StatusCounts, (await http.get("/workflows/counts")).json())
    assert (counts.total, counts.more) == (3, False)
    assert {name: number for name, number in counts.statuses.items() if number} == {
        "failed": 1,
        "succeeded": 2,
    }
    assert set(counts.statuses) == set(RunStatus)
    tagged = (await http.get("/workflows/counts?tag=eu&status=succeeded")).json()
    assert tagged["total"] == 1
    histogram = read_view(RunHistogram, (await http.get("/workflows/histogram?step=1h&tag=eu")).json())
    assert (histogram.step_seconds, histogram.total, len(histogram.buckets)) == (3600.0, 2, 96)
    numbers = [sum(bucket.statuses.values()) for bucket in histogram.buckets]
    assert sum(numbers) == sum(numbers[-2:]) == 2
    assert set(histogram.buckets[0].statuses) == set(RunStatus)


async def test_the_intervals_of_a_histogram_are_bounded(http: httpx.AsyncClient) -> None:
    base = datetime(2026, 1, 31, 9, 20, tzinfo=UTC)

    async def request(**query: str) -> httpx.Response:
        return await http.get("/workflows/histogram", params=query)

    window = {"since": base.isoformat(), "until": (base + timedelta(hours=1)).isoformat()}
    buckets = (await request(**window, step="15m")).json()["buckets"]
    assert [bucket["start"][11:16] for bucket in buckets] == ["09:15", "09:30", "09:45", "10:00", "10:15"]
    end_of_time = (await request(until="9999-12-31T23:59:59-23:59")).json()["buckets"]
    assert end_of_time[-1]["start"].startswith("9999-12-31T23:")
    assert_problem(await request(**window, step="1s"), 400, "invalid-interval")
    backwards = await request(since=window["until"], until=window["since"])
    assert_problem(backwards, 400, "invalid-interval")
    assert "`since` must be before `until`" in backwards.json()["detail"]
    for step in ("", "0s", "1ms", "367d", "15", "x", "-1h", "9" * 400 + "d"):
        assert_problem(await request(step=step), 400, "invalid-request")
    detail = (await request(step="1ms")).json()["detail"]
    assert detail.endswith("not valid: `1ms` is no duration of whole units, such as `15m`, `1h` or `1d`.")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[TenantServices]:
    with closing(SqliteStore(str(tmp_path / "noetl.db"))) as store:
        yield create_services(store, catalogue())


def start_stored(services: TenantServices, count: int, text: str = FINE) -> list[str]:
    """Start runs that no worker executes, and return their ids, the newest first."""
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    return [services.runs.start(plan, StartRequest()).id for _ in range(count)][::-1]


def read_all(lists: RunListService, wanted: RunFilter) -> list[list[str]]:
    """Return the ids of each page of a list."""
    pages = []
    while True:
        page = lists.page(wanted)
        pages.append([item.workflow_id for item in page.items])
        if page.next_cursor is None:
            return pages
        wanted = RunFilter(
            text=wanted.text,
            limit=wanted.limit,
            is_oldest_first=wanted.is_oldest_first,
            cursor=page.next_cursor,
        )


def test_the_page_of_a_search_ends_before_it_has_too_many_headlines(
    services: TenantServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lists, "MAX_HEADLINES", 3)
    ids = start_stored(services, 8)
    pages = read_all(services.lists, RunFilter(limit=5, text="fine"))
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [id for page in pages for id in page] == ids
    assert [len(page) for page in read_all(services.lists, RunFilter(limit=5))] == [5, 3]
    oldest = read_all(services.lists, RunFilter(limit=2, is_oldest_first=True))
    assert [id for page in oldest for id in page] == ids[::-1]


def test_a_page_of_open_runs_takes_the_same_statements_for_any_number_of_them(
    services: TenantServices,
) -> None:
    store = services.store
    assert isinstance(store, SqliteStore)
    counts = []
    for _ in range(3):
        start_stored(services, 10)
        services.lists.page(RunFilter())  # the plan is read now
        statements: list[str] = []
        store.file.connection().set_trace_callback(statements.append)
        page = services.lists.page(RunFilter(limit=1000))
        store.file.connection().set_trace_callback(None)
        assert {item.headline for item in page.items} == {"waits for a worker"}
        counts.append((len(page.items), len(statements)))
    assert counts == [(10, 3), (20, 3), (30, 3)]


def test_a_page_of_runs_that_wait_at_limits_takes_the_same_statements_for_any_number_of_them(
    services: TenantServices,
) -> None:
    """Count those of runs that wait for a unit of their playbook, of a step, and of a rate."""
    store, counts = services.store, []
    assert isinstance(store, SqliteStore)
    store.gates.set_limit(named_gate("default", "api"), LimitKind.STEPS, 0)
    clock = FakeClock(float(int(store.clock())))
    for _ in range(3):
        for text in LIMITED:
            for _ in range(5):
                RunHarness(store, text, clock=clock).execute_next()
        services.lists.page(RunFilter())  # the plans are read now
        statements: list[str] = []
        store.file.connection().set_trace_callback(statements.append)
        page = services.lists.page(RunFilter(limit=1000))
        store.file.connection().set_trace_callback(None)
        counts.append((len(page.items), len(statements)))
    assert counts == [(15, 5), (30, 5), (45, 5)]
    headlines = {run.id: services.data.headline(run.id).text for run in store.runs.find(RunFilter())[0]}
    assert {item.workflow_id: item.headline for item in page.items} == headlines
    assert sum("ahead" in text for text in headlines.values()) == 27
    assert sum("limit z.a, until" in text for text in headlines.values()) == 14


def test_runs_with_many_steps_are_read_in_batches(
    services: TenantServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overviews, "MAX_READ_STEPS", 2)
    start_stored(services, 5)
    read, read_overviews = list[int](), services.store.visits.overviews

    def record(tenant: str, run_ids: Sequence[str]) -> Mapping[str, RunOverview]:
        read.append(len(run_ids))
        return read_overviews(tenant, run_ids)

    monkeypatch.setattr(services.store.visits, "overviews", record)
    page = services.lists.page(RunFilter())
    assert [item.headline for item in page.items] == ["waits for a worker"] * 5
    assert read == [2, 2, 1]


@pytest.mark.parametrize("free", [0, 1 << 20])
def test_long_journals_are_read_together_if_there_is_room(
    services: TenantServices, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(latest_visits, "MAX_READ_JOURNAL", 10)
    monkeypatch.setattr(latest_visits, "MAX_READ_TOGETHER", free)
    ids, store = start_stored(services, 3), services.store
    for _ in range(2):
        claim = store.queue.claim("service", Lease("worker", 60.0), store.clock())
        assert isinstance(claim, Claim)
        store.queue.commit(suspend_claim(claim), store.clock())
    found = store.visits.overviews("default", ids)
    assert len(found) == (3 if free else 1)
    assert found == {id: store.runs.overview("default", id) for id in found}
    headlines = {item.headline for item in services.lists.page(RunFilter()).items}
    assert len(headlines) == 2
    assert "waits for a worker" in headlines


@pytest.mark.parametrize("is_oldest_first", [False, True])
def test_a_search_reads_a_bounded_number_of_runs_and_continues(
    services: TenantServices, monkeypatch: pytest.MonkeyPatch, is_oldest_first: bool
) -> None:
    monkeypatch.setattr(run_list, "MAX_SEARCHED_RUNS", 4)
    named = FINE.replace("fine", "Needle")
    ids = start_stored(services, 3, named)
    for _ in range(3):
        ids = start_stored(services, 5) + ids
        ids = start_stored(services, 1, named) + ids
    with services.store.database.transaction() as db:  # type: ignore[attr-defined]
        db.execute("update runs set status = 'succeeded', finished_at = 1")
    found = services.store.runs.find(RunFilter(playbook="Needle", is_oldest_first=is_oldest_first))[0]
    for limit in (1, 2, 50):
        wanted = RunFilter(text="needle", limit=limit, is_oldest_first=is_oldest_first)
        pages = read_all(services.lists, wanted)
        assert [id for page in pages for id in page] == [run.id for run in found]
        assert len(pages) >= 3
    counts = services.lists.counts(RunFilter(text="needle"))
    assert (counts.total, counts.more) == (2, True)


def test_counts_say_that_there_are_more(services: TenantServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lists, "MAX_COUNTED", 3)
    start_stored(services, 5)
    assert services.lists.counts(RunFilter()).more
    assert services.lists.histogram(RunFilter(), 60.0).more
    assert not services.lists.counts(RunFilter(statuses=(RunStatus.FAILED,))).more


def test_the_lists_of_a_tenant_have_none_of_another(services: TenantServices) -> None:
    start_stored(services, 3)
    other, mine = services.for_tenant("other"), RunFilter(tenant="default", limit=1)
    assert other.lists.page(mine).items == []
    assert other.lists.counts(mine).total == other.lists.histogram(mine, 60.0).total == 0
    cursor = services.lists.page(mine).next_cursor
    with pytest.raises(RejectedError) as rejected:
        other.lists.page(RunFilter(limit=1, cursor=cursor))
    assert rejected.value.reason == "invalid_cursor"


def test_the_steps_of_few_plans_are_counted_once_for_a_page(
    services: TenantServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lists, "MAX_PLANS", 3)
    context, read = services.lists.context, list[str]()
    runs = [
        RunHarness(context.store, FINE.replace("fine", name), clock=FakeClock(1000.0 + number)).finish().run
        for number, name in enumerate(("unread", "missing", "known", "empty", "known"))
    ]

    def step_names(plan_hash: str) -> tuple[str, ...]:
        read.append(plan_hash)
        if plan_hash == runs[1].plan_hash:
            raise missing_plan(plan_hash)
        return () if plan_hash == runs[3].plan_hash else ("a", "b")

    lists = replace(services.lists, context=replace(context, step_names=step_names))
    counts = {item.workflow_id: item.step_count for item in lists.page(RunFilter()).items}
    assert [counts[run.id] for run in runs] == [None, None, 2, None, 2]
    assert read == [runs[place].plan_hash for place in (4, 3, 1)]


def test_a_cancelled_run_has_a_headline(services: TenantServices) -> None:
    text = """
        steps:
        - {name: a, run: [{action: log, message: a}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: log, message: b}]}
    """
    store = services.store
    reason = error_record(Visit("v", "r", "a", VisitStatus.READY, 1, {}), "RunSuperseded", "r2 is newer")
    found = []
    for error in (None, reason | {"step": None}):
        playing = RunHarness(store, text)
        assert playing.execute_next()
        store.runs.stop(playing.id, RunStatus.CANCELLED, playing.clock(), error)
        assert playing.finish().status is RunStatus.CANCELLED
        (entry,) = services.lists.page(RunFilter(id_prefix=playing.id)).items
        found.append((entry.headline, entry.steps))
    steps = StepCounts(done=1, total=2)
    assert found == [("cancelled after 1 of 2 steps", steps), ("r2 is newer", steps)]
    assert services.lists.counts(RunFilter(text="cancelled after")).total == 1


def test_a_run_that_is_deleted_meanwhile_has_an_empty_headline(services: TenantServices) -> None:
    assert services.data.headline("unknown") == Headline("", None)
