"""Webhooks and triggers that await ends of runs, on the page of their playbook."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS, register

TEXT = """\
name: types/load
version: "1"
input: {id: {type: string, default: none}}
triggers:
  - {name: paid, type: webhook, path: types/paid, auth: {scheme: api_key},
     key: "{{ trigger.body.id }}", input: {id: "{{ trigger.body.id }}"}}
  - {name: after, type: run, playbook: types/import, status: [succeeded, failed],
     input: {id: "{{ trigger.workflow_id }}"}}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.id }}"}}]
"""
IMPORT = "name: types/import\nversion: '1'\nsteps:\n  - {name: a, run: [{action: set, set: {rows: 3}}]}\n"


@pytest.fixture(autouse=True)
def registered(service: ServedPage) -> None:
    """Playbooks with triggers of each type."""
    register(service, IMPORT, TEXT)


def open_trigger(page: Page, service: ServedPage, trigger: str) -> Locator:
    page.goto(f"{service.url}/ui/playbooks/types%2Fload/triggers?trigger={trigger}")
    shown = page.get_by_role("region", name=f"Trigger {trigger}")
    expect(shown.get_by_role("heading", name="History")).to_be_visible()
    return shown


@pytest.mark.parametrize("options", VIEWS)
def test_a_webhook_shows_its_address_and_is_fired(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, permissions=["clipboard-read", "clipboard-write"], **options) as page:
        shown = open_trigger(page, service, "paid")
        address = f"{service.url}/hooks/default/types/paid"
        expect(shown).to_contain_text(address)
        for words in ("POST", "an API key of NoETL", "202 at once", "1.0 MB", "{{ trigger.body.id }}"):
            expect(shown).to_contain_text(words)
        shown.get_by_role("button", name="Copy").press("Enter")
        expect(shown.get_by_role("status")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == address
        shown.get_by_text("Fire by hand").press("Enter")
        assert find_barriers(page, axe) == []
        data = page.get_by_label("Data of the request")
        data.fill('{"body"')
        shown.get_by_role("button", name="Fire").click()
        expect(data).to_have_accessible_description(re.compile("This is not JSON"))
        data.fill('{"body": {"id": "x7"}}')
        data.press("Control+Enter")
        expect(page).to_have_url(re.compile("/ui/runs/[0-9a-f]{24}"))
        expect(page.locator(".facts")).to_contain_text("Started by trigger paid")
        run_id = page.url.rsplit("/", 1)[-1]
    assert service.http.get(f"/workflows/{run_id}/input").json()["input"] == {"id": "x7"}


@pytest.mark.parametrize("options", VIEWS)
def test_a_trigger_awaits_runs_of_another_playbook(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    ended = service.start(IMPORT, "succeeded")
    with open_page(browser, **options) as page:
        shown = open_trigger(page, service, "after")
        expect(shown.get_by_role("link", name="types/import")).to_have_attribute(
            "href", "/ui/playbooks/types%2Fimport"
        )
        expect(shown).to_contain_text("succeeded, failed")
        expect(shown.get_by_label("Missed firings")).to_have_count(0)
        shown.get_by_role("button", name="Pause").press("Enter")
        resume = shown.get_by_role("button", name="Resume")
        expect(resume).not_to_have_attribute("aria-disabled", "true")
        resume.press("Enter")
        expect(resume).to_have_accessible_description("it is not paused")
        shown.get_by_text("Fire by hand").press("Enter")
        page.get_by_label(re.compile("^Run ")).fill(ended)
        assert find_barriers(page, axe) == []
        page.get_by_role("button", name="Fire").click()
        expect(page).to_have_url(re.compile("/ui/runs/[0-9a-f]{24}"))
        expect(page.locator(".facts")).to_contain_text(f"Started by trigger after, after {ended[:8]}")


def test_all_types_are_in_the_list_of_all_triggers(page: Page, service: ServedPage) -> None:
    page.goto(f"{service.url}/ui/triggers")
    for name, words in (("paid", "POST types/paid, api_key"), ("after", "after types/import")):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"types/load/{name}"))
        expect(row).to_contain_text(words)


def test_a_refused_firing_has_the_colour_of_failures(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, statuses=[422]) as page:
        shown = open_trigger(page, service, "paid")
        shown.get_by_text("Fire by hand").press("Enter")
        shown.get_by_role("button", name="Fire").click()
        refusal = shown.get_by_role("alert").filter(has_text="the firing has no `data`")
        expect(refusal).to_have_css("color", "rgb(196, 35, 43)")
