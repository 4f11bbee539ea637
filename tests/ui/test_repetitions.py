"""Work that is done again on the page: a new run from an event or a step, and a step that gets a result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS

PAID = """\
name: paid
input: {amount: {type: integer, default: 2}}
steps:
  - name: load
    run: [{action: set, set: {rows: [4, 5]}}]
    rule: [{case: default, run: [pay]}]
  - name: pay
    run: [{action: shell, command: "true"}]
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: set, set: {total: "{{ rows | sum * input.amount }}"}}]
output: {total: "{{ total }}"}
"""

RATED = """\
name: rated
steps:
  - name: rate
    run:
      - {action: set, set: {rate: "{{ 1 / 0 }}"}}
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: set, set: {total: "{{ rate * 2 }}"}}]
output: {total: "{{ total }}"}
"""


@contextmanager
def open_run(browser: Browser, address: str, options: dict[str, object]) -> Iterator[Page]:
    """Yield a page of a run. A refused request is expected."""
    with open_page(browser, statuses=[409, 422], **options) as page:
        page.goto(address)
        yield page


def find_dialog(page: Page, title: str) -> Locator:
    return page.get_by_role("dialog", name=title)


def find_effects(dialog: Locator) -> Locator:
    return dialog.get_by_role("region", name="What is done again")


def events_of(service: ServedPage, run_id: str) -> list[tuple[str, str | None]]:
    items = service.http.get(f"/workflows/{run_id}/events").json()["items"]
    return [(event["type"], event["step"]) for event in items]


def follow_new_run(page: Page, service: ServedPage, dialog: Locator, run_id: str) -> str:
    """Follow the link to the new run, which has the focus, and return its id."""
    link = dialog.get_by_role("link", name=re.compile("^paid "))
    expect(link).to_be_focused()
    new_id = str(link.get_attribute("href")).split("/")[-1]
    service.wait_for(new_id, "succeeded")  # the list of steps on a phone moves while a run goes on
    page.keyboard.press("Enter")
    expect(page.locator("header.head .state").first).to_have_text("Succeeded")
    expect(page.locator(".facts .links")).to_contain_text(f"Continues {run_id[:8]}")
    return new_id


@pytest.mark.parametrize("options", VIEWS)
def test_a_new_run_starts_at_the_event_of_the_slider(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    run_id = service.start(PAID, "succeeded")
    events = events_of(service, run_id)
    number = 1 + events.index(("step.completed", "load"))
    with open_run(browser, f"{service.url}/ui/runs/{run_id}", options) as page:
        name = "New run" if "viewport" in options else "Start a new run from here"
        start = page.get_by_role("button", name=name)
        expect(start).to_have_accessible_description("choose an earlier event first")
        slider = page.get_by_role("slider", name="Event")
        expect(slider).to_have_value(str(len(events)))
        slider.focus()
        for earlier in range(len(events) - 1, number - 1, -1):
            slider.press("ArrowLeft")
            expect(slider).to_have_value(str(earlier))
        start.press("Enter")
        dialog = find_dialog(page, "Start a new run from here")
        expect(find_effects(dialog)).to_contain_text("2 steps done again. Of their actions, 1 acts outside.")
        expect(find_effects(dialog)).to_contain_text("shell, line 8, was done: it acts twice")
        assert find_barriers(page, axe) == []
        dialog.get_by_text("Other choices").click()
        values = dialog.get_by_label("Values that replace")
        values.fill('{"amount"')
        expect(find_effects(dialog)).to_contain_text("must be a JSON object")
        values.fill('{"amount": 3}')
        expect(dialog.get_by_role("button", name="Start")).to_be_disabled()
        dialog.get_by_role("button", name="Check").press("Enter")
        expect(find_effects(dialog)).to_contain_text("2 steps done again.")
        dialog.get_by_role("button", name="Start").press("Enter")
        new_id = follow_new_run(page, service, dialog, run_id)
    assert service.http.get(f"/workflows/result/{new_id}").json()["result"] == {"total": 27}
    assert ("step.started", "load") not in events_of(service, new_id)


@pytest.mark.parametrize("options", VIEWS)
def test_a_step_is_run_again_in_a_new_run(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    run_id = service.start(PAID, "succeeded")
    with open_run(browser, f"{service.url}/ui/runs/{run_id}?step=pay", options) as page:
        page.get_by_role("button", name="Run again from this step").click()
        dialog = find_dialog(page, "Run again from this step")
        effects = find_effects(dialog)
        expect(effects).to_contain_text("2 steps done again. Of their actions, 1 acts outside.")
        expect(effects).to_contain_text("pay begins here")
        assert find_barriers(page, axe) == []
        dialog.get_by_role("button", name="Start").click()
        new_id = follow_new_run(page, service, dialog, run_id)
    assert ("step.started", "load") not in events_of(service, new_id)
    assert ("step.completed", "pay") in events_of(service, new_id)


@pytest.mark.parametrize("options", VIEWS)
def test_a_failed_step_is_skipped_with_a_result(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    run_id = service.start(RATED, "failed")
    with open_run(browser, f"{service.url}/ui/runs/{run_id}?step=rate", options) as page:
        page.get_by_role("button", name="Skip this step with a result").click()
        dialog = find_dialog(page, "Skip this step with a result")
        effects, result = find_effects(dialog), dialog.get_by_label("Result of rate")
        expect(effects).to_contain_text("Type the result")
        result.fill("{")
        expect(effects).to_contain_text("The result is no JSON")
        result.fill("{}")
        check = dialog.get_by_role("button", name="Check")
        check.click()
        expect(effects).to_contain_text("rate")
        expect(dialog.get_by_role("button", name="Skip")).to_be_disabled()
        assert find_barriers(page, axe) == []
        result.fill('{"rate": 4}')
        check.click()
        expect(effects).to_contain_text("rate is skipped with the result")
        dialog.get_by_role("button", name="Skip").click()
        expect(dialog).to_have_count(0)
        service.wait_for(run_id, "succeeded")
    assert service.http.get(f"/workflows/result/{run_id}").json()["result"] == {"total": 8}


def test_an_open_run_or_an_earlier_state_is_not_done_again(page: Page, service: ServedPage) -> None:
    waiting = PAID.replace('action: shell, command: "true"', "action: wait, seconds: 1h")
    run_id = service.start(waiting, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=load&at=4")
    again = page.get_by_role("button", name="Run again from this step")
    expect(again).to_have_accessible_description("this is an earlier state")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=load")
    expect(again).to_have_accessible_description("after the run ends")
    start = page.get_by_role("button", name="Start a new run from here")
    expect(start).to_have_accessible_description("after the run ends")
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()
