"""Limits, what holds their units, and what waits, on the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS

TEXT = """\
name: limited
version: "1"
concurrency: {limit: 1, key: "{{ input.customer }}"}
input: {customer: {type: string, default: acme}}
steps:
  - {name: load, concurrency: {use: crm}, run: [{action: callback}]}
"""


@pytest.fixture
def runs(service: ServedPage) -> Iterator[list[str]]:
    """Two runs: the first waits for a limit of the operator, the second for the end of the first."""
    service.http.put("/limits/crm", json={"units": 0, "kind": "steps"}).raise_for_status()
    ids = [service.start(TEXT, "waiting") for _ in range(2)]
    yield ids
    for id in ids:
        service.http.post(f"/workflows/{id}/cancel")
    while service.http.get("/limits/crm").json()["waiting"]:
        pass
    service.http.delete("/limits/crm")


@pytest.mark.parametrize("options", VIEWS)
def test_limits_and_their_queues_are_shown(
    browser: Browser, service: ServedPage, axe: str, runs: list[str], options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        page.goto(f"{service.url}/ui/runs")
        page.get_by_role("navigation", name="Views").get_by_role("link", name="Limits").press("Enter")
        named = page.get_by_role("region", name="Limits of operators")
        expect(named.get_by_role("row", name="crm")).to_contain_text("0 of 0")
        in_use = page.get_by_role("region", name="Limits of playbooks and steps in use")
        row = in_use.get_by_role("row", name="limited")
        expect(row).to_contain_text("acme")
        expect(row).to_contain_text("1 of 1")
        row.get_by_role("link", name="limited").press("Enter")
        queue = page.get_by_role("region", name="Queue")
        first, second = (queue.get_by_role("row", name=id[:8]) for id in runs)
        expect(first).to_contain_text("in progress")
        expect(second).to_contain_text("waits")
        assert find_barriers(page, axe) == []
        second.get_by_role("link").press("Enter")
        expect(page).to_have_url(f"{service.url}/ui/runs/{runs[1]}")


def test_a_run_says_for_which_limit_it_waits(browser: Browser, service: ServedPage, runs: list[str]) -> None:
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{runs[0]}?step=load")
        expect(page.get_by_role("link", name="limit crm, next")).to_be_visible()
        expect(page.get_by_text("load waits: limit crm, next")).to_be_visible()
