"""Runs that continue in another version of their playbook, and back, on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import YAML, ServedPage

DIVIDED = """\
name: halves
version: "1"
steps:
  - name: load
    run: [{action: set, set: {x: 1}}]
    rule: [{case: default, run: [divide]}]
  - name: divide
    run: [{action: set, set: {margin: "{{ 6 / (x - 1) }}"}}]
"""

APPROVED = """\
name: approved
version: "1"
steps:
  - name: load
    run: [{action: set, set: {x: 1}}]
    rule: [{case: default, run: [ask]}]
  - name: ask
    run: [{action: callback, title: Go on?, answer: {approve: {type: boolean}}, as: decision}]
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: set, set: {total: "{{ x }}"}}]
"""

HELD = """\
name: held
version: "1"
steps:
  - name: hold
    run: [{action: shell, command: "until [ -e FILE ]; do sleep 0.05; done"}]
    rule: [{case: default, run: [report]}]
  - name: report
    run: [{action: set, set: {total: 1}}]
"""

VIEWS: tuple[dict[str, object], ...] = (
    {},
    {"color_scheme": "dark"},
    {"viewport": {"width": 390, "height": 844}},
)


def register(service: ServedPage, *texts: str) -> None:
    for text in texts:
        answer = service.http.post("/playbooks", content=text, headers=YAML)
        assert answer.status_code in (200, 201), answer.text


def version_of(service: ServedPage, run_id: str) -> str:
    return str(service.http.get(f"/workflows/{run_id}").json()["version"])


@contextmanager
def open_versions(browser: Browser, service: ServedPage, run_id: str, **options: object) -> Iterator[Page]:
    """Yield the page of a run with the dialog for its versions."""
    with open_page(browser, statuses=[409], **options) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        if "viewport" in options:
            page.get_by_role("button", name="More actions").click()
        page.get_by_role("button", name="Change version").click()
        expect(find_dialog(page)).to_be_visible()
        yield page


def find_dialog(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Continue in another version")


def find_button(page: Page, name: str) -> Locator:
    return find_dialog(page).get_by_role("button", name=name)


def find_verdict(page: Page) -> Locator:
    return find_dialog(page).get_by_role("region", name="Verdict")


def test_a_failed_run_continues_with_a_corrected_playbook(
    browser: Browser, service: ServedPage, axe: str
) -> None:
    run_id = service.start(DIVIDED, "failed")
    share = (
        DIVIDED.replace('"1"', '"2"').replace("name: divide", "name: share").replace("[divide]", "[share]")
    )
    needs = DIVIDED.replace('"1"', '"3"').replace("{x: 1}", "{x: 1, k: 1}").replace("(x - 1)", "(x + k)")
    register(service, DIVIDED, share, needs)
    with open_page(browser, statuses=[409]) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}?step=divide")
        page.get_by_role("button", name="Continue with a corrected playbook").click()
        dialog, verdict = find_dialog(page), find_verdict(page)
        resume, check = find_button(page, "Continue"), find_button(page, "Check")
        version = dialog.get_by_label("Version", exact=True)
        expect(version.locator("option")).to_have_text(["3", "2"])
        version.select_option("2")
        check.click()
        expect(verdict).to_contain_text("The run cannot continue in this version.")
        expect(verdict).to_contain_text("NC102")
        expect(resume).to_be_disabled()
        dialog.get_by_text("Other values, and steps with new names").click()
        dialog.get_by_label("New names of steps").fill('{"divide": "share"')
        expect(verdict).to_contain_text("must be JSON objects")
        expect(check).to_be_disabled()
        dialog.get_by_label("New names of steps").fill('{"divide": "share"}')
        check.click()
        expect(verdict).to_contain_text("The run may continue.1 step done again.")
        dialog.get_by_label("New names of steps").fill("")
        version.select_option("3")
        check.click()
        expect(verdict).to_contain_text("as soon as these values are given")
        expect(verdict).to_contain_text("Needs k of type")
        assert find_barriers(page, axe) == []
        dialog.get_by_label(re.compile("^k, line")).fill("2")
        expect(verdict).to_contain_text("Check whether")
        check.click()
        expect(verdict).to_contain_text("The run may continue.")
        resume.click()
        expect(dialog).to_have_count(0)
        expect(page.locator("header.head .state").first).to_have_text("Succeeded")
    assert service.http.get(f"/workflows/result/{run_id}").json()["result"]["margin"] == 2


@pytest.mark.parametrize("options", VIEWS)
def test_a_waiting_run_continues_in_another_version_and_returns(
    browser: Browser, service: ServedPage, axe: str, options: dict[str, object]
) -> None:
    """The verdict, the switch, and its undoing while the run still waits, all by keyboard."""
    run_id = service.start(APPROVED, "waiting")
    register(service, APPROVED, APPROVED.replace('"1"', '"2"').replace("{{ x }}", "{{ x + 1 }}"))
    with open_versions(browser, service, run_id, **options) as page:
        button = page.get_by_role("button", name="Change version")
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        expect(find_dialog(page).get_by_label("Version", exact=True)).to_have_value("2")
        find_button(page, "Check").press("Enter")
        expect(find_verdict(page)).to_contain_text("The run may continue.Nothing is done again.")
        assert find_barriers(page, axe) == []
        find_button(page, "Continue").press("Enter")
        expect(find_dialog(page)).to_have_count(0)
        expect(page.locator(".title .tag")).to_have_text("2")
        expect(page.locator(".switched")).to_contain_text("Continues in version 2 instead of version 1.")
        assert find_barriers(page, axe) == []
        undo = page.get_by_role("button", name="Undo")
        undo.focus()
        page.keyboard.press("Enter")
        expect(page.locator(".title .tag")).to_have_text("1")
        expect(undo).to_have_count(0)
    assert version_of(service, run_id) == "1"
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()


def test_a_paused_run_continues_in_another_version(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(APPROVED, "waiting")
    register(service, APPROVED, APPROVED.replace('"1"', '"2"').replace("{{ x }}", "{{ x + 1 }}"))
    service.http.post(f"/workflows/{run_id}/pause").raise_for_status()
    with open_versions(browser, service, run_id) as page:
        find_button(page, "Check").click()
        find_button(page, "Continue").click()
        expect(page.locator(".title .tag")).to_have_text("2")
        expect(page.locator("header.head .state").first).to_have_text("Paused")
        page.get_by_role("button", name="Unpause").click()
        expect(page.get_by_role("button", name="Undo")).to_be_visible()
        page.get_by_role("link", name="Source").click()
        expect(page.locator(".source")).to_contain_text("x + 1")
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()


def test_an_active_run_is_held_until_its_step_has_ended(
    browser: Browser, service: ServedPage, tmp_path: Path
) -> None:
    file = tmp_path / "go"
    text = HELD.replace("FILE", str(file))
    run_id = service.start(text, "running")
    register(service, text, text.replace('"1"', '"2"').replace("total: 1", "total: 2"))
    with open_page(browser, statuses=[409]) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        expect(page.get_by_role("button", name=re.compile("^hold.* running"))).to_have_count(1)
        page.get_by_role("button", name="Change version").click()
        find_button(page, "Check").click()
        expect(find_verdict(page)).to_contain_text("NC101")
        expect(find_button(page, "Continue")).to_be_disabled()
        find_dialog(page).get_by_label("Hold the run").check()
        expect(find_verdict(page)).to_contain_text("The run is held until its running steps have ended")
        find_button(page, "Continue").click()
        service.wait_for(run_id, "paused")
        file.touch()
        expect(find_dialog(page)).to_have_count(0)
        expect(page.locator("header.head .state").first).to_have_text("Succeeded")
    assert service.http.get(f"/workflows/result/{run_id}").json()["result"]["total"] == 2


def test_an_undoing_that_comes_too_late_is_refused(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(APPROVED, "waiting")
    register(service, APPROVED, APPROVED.replace('"1"', '"2"').replace("{{ x }}", "{{ x + 1 }}"))
    with open_versions(browser, service, run_id) as page:
        find_button(page, "Check").click()
        find_button(page, "Continue").click()
        undo = page.get_by_role("button", name="Undo")
        expect(undo).to_be_visible()

        def answer_first(route: Route) -> None:
            answer = {"step": "ask", "answer": {"approve": True}}
            service.http.post(f"/workflows/{run_id}/answer", json=answer).raise_for_status()
            service.wait_for(run_id, "succeeded")
            route.continue_()

        page.route("**/workflows/bulk/migrate", answer_first)
        undo.click()
        expect(page.locator(".switched").get_by_role("alert")).to_be_visible()
        expect(undo).to_have_count(0)
    assert version_of(service, run_id) == "2"


def test_a_run_without_another_version_says_so(browser: Browser, service: ServedPage) -> None:
    run_id = service.start(APPROVED.replace("name: approved", "name: alone"), "waiting")
    with open_page(browser, statuses=[404]) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        page.get_by_role("button", name="Change version").click()
        expect(find_dialog(page).locator(".problem")).to_contain_text("alone")
        expect(find_button(page, "Check")).to_have_accessible_description("there is no other version")
    service.http.post(f"/workflows/{run_id}/cancel").raise_for_status()
