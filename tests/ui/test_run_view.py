"""Journeys through one run in a real Chromium: its timeline, its drawer, its actions and its connection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from benchmarks.page import chain
from tests.ui.browser import find_barriers, hold_request, open_page
from tests.ui.conftest import CLOSE_MONTH, FAILING, YAML, ServedPage

RETRIED = """\
name: retried
steps:
  - name: first
    run: [{action: set, set: {n: 0}}]
    rule: [{case: default, run: [unsteady]}]
  - name: unsteady
    retry: {attempts: 2, delay: 0.1}
    run:
      - {action: shell, command: "mkdir FOLDER || exit 0; printf 'a\\\\033[31mred\\\\033[0m\\\\007'; exit 3"}
    rule: [{case: default, run: [again]}]
  - name: again
    max_visits: 20
    run: [{action: set, set: {n: "{{ n + 1 }}", text: "{{ 'x' * 3000 }}", list: "{{ range(300) }}"}}]
    rule:
      - {case: "{{ n < 3 }}", run: [again]}
      - {case: default, run: [items]}
  - name: items
    loop: {items: "{{ range(40) }}", as: p, on_error: continue}
    run: [{action: set, set: {margin: "{{ 6 / (p - 36) }}"}}]
"""

CORRECTABLE = """\
name: correctable
input: {units: {type: integer, default: 0}, other: {type: string, default: same}}
steps:
  - name: divide
    run: [{action: set, set: {margin: "{{ 6 / input.units }}"}}]
"""

CACHED = """\
name: cached
steps:
  - name: load
    run: [{action: set, set: {rate: 2}, cache: {key: page}}]
    rule: [{case: default, run: [sum]}]
  - name: sum
    cache: 2h
    run: [{action: set, set: {total: "{{ rate * 2 }}"}}]
"""

TALKING = """\
name: talking
steps:
  - name: talk
    loop: {items: "{{ range(1, 1101) }}", as: n}
    run: [{action: log, message: "line {{ n }}"}]
"""

MANY = """\
name: many
steps:
  - name: many
    loop: {items: "{{ range(10050) }}", as: n}
    run: [{action: set, set: {last: "{{ n }}"}}]
"""

LARGE = """\
name: large
steps:
  - name: make it/all
    run: [{action: set, set: {rows: "{{ ['x' * 1000] * 100 }}", text: "{{ 'x' * 100000 }}"}}]
"""

CALLED = """\
name: called
steps:
  - name: confirm
    run: [{action: callback, title: Ready?, answer: {ready: {type: boolean}}}]
    rule: [{case: default, run: [after]}]
  - name: after
    run: [{action: log, message: x}]
"""

CALLING = """\
name: calling
steps:
  - name: fork
    rule: [{case: default, run: [call, side]}]
  - name: call
    run: [{action: workflow, playbook: called}]
    rule: [{case: default, run: [last]}]
  - name: side
    run: [{action: log, message: x}]
    rule: [{case: default, run: [last]}]
  - name: last
    run: [{action: log, message: x}]
"""

GUARDED = """\
name: guarded
steps:
  - name: load
    run: [{action: set, set: {n: 1}}]
    rule:
      - {case: "{{ error.type == 'Timeout' }}", run: [late]}
      - {case: "{{ n < 1 }}", run: [small]}
      - {case: default, run: [large]}
  - {name: late, run: [{action: log, message: x}]}
  - {name: small, run: [{action: log, message: x}]}
  - {name: large, run: [{action: log, message: x}]}
"""

CYCLE = """\
name: cycle
steps:
  - name: ask
    run: [{action: callback, title: Go on?, answer: {approve: {type: boolean}}, as: decision}]
    rule: [{case: default, run: [turn]}]
  - name: turn
    max_visits: 400
    run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}]
    rule:
      - {case: "{{ n < 260 }}", run: [turn]}
      - {case: default, run: [last]}
  - name: last
    run: [{action: log, message: done}]
"""


def read_graph(service: ServedPage, run: str) -> Any:
    """Return the graph of a run in coordinates."""
    return service.http.get(f"/workflows/{run}", params={"include": "graph"}).json()["graph"]


def make_long_playbook(steps: int) -> str:
    """Return a playbook that waits at the first step of a chain, which is folded in the graph."""
    ask = "{action: callback, title: Go on?, answer: {ready: {type: boolean}}}"
    work = "{action: log, message: x}"
    lines = [
        f"  - {{name: s{number}, run: [{work if number else ask}],"
        f" rule: [{{case: default, run: [s{number + 1}]}}]}}"
        for number in range(steps)
    ]
    return "\n".join(["name: long", "steps:", *lines, f"  - {{name: s{steps}, run: [{work}]}}"])


@pytest.fixture(scope="module")
def retried(service: ServedPage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a run with two attempts, three visits and a failed item."""
    folder = tmp_path_factory.mktemp("retried") / "made"
    return service.start(RETRIED.replace("FOLDER", str(folder)), "succeeded")


@contextmanager
def open_faulty_page(browser: Browser) -> Iterator[Page]:
    """Yield a page whose console may have errors, because requests of it fail."""
    context = browser.new_context(viewport={"width": 1400, "height": 880})
    yield context.new_page()
    context.close()


