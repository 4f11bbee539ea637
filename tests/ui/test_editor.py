"""Journeys through the editor of playbooks in a real Chromium, on a real service."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from tests.ui.browser import find_barriers, hold_request, open_page
from tests.ui.conftest import YAML, ServedPage

PLAYBOOK = """\
name: {name}
input: {{region: {{type: string, default: eu}}}}
steps:
  - name: load
    run:
      - action: set
        set: {{total: 3}}
    rule:
      - case: default
        run: [rank_products]
  - name: rank_products
    run:
      - action: log
        message: "{{{{ total }}}}"
    rule:
      - case: default
        run: [last]
  - name: last
    run:
      - action: set
        set: {{later: "{{{{ total }}}}"}}
"""
FIRST_CHECK_MS = 60_000
"""The first check starts a process of the service."""


def register(service: ServedPage, name: str, text: str | None = None) -> str:
    """Register a playbook, and return the address of its editor."""
    content = (text or PLAYBOOK.format(name=name)).encode()
    answer = service.http.post("/playbooks", content=content, headers=YAML)
    assert answer.status_code in (200, 201), answer.text
    return f"{service.url}/ui/playbooks/{name}/edit"


def open_editor(page: Page, address: str) -> Locator:
    """Open an editor, wait until its text is checked, and return the text."""
    page.goto(address)
    expect(page.locator(".checked")).to_have_text(re.compile(r"Checked \d+ s ago"), timeout=FIRST_CHECK_MS)
    return page.locator(".cm-content")


def go_to(page: Page, words: str) -> None:
    """Put the cursor behind words of the text."""
    page.locator(".cm-line", has_text=words).first.click()
    page.keyboard.press("End")


def options(page: Page) -> Locator:
    return page.locator(".cm-tooltip-autocomplete li")


@pytest.fixture
def leaving(page: Page) -> Iterator[list[str]]:
    """The questions of the page, each of which is answered with yes."""
    questions: list[str] = []

    def answer(dialog: Dialog) -> None:
        questions.append(dialog.message)
        dialog.accept()

    page.on("dialog", answer)
    yield questions


def test_types_keys_and_parameters_are_completed(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "complete_types"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("Enter")
    page.keyboard.press("Home")
    page.keyboard.type("      - action: ht")
    expect(options(page)).to_have_text(["http"])
    page.keyboard.press("Enter")
    expect(page.locator(".cm-content")).to_contain_text("- action: http")
    page.keyboard.press("Enter")
    page.keyboard.type("ur")
    expect(options(page).first).to_contain_text("url")
    page.keyboard.press("Enter")
    expect(page.locator(".cm-content")).to_contain_text("url: ")
    page.keyboard.type('"x"')
    page.keyboard.press("Enter")
    page.keyboard.type("method: PO")
    expect(options(page)).to_have_text(["POST"])
    page.keyboard.press("Escape")
    go_to(page, "run: [rank_products]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type(", la")
    expect(options(page).first).to_contain_text("last")


def test_tasks_and_keys_below_parameters_are_completed(page: Page, service: ServedPage) -> None:
    text = PLAYBOOK.format(name="complete_nested") + (
        "tasks:\n  - name: clean_rows\n    run:\n      - {action: wait, seconds: 1}\n"
        "  - name: call_others\n    run:\n      - task: clean_rows\n"
    )
    open_editor(page, register(service, "complete_nested", text))
    go_to(page, "set: {total: 3}")
    for line, offered in (
        ("      - action: http", None),
        ("        paginate:", None),
        ("          ma", "max_pages"),
        ("        retry:", None),
        ("          att", "attempts"),
        ("        auth:", None),
        ("          be", "bearer"),
        ("        auth: {basic: {us", "username"),
        ("      - task: cle", "clean_rows"),
        ("      - cle", "clean_rows"),
    ):
        page.keyboard.press("Enter")
        page.keyboard.press("Home")
        page.keyboard.type(line)
        if offered:
            expect(options(page).first).to_contain_text(offered)
        page.keyboard.press("Escape")


def test_a_name_saved_earlier_is_offered_and_a_later_one_is_not(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "complete_names"))
    go_to(page, "message:")
    page.wait_for_timeout(0)
    with page.expect_response(lambda response: response.url.endswith("/plan/draft")):
        page.keyboard.press("ArrowLeft")
    page.keyboard.type("{{ ")
    page.keyboard.press("Control+ ")
    expect(options(page).filter(has_text=re.compile("^total"))).to_contain_text("saved by load, line 7")
    expect(options(page).filter(has_text=re.compile("^region"))).to_be_visible()
    expect(options(page).filter(has_text=re.compile("^later"))).to_have_count(0)


def test_a_finding_appears_and_its_fix_is_applied(page: Page, service: ServedPage) -> None:
    text = open_editor(page, register(service, "fix_it"))
    go_to(page, "run: [rank_products]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Backspace")
    expect(page.locator(".finding.error")).to_have_text("rank_product")
    message = page.locator(".message")
    expect(message).to_contain_text("unknown step `rank_product`. Did you mean `rank_products`?")
    expect(page.locator(".found li")).to_contain_text(["unknown step `rank_product`"])
    expect(page.get_by_role("button", name=re.compile("^load"))).to_have_class(re.compile("bad"))
    save = page.locator(".save")
    expect(save).to_be_disabled()
    expect(page.locator(".reason")).to_have_text("Not saved: 1 error is left.")
    page.get_by_role("button", name="Explain NP101").click()
    dialog = page.get_by_role("dialog", name="Explanation of NP101")
    expect(dialog).to_contain_text("A case or start names a step that does not exist.")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Home")
    expect(message).to_be_hidden()
    text.focus()
    page.keyboard.press("F8")
    expect(message).to_be_visible()
    page.keyboard.press("Control+.")
    expect(text).to_contain_text("run: [rank_products]")
    expect(page.locator(".finding.error")).to_have_count(0)
    expect(page.locator(".reason")).to_have_text("Not saved: Nothing has changed.")


def test_a_draft_is_saved_and_its_changes_are_shown(page: Page, service: ServedPage) -> None:
    text = open_editor(page, register(service, "save_it"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("0")
    page.get_by_role("button", name="Compare with 1").click()
    expect(page.locator(".cm-line.added")).to_contain_text("total: 30")
    expect(page.locator(".removed")).to_contain_text("total: 3")
    save = page.get_by_role("button", name="Save as v2")
    expect(save).to_be_enabled()
    page.keyboard.press("Control+s")
    expect(page.locator("header .tag")).to_have_text("draft, from 2")
    expect(page.locator(".reason")).to_have_text("Not saved: Nothing has changed.")
    saved = page.get_by_role("button", name="Already saved as v2")
    expect(saved).to_be_disabled()
    expect(page.locator(".cm-line.added")).to_contain_text("total: 30")
    expect(page.get_by_role("button", name="Compare with 1", pressed=True)).to_be_visible()
    text.focus()
    page.keyboard.press("Control+End")
    page.keyboard.type("# a comment that changes no plan")
    expect(page.locator(".reason")).to_have_text("Not saved: Only comments or the layout differ from 2.")
    expect(saved).to_be_visible()
    newest = service.http.get("/playbooks/save_it").json()
    assert (newest["version"], "total: 30" in newest["source"]) == ("2", True)
    expect(page.get_by_role("link", name="Start with…")).to_have_attribute(
        "href", "/ui/playbooks/save_it/start?version=2"
    )


def test_the_key_for_saving_waits_for_the_check(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "save_early"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("ArrowLeft")
    with hold_request(page, "**/plan/draft"):
        page.keyboard.type("0")
        page.keyboard.press("Control+s")
        expect(page.locator(".reason")).to_have_text("Not saved: The text is being checked.")
    expect(page.locator("header .tag")).to_have_text("draft, from 2")
    assert "total: 30" in service.http.get("/playbooks/save_early").json()["source"]
    with hold_request(page, "**/playbooks?newest=2"):
        page.keyboard.type("1")
        page.keyboard.press("Control+s")
        expect(page.locator(".reason")).to_have_text("Not saved: The draft is being saved.")
        page.keyboard.type("2")
        page.keyboard.press("Control+s")
    expect(page.locator("header .tag")).to_have_text("draft, from 4")
    assert "total: 3012" in service.http.get("/playbooks/save_early").json()["source"]


def test_nothing_moves_when_a_save_is_answered_late(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "save_late"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("0")
    expect(page.get_by_role("button", name="Save as v2")).to_be_enabled()
    with hold_request(page, "**/playbooks?newest=*"):
        page.keyboard.press("Control+s")
        page.wait_for_timeout(700)  # what moves within 500 ms after a key is no layout shift
    expect(page.get_by_role("button", name="Already saved as v2")).to_be_visible()
    expect(page.get_by_role("link", name="Runs in flight")).to_be_visible()


def test_a_text_that_changes_after_the_key_is_not_saved(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "save_changed"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("ArrowLeft")
    with hold_request(page, "**/plan/draft"):
        page.keyboard.type("0")
        page.keyboard.press("Control+s")
        page.keyboard.type("1")
    expect(page.get_by_role("button", name="Save as v2")).to_be_enabled()
    assert service.http.get("/playbooks/save_changed").json()["version"] == "1"


def test_what_is_typed_during_saving_is_a_draft(page: Page, service: ServedPage, leaving: list[str]) -> None:
    text = open_editor(page, f"{service.url}/ui/playbooks/new")
    page.get_by_label("Keep the draft in this browser").check()
    go_to(page, "name: my_playbook")
    page.keyboard.type("_being_saved")
    expect(page.get_by_role("button", name="Save as v1")).to_be_enabled()
    with hold_request(page, "**/playbooks?newest="):
        page.keyboard.press("Control+s")
        expect(page.locator(".reason")).to_have_text("Not saved: The draft is being saved.")
        page.keyboard.type("_typed")
    expect(page.locator("header .tag")).to_have_text("draft, from 1")
    expect(page).to_have_url(re.compile("/ui/playbooks/new$"))
    assert "my_playbook_being_saved_typed" in page.evaluate("localStorage['noetl-draft:']")
    page.get_by_label("Keep the draft in this browser").uncheck()
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(text).to_have_count(0)
    assert leaving == ["The draft is not saved. Leave the editor, and lose it?"]


def test_a_save_that_is_answered_after_the_editor_was_left_changes_no_address(
    page: Page, service: ServedPage, leaving: list[str]
) -> None:
    text = open_editor(page, f"{service.url}/ui/playbooks/new")
    page.get_by_label("Keep the draft in this browser").check()
    go_to(page, "name: my_playbook")
    page.keyboard.type("_left")
    expect(page.get_by_role("button", name="Save as v1")).to_be_enabled()
    with hold_request(page, "**/playbooks?newest="):
        page.keyboard.press("Control+s")
        expect(page.locator(".reason")).to_have_text("Not saved: The draft is being saved.")
        page.get_by_role("link", name="Runs", exact=True).click()
        expect(text).to_have_count(0)
    while page.evaluate("localStorage.length"):
        page.wait_for_timeout(20)
    expect(page).to_have_url(re.compile("/ui/runs"))


def test_another_version_is_not_overwritten(browser: Browser, service: ServedPage) -> None:
    context = browser.new_context()
    page = context.new_page()
    text = open_editor(page, register(service, "two_people"))
    go_to(page, "set: {total: 3}")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("1")
    expect(page.locator(".save")).to_be_enabled()
    register(service, "two_people", PLAYBOOK.format(name="two_people").replace("total: 3", "total: 4"))
    page.locator(".save").click()
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text(re.compile(r"2 was saved at .* by .*\."))
    expect(notice.get_by_role("link", name="Compare")).to_have_attribute(
        "href", "/ui/playbooks/two_people/diff?a=1&b=2"
    )
    expect(text).to_contain_text("total: 31")
    assert service.http.get("/playbooks/two_people").json()["version"] == "2"
    notice.get_by_role("button", name="Continue from 2").click()
    expect(text).to_contain_text("total: 31")
    page.get_by_role("button", name="Save as v3").click()
    expect(page.locator("header .tag")).to_have_text("draft, from 3")
    context.close()


def test_another_text_of_the_same_plan_is_not_saved(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "commented"))
    expect(page.get_by_text("Not saved: Nothing has changed.")).to_be_visible()
    page.keyboard.press("Control+End")
    page.keyboard.type("# why")
    expect(page.get_by_text("Not saved: Only comments or the layout differ from 1.")).to_be_visible()


def test_a_new_playbook_is_saved_under_its_name(page: Page, service: ServedPage) -> None:
    open_editor(page, f"{service.url}/ui/playbooks/new")
    go_to(page, "name: my_playbook")
    page.keyboard.type("_of_today")
    page.get_by_role("button", name="Save as v1").click()
    expect(page.locator("header .tag")).to_have_text("draft, from 1")
    expect(page).to_have_url(re.compile("/ui/playbooks/my_playbook_of_today/edit$"))
    assert service.http.get("/playbooks/my_playbook_of_today").json()["version"] == "1"


def test_the_last_graph_stays_while_the_text_cannot_be_read(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "unreadable"))
    graph = page.locator(".graph")
    expect(page.get_by_role("button", name="rank_products log")).to_be_visible()
    place = graph.locator("svg > g").first.get_attribute("transform")
    go_to(page, "steps:")
    page.keyboard.type(" [")
    expect(graph).to_have_class(re.compile("old"))
    expect(page.locator(".reason")).to_have_text("Not saved: The text cannot be read yet.")
    expect(page.get_by_role("button", name="rank_products log")).to_be_visible()
    assert graph.locator("svg > g").first.get_attribute("transform") == place
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    expect(graph).not_to_have_class(re.compile("old"))


def test_the_step_at_the_cursor_is_framed_and_a_click_leads_to_its_text(
    page: Page, service: ServedPage
) -> None:
    open_editor(page, f"{register(service, 'framed')}#L13")
    expect(page.locator(".node.chosen")).to_contain_text("rank_products")
    expect(page.locator(".cm-activeLine")).to_contain_text("- action: log")
    page.get_by_role("button", name=re.compile("^last")).click()
    expect(page.locator(".cm-activeLine")).to_contain_text("- name: last")
    expect(page.locator(".node.chosen")).to_contain_text("last")


def test_tab_indents_and_escape_lets_it_leave(page: Page, service: ServedPage) -> None:
    text = open_editor(page, register(service, "keyboard"))
    expect(text).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.press("Tab")
    expect(text).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(text).not_to_be_focused()
    expect(page.locator(".cm-content")).to_have_attribute("aria-label", "Text of the playbook")


def test_letters_that_are_keys_elsewhere_are_typed(page: Page, service: ServedPage) -> None:
    text = open_editor(page, register(service, "letters"))
    before = page.locator(".graph svg > g").first.get_attribute("transform")
    page.keyboard.press("Control+End")
    page.keyboard.type("# f+-?/.gtbcy")
    page.keyboard.press("Escape")
    expect(text).to_contain_text("# f+-?/.gtbcy")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.locator(".graph svg > g").first.get_attribute("transform") == before


def test_hostile_text_is_shown_and_does_nothing(page: Page, service: ServedPage) -> None:
    hostile = (
        'name: hostile\nsteps:\n  - name: "<img src=x onerror=alert(1)>"\n'
        '    run: [{action: log, message: "\\e[31m<script>alert(1)</script>"}] # \u202egnp\n'
        '    rule: [{case: default, run: ["<img src=x onerror=alert(1)>x"]}]\n'
    )
    open_editor(page, f"{service.url}/ui/playbooks/new")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(hostile)
    found = page.locator(".found li").first
    expect(found).to_contain_text("unknown step `<img src=x onerror=alert(1)>")
    expect(page.locator(".cm-specialChar")).to_have_count(1)
    page.keyboard.press("F8")
    expect(page.locator(".message")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("img[src], .cm-content script").count() == 0


def test_a_long_text_is_checked_and_drawn(page: Page, service: ServedPage) -> None:
    """200 steps: the time from the key to the finding is printed; its bound only catches a stall."""
    steps = "".join(
        f"  - name: step_{index}\n    run:\n      - {{action: set, set: {{v{index}: {index}}}}}\n"
        f"    rule: [{{case: default, run: [step_{index + 1}]}}]\n"
        for index in range(199)
    )
    text = f"name: long\nsteps:\n{steps}  - name: step_199\n    run: [{{action: log, message: end}}]\n"
    open_editor(page, f"{register(service, 'long', text)}#L6")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.evaluate("""() => {
      const root = document.querySelector('.writing .text').shadowRoot;
      root.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
      new MutationObserver(() => {
        if (root.querySelector('.finding.error')) window.seen ??= performance.now();
      }).observe(root, { childList: true, subtree: true });
    }""")
    page.keyboard.press("x")
    expect(page.locator(".finding.error")).to_have_text("step_1x")
    milliseconds = page.evaluate("window.seen - window.pressed")
    print(f"finding after {milliseconds:.0f} ms")
    assert milliseconds < 20_000


def test_leaving_an_unsaved_draft_is_asked(page: Page, service: ServedPage, leaving: list[str]) -> None:
    open_editor(page, register(service, "leave_it"))
    page.keyboard.press("Control+End")
    page.keyboard.type("# more")
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page).to_have_url(re.compile("/ui/runs"))
    assert leaving == ["The draft is not saved. Leave the editor, and lose it?"]
    assert page.evaluate("localStorage.length") == 0


def test_a_draft_is_kept_in_the_browser_if_a_person_wants_it(
    page: Page, service: ServedPage, leaving: list[str]
) -> None:
    address = register(service, "keep_it")
    open_editor(page, address)
    page.get_by_label("Keep the draft in this browser").check()
    page.locator(".cm-content").focus()
    page.keyboard.press("Control+End")
    page.keyboard.type("# kept")
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page).to_have_url(re.compile("/ui/runs"))
    assert leaving == []
    text = open_editor(page, address)
    expect(text).not_to_contain_text("# kept")
    page.get_by_role("button", name="Use it").click()
    expect(text).to_contain_text("# kept")
    page.get_by_label("Keep the draft in this browser").uncheck()
    assert page.evaluate("localStorage.length") == 0


def test_a_key_without_the_scope_reads_why_nothing_is_saved(
    browser: Browser, guarded: tuple[str, str]
) -> None:
    url, key = guarded
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{url}/ui/playbooks/new")
    dialog = page.get_by_role("dialog", name="Key")
    dialog.get_by_label("Key").fill(key)
    dialog.get_by_role("button", name="Use the key").click()
    save = page.locator(".save")
    expect(save).to_be_enabled(timeout=FIRST_CHECK_MS)
    save.click()
    expect(save).to_be_disabled()
    expect(page.locator(".reason")).to_contain_text("admin")
    context.close()


def test_a_playbook_that_does_not_exist_is_a_sentence(browser: Browser, service: ServedPage) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{service.url}/ui/playbooks/nowhere/edit")
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_the_editor_has_no_barriers(
    browser: Browser, service: ServedPage, axe: str, scheme: str, width: int
) -> None:
    address = register(service, "barriers")
    with open_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        open_editor(page, address)
        page.keyboard.press("Control+End")
        page.keyboard.type("wrong: 1")
        expect(page.locator(".message")).to_be_visible()
        assert find_barriers(page, axe) == []
        page.keyboard.press("Shift+Home")
        page.keyboard.press("Backspace")
        expect(page.locator(".message")).to_be_hidden()


def test_keys_and_values_of_triggers_are_completed(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "complete_triggers"))
    go_to(page, "name: complete_triggers")
    for line, offered in (
        ("triggers:", None),
        ("  - name: nightly", None),
        ("    type: sch", "schedule"),
        ("    cr", "cron"),
        ('    cron: "30 2 * * *"', None),
        ("    timezone: Europe/Berl", "Europe/Berlin"),
        ("    overlap: s", "skip"),
        ('    input: {day: "{{ trigger.loc', "local"),
        ("  - name: after", None),
        ("    type: run", None),
        ("    stat", "status"),
        ("    status: [fai", "failed"),
        ('    input: {id: "{{ trigger.work', "workflow_id"),
        ('    if: "{{ tri', "trigger"),
    ):
        page.keyboard.press("Enter")
        page.keyboard.press("Home")
        page.keyboard.type(line)
        if offered:
            expect(options(page).first).to_contain_text(offered)
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.keyboard.press("Home")
    page.keyboard.type("    ")
    page.keyboard.press("Control+ ")
    expect(options(page).filter(has_text="playbook")).to_be_visible()
    expect(options(page).filter(has_text="cron")).to_have_count(0)


def test_keys_and_values_of_limits_are_completed(page: Page, service: ServedPage) -> None:
    open_editor(page, register(service, "complete_limits"))
    go_to(page, "name: complete_limits")
    for line, offered in (
        ("concurrency:", None),
        ("  lim", "limit"),
        ("  when_full: cance", "cancel_oldest"),
        ("debounce:", None),
        ("  wai", "wait"),
        ("rate: {limit: 1, pe", "per"),
    ):
        page.keyboard.press("Enter")
        page.keyboard.press("Home")
        page.keyboard.type(line)
        if offered:
            expect(options(page).first).to_contain_text(offered)
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("Escape")


def test_a_schedule_shows_its_next_firings(browser: Browser, service: ServedPage, axe: str) -> None:
    schedule = """\
triggers:
  - name: nightly
    type: schedule
    cron: "30 2 * * *"
    start: 2040-03-24
    timezone: Europe/Berlin
"""
    for scheme in ("light", "dark"):
        with open_page(browser, color_scheme=scheme) as page:
            address = register(service, "next_firings", PLAYBOOK.format(name="next_firings") + schedule)
            hint = open_editor(page, address).locator(".hint")
            expect(hint).to_contain_text(
                "next: Sat 2040-03-24 02:30, Sun 2040-03-25 03:00 (there is no 02:30"
            )
            expect(hint).to_contain_text("Mon 2040-03-26 02:30, Europe/Berlin")
            assert find_barriers(page, axe) == []
            go_to(page, "timezone:")
            page.keyboard.press("Enter")
            page.keyboard.type("end: 2040-03-25")
            expect(hint).to_have_text("next: Sat 2040-03-24 02:30, Europe/Berlin")
