"""The triggers of a playbook on its page: they are shown, paused, resumed and fired by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS, register

TEXT = """\
name: nightly
version: "1"
input:
  day: {type: string, description: The day that is loaded}
  count: {type: integer, default: 1}
triggers:
  - {name: early, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin, jitter: 10s, overlap: skip,
     if: "{{ trigger.local != '' }}", input: {day: "{{ trigger.local }}"}}
  - {name: ended, type: schedule, every: 1h, start: 2019-01-01T00:00:00Z, end: 2020-01-01T00:00:00Z,
     input: {day: monday}}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.day }}"}}]
"""
EMPTY = "name: untriggered\nsteps:\n  - {name: a, run: [{action: log, message: a}]}\n"


@pytest.fixture(autouse=True)
def registered(service: ServedPage) -> Iterator[None]:
    """Playbooks with and without triggers. What a test has paused is resumed."""
    register(service, TEXT, EMPTY)
    yield
    service.http.post("/triggers/nightly/early/resume").raise_for_status()


def open_triggers(page: Page, service: ServedPage, trigger: str = "early") -> Locator:
    """Open the tab, choose a trigger, and return what the page shows of it."""
    page.goto(f"{service.url}/ui/playbooks/nightly")
    page.get_by_role("navigation", name="Parts of").get_by_role("link", name="Triggers").click()
    page.get_by_role("row").get_by_role("link", name=trigger, exact=True).click()
    shown = page.get_by_role("region", name=f"Trigger {trigger}")
    expect(shown.get_by_role("heading", name="History")).to_be_visible()
    return shown


def fire(service: ServedPage, **body: object) -> str:
    answer = service.http.post("/triggers/nightly/early/fire", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["workflow_id"])


@pytest.mark.parametrize("options", VIEWS)
def test_a_trigger_is_fired_by_hand(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        shown = open_triggers(page, service)
        expect(shown).to_contain_text("cron 30 2 * * *, Europe/Berlin, up to 10 s later")
        expect(shown).to_contain_text("if {{ trigger.local != '' }} unless the last run goes on")
        times = shown.get_by_role("listitem").locator("time")
        expect(times).to_have_count(5)
        expect(times.first).to_have_attribute("title", re.compile(r"^20[-0-9]+ 0[01]:30:\d\d UTC$"))
        shown.get_by_text("Fire by hand").press("Enter")
        expect(shown.get_by_text("If empty: {{ trigger.local }}.")).to_be_visible()
        assert find_barriers(page, axe) == []
        page.get_by_label("day").fill("monday")
        page.get_by_label("day").press("Enter")
        expect(page).to_have_url(re.compile("/ui/runs/[0-9a-f]{24}"))
        expect(page.locator(".facts")).to_contain_text("Started by trigger early, scheduled at")
        assert find_barriers(page, axe) == []
        page.get_by_role("link", name="early").press("Enter")
        expect(shown.get_by_role("row").nth(1)).to_contain_text("Started")
        expect(page.get_by_text("Started by hand").first).to_be_visible()
        run_id = service.http.get("/triggers/nightly/early").json()["last_run"]
        link = shown.get_by_role("row").get_by_role("link", name=run_id[:8])
        expect(link).to_have_attribute("href", f"/ui/runs/{run_id}")
    assert service.http.get(f"/workflows/{run_id}/input").json()["input"] == {"day": "monday", "count": 1}


def test_an_instant_of_the_schedule_is_fired(page: Page, service: ServedPage) -> None:
    shown = open_triggers(page, service)
    shown.get_by_text("Fire by hand").click()
    instant = service.http.get("/triggers/nightly/early").json()["firings"][2]
    page.get_by_label("When").select_option(instant["scheduled_at"])
    shown.get_by_role("button", name="Fire").click()
    expect(page).to_have_url(re.compile("/ui/runs/[0-9a-f]{24}"))
    assert page.url.endswith(fire(service, at=instant["scheduled_at"]))


@pytest.mark.page_only
def test_values_that_do_not_fit_stand_at_their_fields(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, statuses=[422]) as page:
        shown = open_triggers(page, service)
        shown.get_by_text("Fire by hand").click()
        count = page.get_by_label("count")
        count.fill("many")
        shown.get_by_role("button", name="Fire").click()
        expect(count).to_have_accessible_description(re.compile("must be of type integer"))
        expect(count).to_have_value("many")


@pytest.mark.parametrize("options", VIEWS)
def test_a_trigger_is_paused_and_resumed(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        shown = open_triggers(page, service)
        pause, resume = (shown.get_by_role("button", name=name) for name in ("Pause", "Resume"))
        expect(resume).to_have_accessible_description("it is not paused")
        pause.press("Enter")
        expect(pause).to_have_accessible_description("it is paused")
        expect(page.get_by_role("row", name="early")).to_contain_text("Paused")
        assert find_barriers(page, axe) == []
        page.get_by_label("Missed firings").select_option("all are performed")
        resume.press("Enter")
        expect(resume).to_have_accessible_description("it is not paused")
    assert service.http.get("/triggers/nightly/early").json()["paused"] is False


def test_a_long_history_has_pages(page: Page, service: ServedPage) -> None:
    for _ in range(21):
        fire(service, input={"day": "monday"})
    shown = open_triggers(page, service)
    rows = shown.get_by_role("row")
    expect(rows).to_have_count(21)
    shown.get_by_role("button", name="Show more").click()
    expect(rows.nth(21)).to_be_visible()


@pytest.mark.page_only
def test_what_is_missing_is_said_in_words(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, statuses=[404]) as page:
        shown = open_triggers(page, service, "ended")
        expect(shown).to_contain_text("It does not fire any more.")
        expect(shown).to_contain_text("It has not fired yet.")
        expect(page.get_by_role("row", name="ended")).to_contain_text("never")
        page.goto(f"{service.url}/ui/playbooks/nightly/triggers?trigger=none")
        expect(page.get_by_role("alert")).to_contain_text("unknown trigger `none` of playbook `nightly`")
        page.goto(f"{service.url}/ui/playbooks/untriggered/triggers")
        expect(page.get_by_text("This playbook has no triggers.")).to_be_visible()


@pytest.mark.page_only
@pytest.mark.parametrize("part", ["pause", "fire"])
def test_a_key_that_may_only_read_sees_why(browser: Browser, service: ServedPage, part: str) -> None:
    with open_page(browser, statuses=[403]) as page:
        page.route(
            f"**/triggers/nightly/early/{part}",
            lambda route: route.fulfill(status=403, json={"title": "Insufficient scope", "detail": ""}),
        )
        shown = open_triggers(page, service)
        if part == "pause":
            shown.get_by_role("button", name="Pause").click()
        else:
            shown.get_by_text("Fire by hand").click()
            shown.get_by_role("button", name="Fire").click()
            expect(shown).to_contain_text("This key may not fire triggers. It needs the scope `run`.")
        expect(shown.get_by_role("button", name="Pause")).to_have_accessible_description("needs scope `run`")
