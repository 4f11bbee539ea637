"""The list of all triggers, and the calendar of schedules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.browser import find_barriers, open_page, width_of
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS, register

TEXT = """\
name: calendar/load
version: "1"
triggers:
  - {name: noon, type: schedule, cron: "0 12 * * *", timezone: Asia/Tokyo}
  - {name: often, type: schedule, every: 1m, start: 2039-12-31T00:00:00Z, end: 2040-01-15T00:00:00Z}
steps:
  - name: load
    run: [{action: set, set: {loaded: true}}]
"""
FAILING = """\
name: calendar/broken
version: "1"
triggers: [{name: yearly, type: schedule, cron: "0 0 1 1 *"}]
steps:
  - {name: divide, run: [{action: set, set: {x: "{{ 1 / 0 }}"}}]}
"""
PATH = "/ui/triggers/calendar"
ONE = "playbook=calendar/load&trigger=noon"


@pytest.fixture(autouse=True)
def registered(service: ServedPage) -> Iterator[None]:
    """Playbooks with schedules. What a test has paused is resumed."""
    register(service, TEXT, FAILING)
    yield
    service.http.post("/triggers/calendar/load/noon/resume").raise_for_status()


def fire(service: ServedPage, trigger: str, status: str) -> str:
    answer = service.http.post(f"/triggers/{trigger}/fire", json={})
    assert answer.status_code == 202, answer.text
    service.wait_for(answer.json()["workflow_id"], status)
    return str(answer.json()["workflow_id"])


@pytest.mark.parametrize("options", VIEWS)
def test_a_month_has_runs_and_firings_to_come(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    run_id = fire(service, "calendar/broken/yearly", "failed")
    with open_page(browser, timezone_id="Europe/Berlin", **options) as page:
        page.goto(f"{service.url}{PATH}?playbook=calendar/broken&trigger=yearly")
        link = page.locator(f'a[href="/ui/runs/{run_id}"]').first
        expect(link).to_be_visible()
        assert find_barriers(page, axe) == []
        page.goto(f"{service.url}{PATH}?{ONE}&date=2040-01-01")
        expect(page.get_by_role("heading", name="January 2040")).to_be_visible()
        if "viewport" in options:
            rows = page.get_by_role("table").first.get_by_role("row")
            expect(rows.nth(1)).to_have_text("Sunday 1 January 2040")
            expect(rows.nth(2)).to_contain_text(re.compile("04:00 *calendar/load/noon *Planned"))
        else:
            cell = page.get_by_role("cell").filter(
                has=page.get_by_label("Wednesday 4 January 2040, 1 firing")
            )
            expect(cell).to_contain_text("04:00 noon Planned")
        assert find_barriers(page, axe) == []


@pytest.mark.page_only
def test_the_zone_of_a_trigger_is_chosen(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, timezone_id="America/New_York") as page:
        page.goto(f"{service.url}{PATH}?{ONE}&date=2040-01-01")
        cell = page.get_by_role("cell").filter(has=page.get_by_label("Tuesday 3 January 2040, 1 firing"))
        expect(cell).to_contain_text("22:00")
        zone = page.get_by_label("Times of")
        expect(zone).to_have_value("America/New_York")
        zone.select_option("Asia/Tokyo")
        expect(cell).to_contain_text("12:00")
        expect(page.get_by_role("table", name="times of Asia/Tokyo")).to_be_visible()
        expect(page).to_have_url(re.compile("zone=Asia%2FTokyo"))


@pytest.mark.page_only
def test_a_month_is_used_by_keys(page: Page, service: ServedPage) -> None:
    page.goto(f"{service.url}{PATH}?{ONE}&date=2040-01-01&zone=Asia/Tokyo")
    fourth = page.get_by_label("Wednesday 4 January 2040, 1 firing")
    fourth.focus()
    fourth.press("ArrowRight")
    fifth = page.get_by_label("Thursday 5 January 2040, 1 firing")
    expect(fifth).to_be_focused()
    fifth.press("ArrowDown")
    expect(page.get_by_label("Thursday 12 January 2040, 1 firing")).to_be_focused()
    page.keyboard.press("Enter")
    day = page.get_by_role("region", name="Thursday 12 January 2040")
    expect(day.get_by_role("row").nth(1)).to_contain_text("12:00")
    expect(day.get_by_role("row").nth(1)).to_contain_text("Planned")
    page.keyboard.press("PageDown")
    expect(page.get_by_role("heading", name="February 2040")).to_be_visible()


def test_many_firings_of_a_day_are_one_line(page: Page, service: ServedPage) -> None:
    page.goto(f"{service.url}{PATH}?playbook=calendar/load&trigger=often&date=2040-01-04&view=week&zone=UTC")
    cell = page.get_by_role("cell").filter(has=page.get_by_label("Monday 2 January 2040, 1,160 firings"))
    expect(cell).to_contain_text("1,160× often Planned")
    expect(page.get_by_role("region", name="Schedules")).to_contain_text("firings to come after")
    page.get_by_role("button", name="Previous").click()
    expect(page.get_by_role("heading", name="Week of Monday 26 December 2039")).to_be_visible()
    page.get_by_role("button", name="Month").click()
    expect(page.get_by_role("heading", name="December 2039")).to_be_visible()


def test_the_day_of_a_run_says_how_it_ended(page: Page, service: ServedPage) -> None:
    run_id = fire(service, "calendar/load/noon", "succeeded")
    today = datetime.now(UTC)
    page.goto(f"{service.url}{PATH}?{ONE}&zone=UTC&day={today:%Y-%m-%d}")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=run_id[:8]))
    if datetime.now(UTC).date() > today.date():  # The run was started just after midnight.
        page.goto(f"{service.url}{PATH}?{ONE}&zone=UTC&day={today + timedelta(days=1):%Y-%m-%d}")
    expect(row).to_contain_text("Succeeded")


@pytest.mark.parametrize("options", VIEWS)
def test_all_triggers_are_listed_and_paused(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        page.goto(f"{service.url}/ui/runs")
        page.get_by_role("navigation", name="Views").get_by_role("link", name="Triggers").press("Enter")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="calendar/load/noon"))
        width = width_of(row.get_by_role("button", name="Pause calendar/load/noon"))
        row.get_by_role("button", name="Pause calendar/load/noon").press("Enter")
        resume = row.get_by_role("button", name="Resume calendar/load/noon")
        expect(resume).to_be_visible()
        expect(row).to_contain_text("Paused")
        assert width_of(resume) == width
        assert find_barriers(page, axe) == []
        resume.press("Enter")
        expect(row.get_by_role("button", name="Pause")).to_be_visible()
        page.get_by_role("link", name="Calendar", exact=True).press("Enter")
        expect(page.get_by_role("region", name="Schedules")).to_contain_text("calendar/load/noon")


@pytest.mark.page_only
def test_a_trigger_leads_to_its_calendar(page: Page, service: ServedPage) -> None:
    page.goto(f"{service.url}/ui/playbooks/calendar%2Fload/triggers?trigger=noon")
    page.get_by_role("region", name="Trigger noon").get_by_role("link", name="Calendar", exact=True).click()
    expect(page.get_by_role("region", name="Calendar", exact=True)).to_contain_text(
        "Only calendar/load/noon."
    )
    page.get_by_role("link", name="All schedules").click()
    expect(page.get_by_role("region", name="Schedules")).to_contain_text("calendar/broken/yearly")


@pytest.mark.parametrize("options", VIEWS)
def test_the_list_of_runs_says_which_trigger_has_started_one(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    run_id = fire(service, "calendar/load/noon", "succeeded")
    assert service.http.get("/workflows", params={"id": run_id}).json()["items"][0]["trigger"] == "noon"
    with open_page(browser, **options) as page:
        page.goto(f"{service.url}/ui/runs?playbook=calendar/load&since=all")
        row = page.get_by_role("row").filter(has=page.locator(f'a[href="/ui/runs/{run_id}"]'))
        expect(row).to_be_visible()
        assert find_barriers(page, axe) == []
        if "viewport" not in options:  # A phone has no tags.
            row.get_by_role("link", name="by noon").click()
            expect(page.get_by_role("region", name="Trigger noon")).to_be_visible()