def find_row(page: Page, text: str) -> int:
    return int(page.get_by_role("row").filter(has_text=text).first.get_attribute("aria-rowindex") or 0)


def test_the_beginning_of_an_id_and_last_lead_to_a_run(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CORRECTABLE, "failed")
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/last?step=divide#error")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}?step=divide#error")
        page.goto(f"{service.url}/ui/runs/{run_id[:10]}/events")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}/events")
        expect(page.get_by_role("heading", name="correctable")).to_be_visible()
    with open_faulty_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/zz")
        expect(page.get_by_role("alert")).to_contain_text("There is no run `zz` for this key.")


@pytest.mark.page_only
def test_rows_of_the_timeline_open(page: Page, service: ServedPage, retried: str, axe: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}")
    grid = page.get_by_role("treegrid")
    expect(grid.get_by_role("row")).to_have_count(4)
    page.get_by_role("button", name="Open unsteady").click()
    expect(grid.get_by_role("row", name=re.compile("attempt 1 .*exit code 3"))).to_be_visible()
    expect(grid.get_by_role("row", name=re.compile("attempt 2 succeeded"))).to_be_visible()
    page.get_by_role("button", name="Open again").click()
    expect(grid.get_by_role("row", name=re.compile("visit 3 succeeded"))).to_be_visible()
    page.get_by_role("button", name="Open items").click()
    item = grid.get_by_role("row", name=re.compile("item 37 failed: .*division by zero"))
    expect(item).to_be_visible()
    assert find_barriers(page, axe) == []
    item.click()
    expect(page).to_have_url(re.compile(r"step=items&visit=1&item=37"))
    expect(page.locator(".picked")).to_contain_text("Item 37")


@pytest.mark.page_only
def test_the_timeline_is_used_by_keyboard(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}")
    grid = page.get_by_role("treegrid")
    expect(page.get_by_role("button", name="Open unsteady")).to_be_visible()
    grid.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(grid.get_by_role("row", name=re.compile("attempt 1"))).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(grid.get_by_role("row")).to_have_count(4)
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Step unsteady")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_be_hidden()


