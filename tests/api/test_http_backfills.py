"""Backfills over HTTP: starts, lists, changes and problems."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from noetl.api.service.backfill_views import BackfillEntry, BackfillPage
from noetl.executor.model.backfills import BackfillState
from tests.api.responses import assert_problem, read_view

pytestmark = pytest.mark.anyio

TEXT = """\
name: team/load
version: "1"
input: {day: {type: string}}
triggers:
  - {name: nightly, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin,
     input: {day: "{{ trigger.partition or trigger.local[:10] }}"}}
  - {name: after, type: webhook, path: load, auth: {scheme: api_key}, input: {day: none}}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.day }}"}}]
"""
MARCH = {"playbook": "team/load", "trigger": "nightly", "from": "2025-03-01", "to": "2025-03-04T00:00:00Z"}


@pytest.fixture
async def service(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Service with the playbook `team/load`."""
    response = await http.post("/playbooks", json={"playbook": TEXT})
    assert response.status_code == 201, response.text
    yield http


async def start(service: httpx.AsyncClient, **members: Any) -> BackfillEntry:
    response = await service.post("/backfills", json={**MARCH, **members})
    assert response.status_code == 201, response.text
    entry = read_view(BackfillEntry, response.json())
    assert response.headers["Location"] == f"/backfills/{entry.id}"
    return entry


async def test_a_backfill_is_started_and_shown(service: httpx.AsyncClient) -> None:
    entry = await start(service, limit=2, redo="failed")
    assert (entry.playbook, entry.trigger, entry.version) == ("team/load", "nightly", "1")
    assert (entry.start_at, entry.end_at) == ("2025-02-28T23:00:00.000000Z", "2025-03-04T00:00:00.000000Z")
    assert (entry.partitions, entry.limit, entry.redo) == (3, 2, "failed")
    shown = read_view(BackfillEntry, (await service.get(f"/backfills/{entry.id}")).json())
    assert (shown.id, shown.created_at) == (entry.id, entry.created_at)


async def test_backfills_are_listed_in_pages(service: httpx.AsyncClient) -> None:
    ids = [
        (await start(service)).id,
        (await start(service, every="12h")).id,
        (await start(service, partitions=["eu", 7], **{"from": None, "to": None})).id,
    ]
    first = read_view(BackfillPage, (await service.get("/backfills", params={"limit": 2})).json())
    following = {"limit": 2, "cursor": first.next_cursor}
    second = read_view(BackfillPage, (await service.get("/backfills", params=following)).json())
    assert [entry.id for entry in (*first.items, *second.items)] == ids[::-1]
    assert [entry.partitions for entry in (*first.items, *second.items)] == [2, 7, 3]
    assert second.next_cursor is None
    wrong = await service.get("/backfills", params={"cursor": "x"})
    assert_problem(wrong, 400, "invalid-cursor")


async def test_a_repeated_start_is_one_backfill(service: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await service.post("/backfills", json=MARCH, headers=headers)
    again = await service.post("/backfills", json=MARCH, headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert ("Idempotency-Replayed" in first.headers, again.headers["Idempotency-Replayed"]) == (False, "true")
    other = await service.post("/backfills", json={**MARCH, "limit": 2}, headers=headers)
    assert_problem(other, 422, "idempotency-key-reused")


async def test_a_backfill_is_paused_resumed_and_cancelled(service: httpx.AsyncClient) -> None:
    entry = await start(service)
    path = f"/backfills/{entry.id}"
    for action, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running")):
        response = await service.post(f"{path}/{action}")
        assert (response.status_code, response.json()["state"]) == (200, state), response.text
    assert_problem(await service.post(f"{path}/retry"), 409, "backfill-open")
    cancelled = await service.post(f"{path}/cancel", json={"runs": True})
    assert cancelled.json()["state"] == BackfillState.CANCELLED
    assert (await service.post(f"{path}/cancel")).json()["state"] == "cancelled"
    for action in ("pause", "resume"):
        assert_problem(await service.post(f"{path}/{action}"), 409, "backfill-ended")


async def test_a_retry_needs_failed_runs(service: httpx.AsyncClient) -> None:
    entry = await start(service)
    await service.post(f"/backfills/{entry.id}/cancel")
    response = await service.post(f"/backfills/{entry.id}/retry", json={"fresh": True})
    assert response.status_code == 409
    assert response.json()["type"].rpartition(":")[2] in ("backfill-open", "backfill-ended")


@pytest.mark.parametrize(
    ("members", "slug", "detail"),
    [
        ({"to": "2025-02-01"}, "invalid-backfill", "`from` must be before `to`"),
        ({"from": "yesterday"}, "invalid-backfill", "`from` must be a time"),
        ({"to": "2990-01-01"}, "invalid-backfill", "must not be in the future"),
        ({"partitions": ["a"]}, "invalid-backfill", "contradicts"),
        ({"partitions": ["a", "a"], "from": None, "to": None}, "invalid-backfill", "duplicate partition `a`"),
        ({"trigger": "after"}, "invalid-backfill", "is of type `webhook`"),
        ({"limit": 0}, "invalid-body", "limit"),
        ({"every": "0s"}, "invalid-body", "every"),
        ({"redo": "some"}, "invalid-body", "redo"),
        ({"partitions": "a"}, "invalid-body", "partitions"),
        ({"partitions": [True]}, "invalid-body", "partitions"),
        ({"since": "2025-01-01"}, "invalid-body", "since"),
    ],
)
async def test_a_wrong_start_is_refused(
    service: httpx.AsyncClient, members: dict[str, Any], slug: str, detail: str
) -> None:
    response = await service.post("/backfills", json={**MARCH, **members})
    assert_problem(response, 422, slug)
    assert detail in response.json()["detail"]


async def test_what_does_not_exist_is_not_found(service: httpx.AsyncClient) -> None:
    assert_problem(await service.post("/backfills", json={**MARCH, "trigger": "x"}), 404, "not-found")
    assert_problem(await service.get("/backfills/x"), 404, "not-found")
    for action in ("pause", "resume", "cancel", "retry"):
        assert_problem(await service.post(f"/backfills/x/{action}"), 404, "not-found")
