"""The open runs of a playbook on its page: how many may continue in a version, and their migration."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import APPROVED, VIEWS, register, version_of

FLOWN = APPROVED.replace("name: approved", "name: flown")
CORRECTED = FLOWN.replace('"1"', '"2"').replace("{{ x }}", "{{ x + 1 }}")
RENAMED = FLOWN.replace('"1"', '"3"').replace("name: ask", "name: question").replace("[ask]", "[question]")


def open_flight(page: Page, service: ServedPage, version: str) -> None:
    page.goto(f"{service.url}/ui/playbooks/flown/versions/{version}")
    page.get_by_role("link", name="Runs in flight").click()
    expect(page.get_by_role("button", name="Migrate them")).to_have_accessible_description(
        "check first which runs may continue"
    )


@pytest.fixture
def waiting(service: ServedPage) -> list[str]:
    """The open runs of a playbook: two that wait."""
    register(service, FLOWN, CORRECTED, RENAMED)
    return [service.start(FLOWN, "waiting") for _ in range(2)]


@pytest.fixture(autouse=True)
def ended(service: ServedPage) -> None:
    """The end of the open runs of an earlier test."""
    service.http.post("/workflows/bulk/cancel", params={"playbook": "flown"}).raise_for_status()


@pytest.mark.parametrize("options", VIEWS)
def test_open_runs_are_checked_and_migrated(
    browser: Browser, service: ServedPage, waiting: list[str], axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        open_flight(page, service, "2")
        report = page.get_by_role("region", name="Runs in flight")
        page.get_by_role("button", name="Check").press("Enter")
        expect(report).to_contain_text("2 runs may continue in this version")
        assert [version_of(service, run_id) for run_id in waiting] == ["1", "1"]
        assert find_barriers(page, axe) == []
        page.get_by_role("button", name="Migrate them").press("Enter")
        page.get_by_role("button", name="Migrate all that may").press("Enter")
        expect(report).to_contain_text("2 runs continue in this version.")
    assert [version_of(service, run_id) for run_id in waiting] == ["2", "2"]


def test_runs_that_may_not_continue_are_grouped_by_their_reason(
    page: Page, service: ServedPage, waiting: list[str], axe: str
) -> None:
    open_flight(page, service, "3")
    report = page.get_by_role("region", name="Runs in flight")
    migrate = page.get_by_role("button", name="Migrate them")
    page.get_by_role("button", name="Check").click()
    expect(report).to_contain_text("0 runs may continue in this version")
    expect(report.locator(".reasons > li")).to_have_count(1)
    expect(report).to_contain_text("NC102")
    expect(report.get_by_role("link")).to_have_count(2)
    expect(migrate).to_have_accessible_description("no run may continue")
    assert find_barriers(page, axe) == []
    page.get_by_text("Other values, and steps with new names").click()
    names = page.get_by_label("New names of steps")
    names.fill('{"ask"')
    expect(report).to_contain_text("must be JSON objects")
    names.fill('{"ask": "question"}')
    page.get_by_role("button", name="Check").click()
    expect(report).to_contain_text("2 runs may continue in this version")
    migrate.click()
    page.get_by_role("button", name="Migrate all that may").click()
    expect(report).to_contain_text("2 runs continue in this version.")
    assert [version_of(service, run_id) for run_id in waiting] == ["3", "3"]


def test_more_runs_than_one_request_takes_are_counted(page: Page, service: ServedPage) -> None:
    register(service, FLOWN, CORRECTED)
    for _ in range(101):
        service.start(FLOWN, "waiting")
    open_flight(page, service, "2")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("region", name="Runs in flight")).to_contain_text("101 runs may continue")


def test_a_saved_version_leads_to_its_runs_in_flight(page: Page, service: ServedPage) -> None:
    register(service, FLOWN, CORRECTED)
    page.goto(f"{service.url}/ui/playbooks/flown/edit")
    page.get_by_role("link", name="Runs in flight").click()
    expect(page.get_by_role("link", name="Runs in flight")).to_have_attribute("aria-current", "page")
