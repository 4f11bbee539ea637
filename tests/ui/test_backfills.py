"""Backfills on the page: their progress, and how they are paused, resumed, cancelled and retried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.ui.browser import find_barriers, open_page, width_of
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS, register

TEXT = """\
name: filled
version: "1"
input: {part: {type: string, default: none}}
triggers:
  - {name: nightly, type: schedule, cron: "0 0 * * *", input: {part: "{{ trigger.partition }}"}}
steps:
  - {name: check, run: [{action: wait, seconds: 3600}]}
"""
FAILING = """\
name: unfilled
version: "1"
input: {part: {type: string, default: none}}
triggers:
  - {name: nightly, type: schedule, cron: "0 0 * * *", input: {part: "{{ trigger.partition }}"}}
steps:
  - {name: check, run: [{action: set, set: {x: "{{ 1 / (0 if input.part == 'bad' else 1) }}"}}]}
"""

NUMBERS = count()


def new_partitions() -> list[str]:
    """Return two partitions that no other test has, since each has one run."""
    return [f"part {next(NUMBERS)}" for _ in range(2)]


@pytest.fixture
def backfill(service: ServedPage) -> Iterator[dict[str, Any]]:
    """A backfill whose runs wait for an answer."""
    register(service, TEXT)
    body = {"playbook": "filled", "trigger": "nightly", "partitions": new_partitions(), "limit": 2}
    started = service.http.post("/backfills", json=body).raise_for_status().json()
    yield started
    service.http.post(f"/backfills/{started['id']}/cancel", json={"runs": True})


def open_view(
    page: Page, service: ServedPage, backfill: dict[str, Any], name: str = "filled/nightly"
) -> Locator:
    """Open the tab, and return the row of the backfill."""
    page.goto(f"{service.url}/ui/triggers")
    page.get_by_role("navigation", name="Parts of the triggers").get_by_role("link", name="Backfills").press(
        "Enter"
    )
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=backfill["id"][:8]))
    expect(row).to_contain_text(name)
    return row


@pytest.mark.parametrize("options", VIEWS)
def test_a_backfill_is_paused_resumed_and_cancelled(
    browser: Browser, service: ServedPage, axe: str, backfill: dict[str, Any], options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        row = open_view(page, service, backfill)
        expect(row).to_contain_text("Running")
        expect(row).to_contain_text("2 reached, 2 open, 0 succeeded")
        assert find_barriers(page, axe) == []
        width = width_of(row.get_by_role("button", name="Pause"))
        row.get_by_role("button", name="Pause").press("Enter")
        expect(page.get_by_role("status").filter(has_text="was paused.")).to_be_visible()
        expect(row).to_contain_text("Paused")
        assert width_of(row.get_by_role("button", name="Resume")) == width
        row.get_by_role("button", name="Resume").press("Enter")
        expect(row.get_by_role("button", name="Pause")).to_be_visible()
        row.get_by_role("button", name="Cancel").press("Enter")
        row.get_by_role("button", name="Really cancel").press("Enter")
        expect(row).to_contain_text("Cancelled")
        assert service.http.get(f"/backfills/{backfill['id']}").json()["state"] == "cancelled"


def test_the_failed_runs_of_a_backfill_are_shown_and_retried(
    browser: Browser, service: ServedPage, axe: str
) -> None:
    register(service, FAILING)
    body = {
        "playbook": "unfilled",
        "trigger": "nightly",
        "partitions": [*new_partitions()[:1], "bad"],
        "limit": 2,
    }
    backfill = service.http.post("/backfills", json=body).raise_for_status().json()
    with open_page(browser) as page:
        row = open_view(page, service, backfill, "unfilled/nightly")
        expect(row).to_contain_text("2 reached, 1 succeeded, 1 failed", timeout=30_000)
        expect(row.get_by_role("progressbar")).to_have_attribute("value", "2")
        assert find_barriers(page, axe) == []
        row.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("status").filter(has_text="retries 1 run.")).to_be_visible()
        expect(row.get_by_role("button", name="Retry")).to_be_visible(timeout=30_000)
        row.get_by_role("link", name="bad").click()
        expect(page).to_have_url(re.compile("/ui/runs/[0-9a-f]+$"))


def test_a_service_without_backfills_says_how_to_start_one(browser: Browser, service: ServedPage) -> None:
    with open_page(browser) as page:
        page.route("**/backfills?*", lambda route: route.fulfill(json={"items": [], "next_cursor": None}))
        page.goto(f"{service.url}/ui/triggers/backfills")
        expect(page.get_by_text("There are no backfills.")).to_be_visible()


def test_further_backfills_are_read_and_a_refusal_is_shown(
    browser: Browser, service: ServedPage, backfill: dict[str, Any]
) -> None:
    entries = [{**backfill, "id": f"{number:032x}"[::-1]} for number in range(1, 3)]

    def answer(route: Route) -> None:
        index = 1 if "cursor=" in route.request.url else 0
        route.fulfill(json={"items": [entries[index]], "next_cursor": None if index else "next"})

    with open_page(browser, statuses=[404]) as page:
        page.route("**/backfills?*", answer)
        page.goto(f"{service.url}/ui/triggers/backfills")
        page.get_by_role("button", name="Show more").click()
        rows = page.get_by_role("row").filter(has_text="filled/nightly")
        expect(rows).to_have_count(2)
        rows.nth(1).get_by_role("button", name="Pause").click()
        expect(page.get_by_role("status").filter(has_text="unknown backfill")).to_be_visible()