@pytest.mark.page_only
def test_idle_time_is_folded(page: Page, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    expect(page.get_by_role("treegrid").get_by_role("row")).to_have_count(6)
    read_axis = "() => document.querySelector('.axis canvas').toDataURL()"
    folded = page.evaluate(read_axis)
    page.get_by_label("Fold idle time").uncheck()
    assert page.evaluate(read_axis) != folded


@pytest.mark.page_only
def test_attempts_are_compared(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=unsteady#attempts")
    comparison = page.locator(".comparison")
    expect(comparison).to_contain_text("Attempt 2 against attempt 1. Same input.")
    expect(comparison.locator(".minus").filter(has_text="CommandFailed: exit code 3")).to_be_visible()
    expect(comparison.locator(".plus").filter(has_text="succeeded")).to_be_visible()
    page.get_by_label("Compare attempt 1").uncheck()
    expect(comparison).to_contain_text("Mark two attempts")
    page.locator(".attempts").get_by_role("button", name="1", exact=True).click()
    expect(page).to_have_url(re.compile("attempt=1"))
    expect(page.locator("section.error")).to_contain_text("exit code 3")


@pytest.mark.page_only
def test_colours_of_commands_are_read_and_other_controls_are_symbols(
    page: Page, service: ServedPage, retried: str
) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=unsteady")
    line = page.locator("#section-logs li").first
    expect(line.locator(".ansi1")).to_have_text("red")
    expect(line).to_contain_text("ared\u2407")


@pytest.mark.page_only
def test_items_are_found_by_cell_and_number(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=items")
    strip = page.locator(".strip rect")
    expect(strip).to_have_count(40)
    strip.nth(36).click()
    expect(page).to_have_url(re.compile("item=37"))
    expect(page.locator(".picked")).to_contain_text("division by zero")
    page.get_by_label(re.compile("^Item")).select_text()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    expect(page.locator(".picked")).to_contain_text("Item 3 Succeeded")


@pytest.mark.page_only
def test_long_values_are_cut_and_virtual(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=again&visit=2#saved")
    saved = page.locator("#section-saved")
    expect(saved.locator("dt")).to_have_text(["n", "text", "list"])
    expect(saved.locator("dl > div").first).to_have_text("n1 2")
    expect(saved.get_by_role("button", name="Show 3 KB").first).to_be_visible()
    window = saved.locator(".window").last
    assert 20 < window.locator(".member").count() < 80
    window.evaluate("(element) => (element.scrollTop = element.scrollHeight)")
    expect(window.locator(".member").last).to_contain_text("299 299")


@pytest.mark.page_only
def test_a_value_that_is_cut_is_saved_as_a_file(page: Page, service: ServedPage) -> None:
    run_id = service.start(LARGE, "succeeded")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=make%20it%2Fall#saved")
    saved = page.locator("#section-saved")
    expect(saved).to_contain_text("of which this is the beginning")
    for name, size, ending in (("rows", 100, ".json"), ("text", 100_000, ".txt")):
        pair = saved.locator("dl > div").filter(has_text=name)
        with page.expect_download() as download:
            pair.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == f"{run_id[:8]}-make_it_all-{name}{ending}"
        content = Path(download.value.path()).read_text("utf-8")
        value = json.loads(content) if ending == ".json" else content
        assert (len(value), value[-1][-1]) == (size, "x")


def test_earlier_attempts_say_that_their_results_are_not_kept(
    page: Page, service: ServedPage, retried: str
) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=unsteady&attempt=1#result")
    expect(page.locator("#section-result")).to_contain_text("Those of earlier ones are not kept.")
    expect(page.locator("#section-result")).not_to_contain_text("exit_code")


def test_a_sub_run_opens_in_the_graph_and_is_followed(page: Page, service: ServedPage, axe: str) -> None:
    child = CALLED.encode()
    answer = service.http.post("/playbooks", content=child, headers=YAML)
    assert answer.status_code in (200, 201), answer.text
    run_id = service.start(CALLING, "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    caller = page.get_by_role("button", name=re.compile("^call .*waiting"))
    expect(caller).to_be_visible()
    before = caller.bounding_box()
    assert before is not None
    page.locator("[data-opener=call]").click()
    inner = page.get_by_role("group", name=re.compile("^Sub-run called"))
    question = inner.get_by_role("button", name=re.compile("^confirm .*waiting"))
    expect(question).to_have_class(re.compile("asks"))
    expect(question).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?sub=call%2F\w+$"))
    after = caller.bounding_box()
    assert after is not None
    assert (round(after["x"]), round(after["y"])) == (round(before["x"]), round(before["y"]))
    last_step = page.get_by_role("button", name=re.compile("^last ")).bounding_box()
    box = question.bounding_box()
    assert last_step is not None and box is not None
    assert last_step["y"] > box["y"] + box["height"]
    assert find_barriers(page, axe) == []
    view = page.locator(".graph svg > g").first.get_attribute("transform")
    [sub_run] = service.http.get("/workflows", params={"parent": run_id}).json()["items"]
    body = {"step": "confirm", "answer": {"ready": True}}
    assert service.http.post(f"/workflows/{sub_run['workflow_id']}/answer", json=body).status_code == 202
    expect(inner.get_by_role("button", name=re.compile("^confirm .*succeeded"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^last .*succeeded"))).to_be_visible()
    assert page.locator(".graph svg > g").first.get_attribute("transform") == view
    caller = page.get_by_role("button", name=re.compile("^call "))
    caller.click()
    runs = page.locator("#section-runs")
    expect(runs.get_by_role("link", name=re.compile("^called "))).to_be_visible()
    runs.get_by_role("button", name="Show in the graph").click()
    expect(inner).to_have_count(0)
    runs.get_by_role("button", name="Show in the graph").click()
    inner.get_by_role("button", name=re.compile("^confirm ")).click()
    expect(page).to_have_url(f"{service.url}/ui/runs/{sub_run['workflow_id']}?step=confirm")
    page.go_back()
    expect(inner).to_be_visible()


def test_lines_are_found_on_the_service(page: Page, service: ServedPage) -> None:
    run_id = service.start(TALKING, "succeeded")
    page.goto(f"{service.url}/ui/runs/{run_id}/logs")
    lines = page.locator(".log li")
    expect(lines).to_have_count(1000)
    # The time of the next line follows without a blank.
    expect(page.locator(".log")).not_to_contain_text(re.compile(r"line 1042\b"))
    field = page.get_by_label("Text", exact=True)
    field.fill("LINE 104")
    page.keyboard.press("Enter")
    expect(lines).to_have_count(11)
    expect(lines.last).to_contain_text("line 1049")
    field.fill("nothing has this text")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No line has this text.")).to_be_visible()


@pytest.mark.page_only
def test_lines_that_the_service_finds_late_do_not_move(page: Page, service: ServedPage) -> None:
    run_id = service.start(TALKING, "succeeded")
    with hold_request(page, "**/workflows/*/logs"):
        page.goto(f"{service.url}/ui/runs/{run_id}/logs")
        field = page.get_by_label("Text", exact=True)
        expect(field).to_be_visible()
        expect(page.get_by_text("No line was logged.")).to_have_count(0)
    lines = page.locator(".log li")
    expect(lines).to_have_count(1000)
    with hold_request(page, "**/workflows/*/logs?q=*"):
        field.fill("LINE 104")
        page.keyboard.press("Enter")
        # What moves within half a second of a key is not counted.
        page.wait_for_timeout(600)
        expect(lines).to_have_count(1000)
    expect(lines).to_have_count(11)


def test_items_above_ten_thousand_are_read_on_demand(page: Page, service: ServedPage) -> None:
    run_id = service.start(MANY, "succeeded")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=many&item=10042#items")
    section = page.locator("#section-items")
    expect(section).to_contain_text("It is not read yet.")
    expect(section).to_contain_text("10,000 of 10,050 items are read.")
    section.get_by_role("button", name="Read 50 more").click()
    expect(section.locator(".picked")).to_contain_text("Item 10,042 Succeeded")
    expect(section.get_by_role("button", name="Read 50 more")).to_have_count(0)


@pytest.mark.page_only
def test_a_rule_shows_its_guards_and_the_case_taken(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}?step=again&visit=1#rule")
    cases = page.locator(".guards li")
    expect(cases.first).to_contain_text("n < 3")
    expect(cases.first).to_contain_text("true")
    expect(cases.nth(1)).to_contain_text("not evaluated")
    cases.first.get_by_role("button", name="again").click()
    expect(page).to_have_url(re.compile("step=again$"))


def test_a_run_is_resumed_with_a_corrected_input(page: Page, service: ServedPage) -> None:
    run_id = service.start(CORRECTABLE, "failed")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=divide")
    page.get_by_role("button", name="Resume with corrected input").click()
    dialog = page.get_by_role("dialog", name="Resume with corrected input")
    field = dialog.get_by_label("Input as JSON")
    expect(field).to_have_value(re.compile('"units": 0'))
    expect(dialog.get_by_role("button", name="Resume")).to_be_disabled()
    field.fill('{"units": 0, ')
    expect(dialog).to_contain_text("This is no JSON")
    field.fill('{"units": 3, "other": "same"}')
    expect(dialog).to_contain_text("Changes units.")
    dialog.get_by_role("button", name="Resume").click()
    expect(page.locator("header.head .state").first).to_have_text("Succeeded")
    assert service.http.get(f"/workflows/{run_id}/input").json()["input"]["units"] == 3


@pytest.mark.page_only
def test_the_data_of_a_step_stay_while_it_waits_to_be_done_again(page: Page, service: ServedPage) -> None:
    run_id = service.start(CORRECTABLE, "failed")
    page.goto(f"{service.url}/ui/runs/{run_id}?step=divide")
    drawer = page.get_by_role("complementary", name="Step divide")
    expect(drawer.get_by_role("heading", name="Attempts")).to_be_visible()

    def queue_again(route: Route) -> None:
        response = route.fetch()
        run = response.json()
        run["steps"]["divide"] |= {"status": "queued", "visits": 0}
        route.fulfill(response=response, json=run)

    page.route(re.compile(rf"/workflows/{run_id}\?include=graph"), queue_again)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator(".facts")).to_contain_text("0 done")
    expect(page.locator(".facts")).not_to_contain_text("failed")
    expect(drawer.get_by_role("heading", name="Attempts")).to_be_visible()
    expect(drawer).not_to_contain_text("has not started")


def test_work_of_the_cache_is_marked(page: Page, service: ServedPage) -> None:
    first, second = (service.start(CACHED, "succeeded") for _ in range(2))
    page.goto(f"{service.url}/ui/runs/{second}?step=load")
    expect(page.locator("#section-input .action")).to_contain_text(f"from the cache: run {first[:8]}")
    page.goto(f"{service.url}/ui/runs/{second}?step=sum")
    mark = page.locator("#section-attempts li")
    expect(mark).to_contain_text("from the cache: run")
    mark.get_by_role("link").click()
    expect(page).to_have_url(f"{service.url}/ui/runs/{first}")


@pytest.mark.page_only
def test_actions_that_are_not_allowed_say_why(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_have_accessible_description("the run has ended")
    expect(cancel).to_be_disabled()
    expect(page.locator(".title .primary")).to_have_text(["Start again"])
    page.get_by_role("button", name="Start again").click()
    expect(page).to_have_url(re.compile(f"/ui/playbooks/retried/start\\?from={retried}"))


def test_delete_needs_two_clicks(page: Page, service: ServedPage) -> None:
    run_id = service.start(CORRECTABLE, "failed")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    page.get_by_role("button", name="Delete").click()
    assert service.http.get(f"/workflows/{run_id}").status_code == 200
    page.get_by_role("button", name="Delete for ever").click()
    expect(page).to_have_url(f"{service.url}/ui/runs")
    assert service.http.get(f"/workflows/{run_id}").status_code == 404


def test_a_deleted_run_stays_legible(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CORRECTABLE, "failed")
    with open_faulty_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        node = page.get_by_role("button", name=re.compile("divide .*failed"))
        expect(node).to_be_visible()
        assert service.http.delete(f"/workflows/{run_id}").status_code == 204
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.get_by_role("alert")).to_contain_text(re.compile(r"This run was deleted at \d\d:\d\d"))
        expect(node).to_be_visible()
        expect(page.get_by_role("button", name="Resume")).to_be_disabled()


@pytest.mark.page_only
def test_a_step_is_found_by_its_name(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}")
    expect(page.get_by_role("treegrid").get_by_role("row")).to_have_count(4)
    page.keyboard.press("/")
    page.keyboard.type("stead")
    expect(page.get_by_role("option", name="unsteady")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Step unsteady")).to_be_visible()
    page.keyboard.press("]")
    expect(page.get_by_role("complementary", name="Step again")).to_be_visible()
    page.keyboard.press("[")
    expect(page.get_by_role("complementary", name="Step unsteady")).to_be_visible()


@pytest.mark.page_only
def test_single_keys_are_switched_off(page: Page, service: ServedPage, retried: str) -> None:
    page.goto(f"{service.url}/ui/runs/{retried}")
    expect(page.get_by_role("treegrid").get_by_role("row")).to_have_count(4)
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    dialog.get_by_label("Single keys work").uncheck()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("]")
    page.keyboard.press("?")
    expect(page.get_by_role("complementary")).to_have_count(0)
    expect(page.get_by_role("dialog", name="Keys")).to_have_count(0)


@pytest.mark.page_only
def test_a_folded_group_opens_in_its_place(page: Page, service: ServedPage) -> None:
    run_id = service.start(make_long_playbook(200), "waiting")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    group = page.get_by_role("button", name=re.compile("^201 steps"))
    expect(group).to_be_visible()
    expect(page.locator(".minimap")).to_have_count(0)
    before = group.locator(".box").bounding_box()
    group.click()
    expect(page).to_have_url(re.compile("open=s0"))
    first = page.get_by_role("button", name=re.compile("^s0 "))
    expect(first).to_be_visible()
    after = first.locator(".box").bounding_box()
    assert before is not None and after is not None
    assert abs(before["x"] + before["width"] / 2 - after["x"] - after["width"] / 2) < 2
    assert abs(before["y"] - after["y"]) < 8
    first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name=re.compile("^s1 "))).to_be_focused()
    view = page.locator(".graph svg > g").first
    shown = view.get_attribute("transform")
    page.locator(".minimap").click(position={"x": 30, "y": 5})
    assert view.get_attribute("transform") != shown
    page.get_by_role("button", name="Fold s0").click()
    expect(group).to_be_visible()


@pytest.mark.page_only
def test_a_group_opens_while_the_history_is_read(page: Page, service: ServedPage) -> None:
    run_id = service.start(make_long_playbook(200), "waiting")
    with hold_request(page, "**/events?*"):
        page.goto(f"{service.url}/ui/runs/{run_id}")
        page.get_by_role("button", name=re.compile("^201 steps")).click()
        expect(page.get_by_role("button", name="Fold s0")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^s0 "))).to_be_visible()


@pytest.mark.page_only
def test_a_group_that_stays_folded_says_so(page: Page, service: ServedPage) -> None:
    run_id = service.start(make_long_playbook(240), "waiting")
    page.route(
        re.compile(r"include=graph&open="),
        lambda route: route.continue_(url=route.request.url.replace("&open=s0", "")),
    )
    page.goto(f"{service.url}/ui/runs/{run_id}")
    page.get_by_role("button", name=re.compile("^241 steps")).click()
    expect(page.get_by_role("button", name="Fold s0")).to_be_visible()
    expect(page.get_by_text("Some steps stay folded: to draw them takes too long.")).to_be_visible()


@pytest.mark.page_only
def test_the_sign_of_an_arrow_for_errors_lies_along_the_arrow(page: Page, service: ServedPage) -> None:
    run = service.start(GUARDED, "succeeded")
    page.goto(f"{service.url}/ui/runs/{run}")
    drawn = page.locator(".diamond").get_attribute("d") or ""
    (edge,) = (edge for edge in read_graph(service, run)["edges"] if edge["is_error"])
    start, towards = (complex(*point) for point in edge["points"][:2])
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", drawn)]
    corners = [complex(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    unit = (towards - start) / abs(towards - start)
    assert abs(unit.real) > 0.1  # So the arrow does not lead down.
    assert [corners[0], corners[2]] == pytest.approx([start, start + 10 * unit], abs=0.05)


@pytest.mark.page_only
def test_an_arrow_that_ends_at_a_name_leads_to_its_step(page: Page, service: ServedPage) -> None:
    rules = [f"{{case: '{{{{ 0 }}}}', run: [report]}}, {{case: default, run: [s{n + 1}]}}" for n in range(9)]
    rules.append("{case: default, run: [report]}")
    steps = [
        f"- {{name: s{n}, run: [{{action: log, message: x}}], rule: [{rule}]}}"
        for n, rule in enumerate(rules)
    ]
    steps.append("- {name: report, run: [{action: log, message: x}]}")
    run_id = service.start("\n".join(["name: reported", "steps:", *steps]), "succeeded")
    page.goto(f"{service.url}/ui/runs/{run_id}")
    page.get_by_role("button", name="Zoom in").click(click_count=3)
    page.locator(".graph").get_by_text("→ report").nth(4).click()
    expect(page).to_have_url(re.compile("step=report"))
    expect(page.get_by_role("button", name=re.compile("^report "))).to_have_attribute("aria-pressed", "true")


@pytest.mark.page_only
def test_nothing_moves_while_a_view_loads(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(make_long_playbook(2), "waiting")
    views = {
        f"runs/{run_id}/data": "The run has not ended.",
        "runs/5a14a9fa": "There is no run",
        "inbox": "Inbox",
    }
    for path, text in (views | {"triggers": "All triggers"}).items():
        with open_page(browser, viewport={"width": 390, "height": 760}) as page:
            page.goto(f"{service.url}/ui/{path}")
            expect(page.get_by_text(text).first).to_be_visible()
            expect(page.get_by_text("Reading the")).to_have_count(0)


def test_a_thousand_events_move_nothing(page: Page, service: ServedPage) -> None:
    run_id = service.start(CYCLE, "waiting")
    page.set_viewport_size({"width": 1400, "height": 300})
    page.goto(f"{service.url}/ui/runs/{run_id}")
    node = page.get_by_role("button", name=re.compile("^turn"))
    expect(node).to_be_visible()
    page.keyboard.press("+")
    page.mouse.move(300, 250)
    page.mouse.wheel(40, 30)
    read = """() => ({
      view: document.querySelector(".graph svg > g").getAttribute("transform"),
      scroll: document.querySelector(".timeline .scroller").scrollTop,
    })"""
    page.get_by_role("treegrid").evaluate("(element) => (element.scrollTop = 20)")
    before = page.evaluate(read)
    answer = {"step": "ask", "visit": 1, "answer": {"approve": True}}
    assert service.http.post(f"/workflows/{run_id}/answer", json=answer).status_code == 202
    service.wait_for(run_id, "succeeded")
    expect(page.locator("header.head .state").first).to_have_text("Succeeded")
    expect(page.get_by_role("row", name=re.compile("turn 260×"))).to_be_visible()
    number = page.get_by_role("link", name=re.compile("^Events")).inner_text()
    assert int(re.sub(r"\D", "", number)) > 1000
    assert page.evaluate(read) == before


_FIND_OVERLAPS = """() => {
  const texts = [...document.querySelectorAll(".graph .node text, .graph .label")]
    .map((text) => [text.textContent, text.getBoundingClientRect()]);
  const overlap = (a, b) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  return texts.flatMap(([words, box], index) => texts.slice(index + 1)
    .filter(([, other]) => overlap(box, other)).map(([other]) => `${words} | ${other}`));
}"""


@pytest.mark.page_only
def test_no_labels_overlap_if_the_fonts_are_missing(browser: Browser, service: ServedPage) -> None:
    names = [f"reconcile_the_balances_of_{number}_departments" for number in range(4)]
    ask = "run: [{action: callback, answer: {region: {type: string}}, as: decision}]"
    cases = "".join(
        f"      - {{case: \"{{{{ decision.region == 'department {number}' }}}}\", run: [{name}]}}\n"
        for number, name in enumerate(names)
    )
    steps = "".join(f"  - name: {name}\n    run: [{{action: log, message: done}}]\n" for name in names)
    text = f"name: labelled\nsteps:\n  - name: ask\n    {ask}\n    rule:\n{cases}{steps}"
    run_id = service.start(text, "waiting")
    with open_faulty_page(browser) as page:
        page.route("**/*.woff2", lambda route: route.abort())
        page.goto(f"{service.url}/ui/runs/{run_id}?view=graph")
        expect(page.locator(".graph .node")).to_have_count(5)
        expect(page.locator(".graph .label")).to_have_count(5)
        assert page.evaluate("document.fonts.check('12px Inter')") is False
        assert page.evaluate(_FIND_OVERLAPS) == []


_WATCH_STEPS = """() => {
  window.drawn = { built: 0, steps: new Set(), transitions: 0 };
  const steps = document.querySelector('.graph [aria-label="Steps"]');
  new MutationObserver((list) => {
    for (const { type, target } of list) {
      if (type === "childList") drawn.built++;
      const step = target.closest("[data-step]");
      if (step) drawn.steps.add(step.dataset.step);
    }
  }).observe(steps, { subtree: true, childList: true, attributes: true });
  steps.addEventListener("transitionrun", () => drawn.transitions++);
}"""


@pytest.mark.page_only
def test_new_states_draw_only_their_steps_and_many_at_once(page: Page, service: ServedPage) -> None:
    run_id = service.start(chain(30), "succeeded")
    states: dict[str, str] = {}

    def answer(route: Route) -> None:
        response = route.fetch()
        run = response.json()
        for node in run["graph"]["nodes"]:
            node["state"] = states.get(node["title"], node["state"])
        route.fulfill(response=response, json=run)

    page.route(re.compile(rf"/workflows/{run_id}\?include=graph"), answer)
    page.goto(f"{service.url}/ui/runs/{run_id}?view=graph")
    expect(page.locator(".graph .node.succeeded")).to_have_count(30)
    steps = {f"s{number}" for number in range(30)}
    for failed, changed, is_gradual in (steps, steps, False), (steps - {"s7"}, {"s7"}, True):
        page.evaluate(_WATCH_STEPS)
        states.clear()
        states |= dict.fromkeys(failed, "failed")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator(".graph .node.failed")).to_have_count(len(failed))
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        drawn = page.evaluate("({ ...drawn, steps: [...drawn.steps] })")
        assert (drawn["built"], set(drawn["steps"])) == (0, changed)
        assert (drawn["transitions"] > 0) is is_gradual


def test_a_lost_connection_says_so_and_comes_back(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    with open_faulty_page(browser) as page:
        is_lost = False
        page.context.route("**/workflows/**", lambda route: route.abort() if is_lost else route.continue_())
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.get_by_role("button", name=re.compile("^ask .*waiting"))).to_be_visible()
        is_lost = True
        # Another address of the same run opens its stream anew, which now fails.
        page.get_by_role("link", name="NoETL", exact=True).click()
        page.go_back()
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
        is_lost = False
        page.reload()
        expect(page.get_by_role("button", name=re.compile("^ask .*waiting"))).to_be_visible()


@pytest.mark.page_only
def test_a_service_without_streams_is_polled(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")

    def refuse(route: Route) -> None:
        if "text/event-stream" in route.request.headers.get("accept", ""):
            route.fulfill(status=501, json={"title": "Not supported", "detail": "no streams here"})
        else:
            route.continue_()

    with open_faulty_page(browser) as page:
        page.route("**/workflows/*/events*", refuse)
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.locator(".connection")).to_have_text("Every few seconds")
        answer = {"step": "ask", "visit": 1, "answer": {"approve": True}}
        assert service.http.post(f"/workflows/{run_id}/answer", json=answer).status_code == 202
        expect(page.locator("header.head .state").first).to_have_text("Succeeded")
        expect(page.get_by_role("row", name=re.compile("reconcile succeeded"))).to_be_visible()


@pytest.mark.page_only
def test_an_expired_key_is_asked_for_and_the_request_repeated(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    with open_faulty_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        page.get_by_role("button", name="Pause", exact=True).wait_for()

        def expire(route: Route) -> None:
            if route.request.headers.get("authorization") == "Bearer fresh":
                headers = dict(route.request.headers)
                del headers["authorization"]
                route.continue_(headers=headers)
            else:
                route.fulfill(status=401, json={"title": "Unauthorized"})

        page.route(f"**/workflows/{run_id}/pause", expire)
        page.get_by_role("button", name="Pause", exact=True).click()
        dialog = page.get_by_role("dialog", name="Key")
        expect(dialog).to_be_visible()
        expect(page.get_by_role("heading", name="close_month")).to_be_visible()
        dialog.get_by_label("Key").fill("fresh")
        page.unroute("**/workflows/**")
        dialog.get_by_role("button", name="Use the key").click()
        expect(page.locator("header.head .state").first).to_have_text("Paused")


@pytest.mark.page_only
def test_a_phone_lists_steps_and_shows_one_as_a_page(browser: Browser, service: ServedPage, axe: str) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    with open_page(browser, viewport={"width": 390, "height": 844}) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.locator(".steplist h2").first).to_have_text("Needs attention")
        expect(page.locator(".steplist li").first).to_contain_text("Write off 3 open items?")
        duration = page.locator(".facts span").nth(1)
        expect(duration).not_to_have_text(duration.inner_text())  # it counts, and nothing moves
        assert find_barriers(page, axe) == []
        page.locator(".steplist").get_by_role("button", name=re.compile("compute")).click()
        expect(page.get_by_role("complementary", name="Step compute")).to_be_visible()
        expect(page.get_by_role("heading", name="close_month")).to_be_hidden()
        page.get_by_role("button", name="Close").click()
        page.get_by_role("link", name="Graph").click()
        expect(page.get_by_role("button", name=re.compile("^ask .*waiting"))).to_be_visible()


@pytest.mark.parametrize("options", [{"forced_colors": "active"}, {"reduced_motion": "reduce"}])
def test_system_settings_are_respected(
    browser: Browser, service: ServedPage, retried: str, options: dict[str, str]
) -> None:
    with open_page(browser, **options) as page:
        page.goto(f"{service.url}/ui/runs/{retried}")
        expect(page.get_by_role("treegrid").get_by_role("row")).to_have_count(4)
        box = page.locator(".graph .box").first
        duration = box.evaluate("(element) => getComputedStyle(element).transitionDuration")
        assert ("reduced_motion" in options) == (duration == "0s")
        sign = page.locator(".timeline .sign.ok .fill").first
        colour = sign.evaluate("(element) => getComputedStyle(element).fill")
        assert colour != "none"


def test_runs_are_compared_from_the_list(page: Page, service: ServedPage, tmp_path: Path) -> None:
    first, second = service.start(CORRECTABLE, "failed"), service.start(FAILING, "failed")
    page.goto(f"{service.url}/ui/runs")
    page.get_by_label(f"Select {first[:8]}").check()
    compare = page.get_by_role("button", name="Compare")
    expect(compare).to_have_accessible_description("select two runs")
    page.get_by_label(f"Select {second[:8]}").check()
    compare.click()
    expect(page).to_have_url(f"{service.url}/ui/compare?a={first}&b={second}")


def open_hidden_page(page: Page) -> None:
    """Let a test hide the tab, and turn its clock."""
    page.clock.install()
    page.add_init_script(
        "window.isHidden = false;"
        "Object.defineProperty(document, 'hidden', { get: () => window.isHidden });"
        "window.hideTab = (hidden) => {"
        " window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); };"
    )


def test_a_hidden_tab_closes_its_stream_and_catches_up(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    with open_faulty_page(browser) as page:
        open_hidden_page(page)
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.locator(".connection")).to_have_text("Live")
        page.evaluate("hideTab(true)")
        page.clock.fast_forward(61_000)
        expect(page.locator(".connection")).to_have_text("Paused")
        answer = {"step": "ask", "visit": 1, "answer": {"approve": True}}
        assert service.http.post(f"/workflows/{run_id}/answer", json=answer).status_code == 202
        service.wait_for(run_id, "succeeded")
        page.evaluate("hideTab(false)")
        page.clock.run_for(2000)
        expect(page.locator("header.head .state").first).to_have_text("Succeeded")


def test_a_lost_stream_names_the_time_of_the_last_data(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(CLOSE_MONTH, "waiting")
    with open_faulty_page(browser) as page:
        open_hidden_page(page)
        is_lost = False

        def lose(route: Route) -> None:
            is_stream = "text/event-stream" in route.request.headers.get("accept", "")
            route.abort() if is_lost and is_stream else route.continue_()

        page.route("**/workflows/*/events*", lose)
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.locator(".connection")).to_have_text("Live")
        is_lost = True
        page.evaluate("hideTab(true)")
        page.clock.fast_forward(61_000)
        page.evaluate("hideTab(false)")
        expect(page.locator(".connection")).to_have_text(
            re.compile(r"Reconnecting, last data \d\d:\d\d:\d\d")
        )
        expect(page.get_by_role("button", name="Pause", exact=True)).to_be_enabled()
        is_lost = False
        page.clock.run_for(20_000)
        expect(page.locator(".connection")).to_have_text("Live")


TRAVELLED = """\
name: travelled
variables: {total: 0}
steps:
  - name: load
    run: [{action: set, set: {rows: [4, 5]}}]
    rule: [{case: default, run: [sum, keep]}]
  - name: sum
    run: [{action: set, set: {total: "{{ rows | sum }}"}}]
    rule: [{case: default, run: [report]}]
  - name: keep
    run: [{action: log, message: kept}]
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: log, message: "{{ total }}"}]
"""


def test_a_person_slides_through_the_history(browser: Browser, service: ServedPage, axe: str) -> None:
    """The slider shows graph, states and names as they were, by keys, and an address has the place."""
    run_id = service.start(TRAVELLED, "succeeded")
    events = service.http.get(f"/workflows/{run_id}/events").json()["items"]
    number = 1 + next(n for n, e in enumerate(events) if (e["type"], e["step"]) == ("step.completed", "load"))
    with open_page(browser) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        slider = page.get_by_role("slider", name="Event")
        present = page.get_by_role("button", name="End")
        expect(slider).to_have_value(str(len(events)))
        expect(present).to_be_disabled()
        slider.focus()
        slider.press("ArrowLeft")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}?at={len(events) - 1}")
        expect(present).to_be_enabled()
        slider.press("Home")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}?at=1")
        expect(slider).to_have_attribute(
            "aria-valuetext", re.compile("^Event 1 of [0-9]+: workflow.started, ")
        )
        state = page.get_by_role("region", name="Earlier state")
        expect(page.locator("[data-step=load]")).to_have_accessible_name(re.compile("^load .*queued"))
        expect(state.get_by_role("row")).to_have_count(1)
        for _ in range(number - 1):
            slider.press("ArrowRight")
        expect(page.locator("[data-step=load]")).to_have_accessible_name(re.compile("^load .*succeeded"))
        expect(page.locator("[data-step=report]")).to_have_accessible_name(re.compile("^report .*may run"))
        expect(state.get_by_role("row").filter(has_text="total")).to_contain_text("first value")
        expect(state.get_by_role("row").filter(has_text="rows")).to_contain_text("from load")
        expect(state.get_by_role("heading", name="2 branches")).to_be_visible()
        assert find_barriers(page, axe) == []
        state.get_by_role("button", name="sum").click()
        expect(page.get_by_role("complementary", name="Step sum")).to_contain_text("has not started")
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}?at={number}")
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}")
        expect(slider).to_have_value(str(len(events)))
        expect(page.get_by_role("region", name="Timeline")).to_be_visible()


def test_an_address_leads_to_an_earlier_state(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(TRAVELLED, "succeeded")
    events = service.http.get(f"/workflows/{run_id}/events").json()["items"]
    place = next(n for n, event in enumerate(events) if event["type"] == "step.started")
    with open_page(browser, statuses=[422]) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}?at={events[place]['id']}&step=load")
        expect(page.get_by_role("slider")).to_have_value(str(place + 1))
        drawer = page.get_by_role("complementary", name="Step load")
        expect(drawer).to_contain_text("1 attempt")
        expect(drawer).not_to_contain_text("rows =")
        expect(drawer.get_by_role("heading", name="Saved")).to_have_count(0)
        page.goto(f"{service.url}/ui/runs/{run_id}?at=999")
        expect(page.get_by_role("alert")).to_contain_text(f"its events are 1 to {len(events)}")
        page.get_by_role("button", name="End").click()
        expect(page).to_have_url(f"{service.url}/ui/runs/{run_id}")
