"""The inbox while others answer, and answers that a callback does not declare."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, Route, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import CLOSE_MONTH, ServedPage

UNDECLARED = """\
name: undeclared
steps:
  - name: ask
    run: [{action: callback, title: How many?, as: number}]
    rule: [{case: "{{ number == 3 }}", run: [last]}]
  - name: last
    run: [{action: log, message: done}]
"""


def read_again(page: Page) -> None:
    """Let the inbox be read now, as it is after some seconds."""
    with page.expect_response("**/inbox?*"):
        page.evaluate("dispatchEvent(new Event('noetl-changed'))")


def test_what_was_typed_stays_when_another_tab_answers(
    browser: Browser, service: ServedPage, axe: str
) -> None:
    run_id, other = (service.start(CLOSE_MONTH, "waiting") for _ in range(2))
    with open_page(browser, statuses=[409, 410]) as page:
        page.goto(f"{service.url}/ui/inbox/{run_id}")
        note = page.get_by_label("note")
        note.fill("typed")
        entry = page.locator(".inbox .list li").filter(has=page.locator(f"a[href*='{run_id}']"))
        place = entry.bounding_box()
        answer = {"step": "ask", "visit": 1, "answer": {"approve": True}}
        service.http.post(f"/workflows/{run_id}/answer", json=answer).raise_for_status()
        service.wait_for(run_id, "succeeded")
        page.get_by_role("radio", name="No").check()
        page.get_by_role("button", name="Send answer").click()
        report = page.locator(".question output")
        expect(report).to_contain_text("This step does not wait any more.")
        expect(note).to_have_value("typed")
        expect(page.get_by_role("button", name="Send answer")).to_be_disabled()
        expect(page.locator(".question")).to_contain_text(re.compile("The step has ended at .*approve"))
        expect(entry).to_contain_text("not open any more")
        assert entry.bounding_box() == place
        assert find_barriers(page, axe) == []
        page.get_by_role("button", name="Refresh").click()
        expect(entry).to_have_count(0)
        expect(note).to_have_value("typed")
        service.http.post(f"/workflows/{other}/cancel").raise_for_status()


def test_new_questions_wait_until_a_person_wants_them(page: Page, service: ServedPage) -> None:
    first = service.start(UNDECLARED, "waiting")
    page.goto(f"{service.url}/ui/inbox/{first}")
    expect(page.get_by_role("heading", name="How many?")).to_be_visible()
    shown = page.locator(".inbox .list li")
    number = shown.count()
    second = service.start(UNDECLARED, "waiting")
    read_again(page)
    fresh = page.get_by_role("button", name="1 new question")
    expect(fresh).to_be_visible()
    assert shown.count() == number
    page.get_by_role("heading", name="Inbox").click()
    page.keyboard.press(".")
    expect(shown).to_have_count(number + 1)
    expect(fresh).to_be_hidden()
    service.http.post(f"/workflows/{second}/cancel").raise_for_status()
    answer = page.get_by_label("Another answer, as JSON")
    answer.fill("3 pieces")
    answer.press("Control+Enter")
    expect(page.locator(".question output")).to_contain_text("This is not JSON.")
    answer.fill("3")
    answer.press("Control+Enter")
    service.wait_for(first, "succeeded")
    assert service.http.get(f"/workflows/{first}/step?name=last").json()["visits"] == 1


def test_the_inbox_is_read_on_after_a_page_without_questions(page: Page, service: ServedPage) -> None:
    run_id = service.start(UNDECLARED, "waiting")
    questions = service.http.get("/inbox").json()

    def respond(route: Route) -> None:
        is_next = "cursor=next" in route.request.url
        route.fulfill(json=questions if is_next else {"items": [], "next_cursor": "next"})

    page.route("**/inbox?*", respond)
    page.goto(f"{service.url}/ui/inbox/{run_id}")
    expect(page.locator(".inbox .list li")).to_have_count(len(questions["items"]))
    expect(page.get_by_role("heading", name="How many?")).to_be_visible()
    expect(page.locator("nav .badge")).to_have_text(str(len(questions["items"])))
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()
