"""Channels and notifications that were not delivered, on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.ui.browser import find_barriers, open_page, width_of
from tests.ui.conftest import ServedPage
from tests.ui.test_switching import VIEWS, register

TEXT = """\
name: notified
version: "1"
notify: {failed: away}
steps:
  - {name: divide, run: [{action: set, set: {x: "{{ 1 / 0 }}"}}]}
"""
AWAY = "http://127.0.0.1:9/hook"


@pytest.fixture(autouse=True)
def channel(service: ServedPage) -> Iterator[None]:
    """A channel whose receiver does not answer, and a failed run that it receives."""
    service.http.put("/channels/away", json={"url": AWAY}).raise_for_status()
    register(service, TEXT)
    service.start(TEXT, "failed")
    yield
    for entry in service.http.get("/notifications").json()["items"]:
        service.http.delete(f"/notifications/{entry['id']}")
    service.http.delete("/channels/away")


def open_view(page: Page, service: ServedPage) -> tuple[Locator, Locator]:
    """Open the view, and return its channels and its notifications."""
    page.goto(f"{service.url}/ui/runs")
    page.get_by_role("navigation", name="Views").get_by_role("link", name="Notifications").press("Enter")
    channels = page.get_by_role("region", name="Channels", exact=True)
    expect(channels.get_by_role("row", name="away")).to_be_visible()
    return channels, page.get_by_role("region", name="Notifications", exact=True)


@pytest.mark.parametrize("options", VIEWS)
def test_channels_are_paused_resumed_and_tested(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        channels, _ = open_view(page, service)
        row = channels.get_by_role("row", name="away")
        width = width_of(row.get_by_role("button", name="Pause away"))
        row.get_by_role("button", name="Pause away").press("Enter")
        expect(row).to_contain_text("Paused")
        assert width_of(row.get_by_role("button", name="Resume away")) == width
        assert find_barriers(page, axe) == []
        row.get_by_role("button", name="Resume away").press("Enter")
        expect(row.get_by_role("button", name="Pause away")).to_be_visible()
        row.get_by_role("button", name="Test away").press("Enter")
        expect(page.get_by_role("status").filter(has_text="away has not accepted")).to_be_visible()


@pytest.mark.parametrize("options", VIEWS)
def test_notifications_are_sent_again_and_discarded(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    with open_page(browser, **options) as page:
        _, notifications = open_view(page, service)
        row = notifications.get_by_role("row").filter(has=page.get_by_role("link", name="notified"))
        expect(row).to_contain_text("Pending")
        assert find_barriers(page, axe) == []
        row.get_by_role("button", name="Retry").press("Enter")
        expect(page.get_by_role("status").filter(has_text="is sent again.")).to_be_visible()
        row.get_by_role("button", name="Discard").press("Enter")
        row.get_by_role("button", name="Really discard").press("Enter")
        expect(notifications).to_contain_text("All notifications were delivered.")
        notifications.get_by_label("State").select_option("undelivered")
        expect(notifications).to_contain_text("No notification has this state.")


def test_a_channel_is_added_and_removed(browser: Browser, service: ServedPage, axe: str) -> None:
    with open_page(browser) as page:
        channels, _ = open_view(page, service)
        channels.get_by_text("Add or change a channel").press("Enter")
        save = channels.get_by_role("button", name="Save the channel")
        expect(save).to_have_accessible_description("needs a name and an address")
        channels.get_by_label("Name").fill("audit")
        channels.get_by_label("Address").fill("https://example.com/audit")
        channels.get_by_label("late").check()
        assert find_barriers(page, axe) == []
        save.click()
        expect(page.get_by_role("status").filter(has_text="audit was saved.")).to_contain_text("whsec_")
        row = channels.get_by_role("row", name="audit")
        expect(row).to_contain_text("late")
        row.get_by_role("button", name="Remove").click()
        row.get_by_role("button", name="Really remove").click()
        expect(row).to_have_count(0)


@pytest.mark.page_only
def test_why_a_channel_is_refused_stays_in_sight(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, statuses=[422], viewport={"width": 390, "height": 480}) as page:
        channels, _ = open_view(page, service)
        channels.get_by_text("Add or change a channel").press("Enter")
        channels.get_by_label("Name").fill("a b")
        channels.get_by_label("Address").fill("nowhere")
        channels.get_by_role("button", name="Save the channel").click()
        words = page.get_by_role("status").filter(has_text="the name of a channel must be")
        expect(words).to_be_in_viewport()
        page.get_by_text("Notifications that were not delivered").scroll_into_view_if_needed()
        expect(words).to_be_in_viewport()


@pytest.mark.page_only
def test_a_key_without_the_scope_sees_why(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, statuses=[403]) as page:
        page.route(
            "**/channels/away/pause",
            lambda route: route.fulfill(status=403, json={"title": "Insufficient scope", "detail": ""}),
        )
        channels, notifications = open_view(page, service)
        channels.get_by_role("button", name="Pause away").click()
        test = channels.get_by_role("button", name="Test away")
        expect(test).to_have_accessible_description("needs scope `admin`")
        retry = notifications.get_by_role("button", name=re.compile("Retry")).first
        expect(retry).not_to_have_attribute("aria-disabled", "true")
