"""Names of playbooks, triggers and limits that are long, on screens that are narrow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.browser import find_overflows, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import register

NAME = "finance/regional_reporting/close_of_the_month_for_all_subsidiaries"
TEXT = f"""\
name: {NAME}
version: "VERSION"
concurrency: {{limit: 1, key: "{{{{ 'a_key_that_is_as_long_as_the_name_of_a_customer' }}}}"}}
triggers:
  - {{name: every_hour_of_each_working_day, type: schedule, cron: "0 9 * * MON-FRI", timezone: Asia/Tokyo}}
steps:
  - name: ask
    run: [{{action: callback}}]
"""
PATH = NAME.replace("/", "%2F")
PAGES = {
    "/ui/triggers": "every_hour",
    "/ui/triggers/calendar?day=DAY": "every_hour",
    "/ui/limits": "close_of",
    f"/ui/playbooks/{PATH}/triggers": "every_hour",
    f"/ui/playbooks/{PATH}/versions": "a_release_that_everybody_uses",
}


@pytest.fixture(scope="module")
def run(service: ServedPage) -> Iterator[str]:
    """A run that a trigger has started, and that holds a place of its limit."""
    register(service, *(TEXT.replace("VERSION", version) for version in ("1", "2")))
    alias = f"/playbooks/{PATH}/aliases/a_release_that_everybody_uses"
    service.http.put(alias, json={"version": "2"}).raise_for_status()
    fired = service.http.post(f"/triggers/{NAME}/every_hour_of_each_working_day/fire")
    run_id = str(fired.raise_for_status().json()["workflow_id"])
    service.wait_for(run_id, "waiting")
    yield run_id
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()


@pytest.mark.parametrize("width", [390, 760, 900])
@pytest.mark.parametrize("path", PAGES)
def test_a_long_name_stays_in_its_place(
    browser: Browser, service: ServedPage, run: str, path: str, width: int
) -> None:
    day = service.http.get(f"/workflows/{run}").json()["created_at"][:10]
    with open_page(browser, viewport={"width": width, "height": 844}, timezone_id="UTC") as page:
        page.goto(service.url + path.replace("DAY", day))
        expect(page.get_by_text(PAGES[path]).locator("visible=true").first).to_be_visible()
        assert find_overflows(page) == []
