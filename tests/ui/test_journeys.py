"""Journeys through the page in a real Chromium, on runs of a real service."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import CLOSE_MONTH, FAILING, ServedPage
from tests.ui.test_run_view import make_long_playbook

TWO_QUESTIONS = """\
name: two_questions
steps:
  - name: ask
    parallel: true
    run:
      - {action: callback, title: "First?", answer: {ok: {type: boolean}}, as: first}
      - {action: callback, title: "Second?", answer: {ok: {type: boolean}}, as: second}
"""
SHORT = "name: short\nsteps:\n  - {name: a, run: [{action: log, message: hello}]}\n"


def test_two_clicks_lead_from_a_failed_run_to_its_cause(page: Page, service: ServedPage) -> None:
    run_id = service.start(FAILING, "failed")
    page.goto(f"{service.url}/ui")
    row = page.get_by_role("row").filter(has_text=run_id[:8])
    expect(row).to_contain_text("item 2 of 2: `set.margin`: division by zero")
    row.get_by_role("link").click()
    page.get_by_role("button", name="a/b ü <b> set margin").click()
    drawer = page.get_by_role("complementary")
    for words in (
        "2 of 2",
        '{"units": 0}',
        "set.margin",
        "{{ 6 / p.units }}",
        "p.units = 0",
        "TemplateError",
    ):
        expect(drawer.locator("section.error")).to_contain_text(words)
    expect(drawer.locator("section.error h3")).to_have_text("Division by zero TemplateError")
    expect(drawer.locator("section.error .source .marked")).to_contain_text("margin:")
    address = page.url
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    page.go_back()
    expect(page).to_have_url(address)
    expect(drawer).to_be_visible()


def test_a_live_run_changes_in_place(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    graph = page.locator(".graph")
    reconcile = page.get_by_role("button", name=re.compile("reconcile .*waits, 1 of 3 here"))
    expect(reconcile).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("book .*may run"))).to_be_visible()
    before = graph.locator("svg > g").get_attribute("transform")
    box = reconcile.bounding_box()
    page.get_by_role("button", name="Answer").click()
    expect(page.get_by_role("heading", name="Write off 3 open items?")).to_be_visible()
    expect(page.locator(".guards li").first).to_contain_text("book")
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Send answer").click()
    service.wait_for(run_id, "succeeded")
    page.go_back()
    done = page.get_by_role("button", name=re.compile("reconcile .*succeeded"))
    expect(done).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("refuse .*will not run"))).to_be_visible()
    assert graph.locator("svg > g").get_attribute("transform") == before
    assert done.bounding_box() == box


def test_an_open_page_follows_its_run(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    expect(page.get_by_role("button", name=re.compile("ask .*waiting"))).to_be_visible()
    answer = {"step": "ask", "visit": 1, "answer": {"approve": False}}
    assert service.http.post(f"/workflows/{run_id}/answer", json=answer).status_code == 202
    expect(page.get_by_role("button", name=re.compile("reconcile .*succeeded"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("book .*will not run"))).to_be_visible()
    expect(page.locator("header.head .state").first).to_have_text("Succeeded")


def test_each_question_of_a_step_is_answered(page: Page, service: ServedPage) -> None:
    run_id = service.start(TWO_QUESTIONS, "waiting")
    for title in ("Second?", "First?"):
        page.goto(f"{service.url}/ui/inbox")
        page.get_by_role("link", name=title).last.click()
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        page.get_by_label("Yes").check()
        page.get_by_role("button", name="Send answer").click()
        expect(page.get_by_text("This step does not wait any more.")).to_be_visible()
    service.wait_for(run_id, "succeeded")


def test_new_runs_wait_until_a_person_wants_them(page: Page, service: ServedPage) -> None:
    service.start(SHORT, "succeeded")
    page.goto(f"{service.url}/ui/runs?playbook=short")
    first = page.locator(".rows .row").first
    expect(first).to_be_visible()
    shown = first.inner_text()
    run_id = service.start(SHORT, "succeeded")
    fresh = page.get_by_role("button", name=re.compile("new run"))
    expect(fresh).to_be_visible()
    assert first.inner_text().split("\n")[:3] == shown.split("\n")[:3]
    page.keyboard.press(".")
    expect(page.locator(".rows .row").first).to_contain_text(run_id[:8])


def test_a_run_that_succeeded_has_the_number_of_its_steps(page: Page, service: ServedPage) -> None:
    run_id = service.start("name: one\nsteps: [{name: a, run: [{action: log, message: x}]}]\n", "succeeded")
    page.goto(f"{service.url}/ui/runs?q={run_id}")
    row = page.get_by_role("row").filter(has_text=run_id[:8])
    expect(row.get_by_title("The playbook has 1 step.")).to_have_text("1")


@pytest.mark.page_only
def test_the_list_of_runs_fits_its_screen(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(make_long_playbook(999), "waiting")
    with open_page(browser, viewport={"width": 390, "height": 844}) as phone:
        phone.goto(f"{service.url}/ui/runs?q={run_id}")
        expect(phone.get_by_role("row").filter(has_text="long")).to_be_visible()
        assert phone.evaluate("document.documentElement.scrollWidth") == 390
        expect(phone.get_by_text("Live", exact=True)).to_be_visible()
        views = phone.get_by_role("navigation", name="Views")
        assert views.evaluate("(element) => element.scrollWidth <= element.clientWidth")
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs?q={run_id}")
        cell = page.get_by_role("gridcell", name="/1,000")
        expect(cell).to_be_visible()
        assert cell.evaluate("(element) => element.scrollWidth <= element.clientWidth")


@pytest.mark.page_only
def test_an_age_that_becomes_wider_moves_nothing(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(SHORT, "succeeded")
    created_at = datetime.fromisoformat(service.http.get(f"/workflows/{run_id}").json()["created_at"])
    with open_page(browser, viewport={"width": 390, "height": 844}) as phone:
        phone.clock.set_fixed_time(created_at + timedelta(seconds=9))
        phone.goto(f"{service.url}/ui/runs?q={run_id}&since=all")
        age = phone.locator(".rows .row .c8")
        expect(age).to_have_text("9 s")
        phone.clock.set_fixed_time(created_at + timedelta(seconds=10))
        expect(age).to_have_text("10 s")


@pytest.mark.page_only
def test_a_list_on_a_phone_says_what_went_wrong(browser: Browser, service: ServedPage) -> None:
    playbook = FAILING.replace("margins", "margins_on_a_phone")
    runs = [service.start(playbook, "failed") for _ in range(2)]
    with open_page(browser, viewport={"width": 390, "height": 844}) as phone:
        phone.goto(f"{service.url}/ui/runs?playbook=margins_on_a_phone")
        rows = phone.locator(".rows .row")
        expect(rows).to_have_count(len(runs))
        for row in rows.all():
            expect(row.get_by_text("item 2 of 2: `set.margin`: division by zero")).to_be_visible()
        boxes = rows.evaluate_all("(rows) => rows.map((row) => row.getBoundingClientRect().toJSON())")
        cells = rows.first.get_by_role("gridcell").filter(visible=True)
        bottoms = cells.evaluate_all("(cells) => cells.map((cell) => cell.getBoundingClientRect().bottom)")
        assert max(bottoms) <= boxes[0]["bottom"] <= boxes[1]["top"]


def test_the_bars_count_the_runs_that_were_cancelled(page: Page, service: ServedPage) -> None:
    playbook = CLOSE_MONTH.replace("close_month", "counted_in_bars")
    waiting = service.start(playbook, "waiting")
    cancelled = service.start(playbook, "waiting")
    assert service.http.post(f"/workflows/{cancelled}/cancel").status_code == 202
    service.wait_for(cancelled, "cancelled")
    page.goto(f"{service.url}/ui/runs?playbook=counted_in_bars")
    expect(page.get_by_role("row").filter(has_text=waiting[:8])).to_be_visible()
    bars = page.locator(".histogram")
    words = "2 runs, 1 cancelled or skipped, 1 open or with errors"
    expect(bars.get_by_role("img")).to_have_accessible_name(words)
    expect(bars.get_by_role("listitem").filter(has_text="cancelled or skipped 1")).to_be_visible()
    drawn = bars.locator("rect:not(.whole)")
    heights = drawn.evaluate_all(
        "(parts) => parts.map((part) => [part.className.baseVal, part.height.baseVal.value])"
    )
    assert Counter(name for name, height in heights if height) == {"stopped": 1, "open": 1}
    assert bars.locator("title").filter(has_text=words).count() == 1


@pytest.mark.page_only
def test_forced_colours_mark_the_current_view(browser: Browser, service: ServedPage) -> None:
    with open_page(browser, forced_colors="active") as page:
        page.goto(f"{service.url}/ui/inbox")
        views = page.get_by_role("navigation", name="Views").get_by_role("link")
        expect(views.nth(2)).to_have_attribute("aria-current", "page")
        read = "(links) => links.map((link) => getComputedStyle(link).borderBottomColor)"
        colours = views.evaluate_all(read)
        assert colours.count(colours[2]) == 1


def test_a_run_that_the_filter_does_not_select_leaves_when_no_pointer_is_on_the_list(
    page: Page, service: ServedPage
) -> None:
    playbook = CLOSE_MONTH.replace("close_month", "leaving")
    runs = [service.start(playbook, "waiting") for _ in range(3)]
    page.goto(f"{service.url}/ui/runs?playbook=leaving&status=waiting")
    rows = page.locator(".rows .row")
    expect(rows).to_have_count(3)
    answer = {"step": "ask", "visit": 1, "answer": {"approve": False}}
    rows.filter(has_text=runs[0][:8]).hover()
    assert service.http.post(f"/workflows/{runs[1]}/answer", json=answer).status_code == 202
    expect(page.locator(".rows .gone")).to_have_count(1)
    place = rows.filter(has_text=runs[0][:8]).bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + 60, place["y"] + 4)
    assert rows.filter(has_text=runs[0][:8]).bounding_box() == place
    expect(rows).to_have_count(3)
    page.get_by_role("heading", name="Runs").hover()
    expect(rows).to_have_count(2)
    assert service.http.post(f"/workflows/{runs[0]}/answer", json=answer).status_code == 202
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(runs[2][:8])


def test_filters_live_in_the_address(page: Page, service: ServedPage) -> None:
    service.start(SHORT, "succeeded")
    failed = service.start(FAILING, "failed")
    page.goto(f"{service.url}/ui/runs")
    page.get_by_role("group", name="Status").get_by_role("button", name=re.compile("Failed")).click()
    expect(page).to_have_url(re.compile("status=failed"))
    expect(page.get_by_role("row").filter(has_text=failed[:8])).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="Succeeded")).to_have_count(0)
    page.get_by_label("Playbook", exact=True).fill("nothing_has_this_name")
    page.wait_for_timeout(1_500)  # the list is drawn anew each second, and keeps what is typed
    page.keyboard.press("Enter")
    expect(page.get_by_text("No run matches these filters.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("No run matches these filters.")).to_be_visible()
    page.get_by_role("link", name="Clear filters").click()
    expect(page.locator(".rows .row").first).to_be_visible()


def test_selected_runs_are_resumed_at_once(page: Page, service: ServedPage) -> None:
    failed, succeeded = service.start(FAILING, "failed"), service.start(SHORT, "succeeded")
    page.goto(f"{service.url}/ui/runs")
    for run_id in (failed, succeeded):
        page.get_by_label(f"Select {run_id[:8]}").check()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".bulk output")).to_contain_text("1 done, 1 refused")
    expect(page.locator(".bulk")).to_contain_text("1 selected")


def test_everything_can_be_done_by_keyboard(page: Page, service: ServedPage) -> None:
    service.start(SHORT, "succeeded")
    failed = service.start(FAILING, "failed")
    page.goto(f"{service.url}/ui/runs")
    expect(page.get_by_role("row").filter(has_text=failed[:8])).to_be_visible()
    page.keyboard.press("x")
    expect(page.locator(".bulk")).to_contain_text("1 selected")
    page.keyboard.press("Escape")
    expect(page.locator(".bulk")).to_contain_text("None selected")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="margins")).to_be_visible()
    expect(page.locator(".graph svg > g")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_role("complementary")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("short")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=short"))
    page.locator(".rows .row").first.click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


@pytest.mark.page_only
def test_hostile_text_is_legible_and_does_nothing(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}/logs")
    line = page.locator(".log li").first
    expect(line).to_contain_text("<script>alert(1)</script>")
    expect(line.locator(".ansi1")).to_have_text("red")
    assert "\u202e" not in line.inner_text()
    assert page.locator(".log script").count() == 0


def test_a_resumed_run_is_followed_again(page: Page, service: ServedPage) -> None:
    run_id = service.start(FAILING, "failed")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    page.get_by_role("link", name="Events").click()
    expect(page.get_by_role("cell", name="workflow.failed")).to_have_count(1)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("cell", name="workflow.failed")).to_have_count(2)
    expect(page.locator("header.head .state").first).to_have_text("Failed")


def test_a_late_history_loses_no_event_of_the_stream(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}/events")
    expect(page.get_by_role("cell", name="workflow.started")).to_have_count(1)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/events?limit=*", lambda route: held.append((route, route.fetch())), times=1)
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.get_by_role("cell", name="workflow.paused")).to_have_count(1)
    while not held:
        page.wait_for_timeout(50)
    service.http.post(f"/workflows/{run_id}/unpause")
    answer = {"step": "ask", "visit": 1, "answer": {"approve": True}}
    service.http.post(f"/workflows/{run_id}/answer", json=answer)
    end = page.get_by_role("cell", name="workflow.completed")
    expect(end).to_have_count(1)
    [(route, response)] = held
    with page.expect_response("**/events?limit=*"):
        route.fulfill(response=response)
    page.wait_for_timeout(300)
    expect(end).to_have_count(1)


def test_a_run_is_paused_and_continues(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("header.head .state").first).to_have_text("Paused")
    page.get_by_role("button", name="Unpause").click()
    expect(page.locator("header.head .state").first).to_have_text("Waiting")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("header.head .state").first).to_have_text("Cancelled")


def test_a_service_with_keys_asks_for_one(browser: Browser, guarded: tuple[str, str]) -> None:
    url, key = guarded
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/ui/runs")
    dialog = page.get_by_role("dialog", name="Key")
    for text, headline in (("wrong", "This service needs a key."), (key, "The key is not valid any more.")):
        expect(dialog.get_by_role("heading")).to_have_text(headline)
        dialog.get_by_label("Key").fill(text)
        dialog.get_by_role("button", name="Use the key").click()
    expect(page.get_by_text("No runs in the last day.")).to_be_visible()
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    other = context.new_page()
    other.goto(f"{url}/ui/inbox")
    expect(other.get_by_text("Nothing waits for a person.")).to_be_visible()
    context.close()


@pytest.mark.page_only
def test_a_run_that_does_not_exist_is_a_sentence(browser: Browser, service: ServedPage) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{service.url}/ui/runs/5a14a9fa")
    expect(page.get_by_role("alert")).to_contain_text("5a14a9fa")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_no_view_has_barriers(
    browser: Browser, service: ServedPage, axe: str, scheme: str, width: int
) -> None:
    failed, waiting = service.start(FAILING, "failed"), service.start(CLOSE_MONTH, "waiting")
    views = (
        "/ui/runs",
        f"/ui/runs/{failed}?step=a%2Fb%20%C3%BC%20%3Cb%3E",
        f"/ui/runs/{waiting}",
        f"/ui/inbox/{waiting}",
    )
    with open_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        for view in views:
            page.goto(f"{service.url}{view}")
            page.wait_for_load_state("networkidle") if view == "/ui/inbox" else page.wait_for_timeout(0)
            expect(page.locator(".sign, .question h2").first).to_be_visible()
            assert find_barriers(page, axe) == []


def test_numbers_that_stay_the_same_are_read_seldom(browser: Browser, service: ServedPage) -> None:
    service.start(SHORT, "succeeded")
    with open_page(browser) as page:
        page.clock.install()
        reads: Counter[str] = Counter()
        page.on(
            "request", lambda request: reads.update([request.url.split("?")[0].removeprefix(service.url)])
        )
        with page.expect_response("**/inbox?*"):
            page.goto(f"{service.url}/ui/runs?since=all")
        expect(page.locator(".rows .row").first).to_be_visible()
        for _ in range(3):
            with page.expect_response("**/inbox?*"):
                page.clock.fast_forward(23_000)
        before = reads.copy()
        page.clock.run_for(18_000)
        assert (reads["/inbox"], reads["/workflows/counts"]) == (
            before["/inbox"],
            before["/workflows/counts"],
        )
        service.start(SHORT, "succeeded")
        expect(page.get_by_role("button", name="1 new run")).to_be_visible()
        with page.expect_response("**/workflows/counts*"):
            page.clock.fast_forward(16_000)
        with page.expect_response("**/inbox?*"):
            page.evaluate("dispatchEvent(new Event('noetl-changed'))")


def wait_for_slow_reads(page: Page, address: str) -> None:
    """Open a view, and wait until its page reads the number of open questions seldom."""
    page.clock.install()
    with page.expect_response("**/inbox?*"):
        page.goto(address)
    for _ in range(3):
        with page.expect_response("**/inbox?*"):
            page.clock.fast_forward(60_000)


def test_a_question_is_counted_as_soon_as_a_stream_shows_it(browser: Browser, service: ServedPage) -> None:
    """The number at the inbox follows the list of runs and the view of a run."""
    with open_page(browser) as page:
        wait_for_slow_reads(page, f"{service.url}/ui/runs?since=all")
        with page.expect_response("**/inbox?*"):  # It may come before what follows is seen.
            run_id = service.start(CLOSE_MONTH, "waiting")
            expect(page.get_by_role("button", name="1 new run")).to_be_visible()
            page.clock.run_for(8_000)
        wait_for_slow_reads(page, f"{service.url}/ui/runs/{run_id}")
        with page.expect_response("**/inbox?*"):
            service.http.post(
                f"/workflows/{run_id}/answer", json={"step": "ask", "answer": {"approve": True}}
            ).raise_for_status()
            expect(page.locator("[data-step=ask]")).to_have_accessible_name(re.compile("^ask .*succeeded"))
            page.clock.run_for(8_000)
