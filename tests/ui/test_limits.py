"""Limits, what holds their units, and what waits, on the page."""

from __future__ import annotations

import re
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
priority: 5
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
        assert second.get_by_role("cell").all_inner_texts()[-2:] == ["limited", "5"]
        assert find_barriers(page, axe) == []
        second.get_by_role("link").press("Enter")
        expect(page).to_have_url(f"{service.url}/ui/runs/{runs[1]}")


def test_a_run_says_for_which_limit_it_waits(browser: Browser, service: ServedPage, runs: list[str]) -> None:
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{runs[0]}?step=load")
        expect(page.get_by_role("link", name="limit crm, next")).to_be_visible()
        expect(page.get_by_text("load waits: limit crm, next")).to_be_visible()


def test_a_step_that_a_full_limit_left_out_says_so(browser: Browser, service: ServedPage, axe: str) -> None:
    service.http.put("/limits/full", json={"units": 0, "kind": "steps"}).raise_for_status()
    text = """\
name: left_out
steps:
  - name: load
    concurrency: {use: full, when_full: skip}
    run: [{action: log, message: x}]
"""
    run = service.start(text, "succeeded")
    service.http.delete("/limits/full")
    words = "left out, because limit full was full"
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{run}")
        expect(page.get_by_role("button", name=re.compile("^load .* left out$"))).to_have_class(
            "node to-quiet skipped"
        )
        row = page.get_by_role("treegrid").get_by_role("row", name="load")
        expect(row).to_contain_text(words)
        expect(row.get_by_title(words)).to_be_visible()
        row.click()
        expect(page.get_by_text(f"its work was {words}.")).to_be_visible()
        assert find_barriers(page, axe) == []
    with open_page(browser, viewport={"width": 390, "height": 844}) as phone:
        phone.goto(f"{service.url}/ui/runs/{run}")
        expect(phone.get_by_text(words)).to_be_visible()


def test_a_reserved_unit_of_a_rate_has_its_time(browser: Browser, service: ServedPage) -> None:
    service.http.put("/limits/hourly", json={"units": 1, "kind": "runs", "per": 3600}).raise_for_status()
    text = "name: rated\nrate: {use: hourly}\nsteps: [{name: a, run: [{action: log, message: x}]}]\n"
    service.start(text, "succeeded")
    run = service.start(text, "waiting")
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/limits?limit=hourly")
        row = page.get_by_role("region", name="Queue").get_by_role("row", name=run[:8])
        expect(row).to_contain_text("begins at")
        page.goto(f"{service.url}/ui/runs/{run}")
        expect(page.get_by_text("a waits: limit hourly, until")).to_be_visible()
    service.http.post(f"/workflows/{run}/cancel")


def test_a_run_says_how_many_starts_have_joined(browser: Browser, service: ServedPage) -> None:
    text = "name: joined\ndebounce: {wait: 1h}\nsteps: [{name: a, run: [{action: log, message: x}]}]\n"
    (run,) = {service.start(text, "queued") for _ in range(3)}
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{run}")
        expect(page.get_by_text("3 starts joined", exact=True)).to_be_visible()
        expect(page.get_by_text("3 starts joined, begins at")).to_be_visible()
        page.goto(f"{service.url}/ui/runs?status=queued")
        expect(page.get_by_role("row", name=run[:8])).to_contain_text("3 starts joined, begins at")
    service.http.post(f"/workflows/{run}/cancel")
