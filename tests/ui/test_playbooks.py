"""Journeys through the registry of playbooks, the start form, and the comparison of two runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from noetl.api.auth.api_keys import create_api_key
from noetl.executor.stores import open_store
from tests.e2e.test_serve import run_service
from tests.ui.browser import find_barriers, open_page
from tests.ui.conftest import CLOSE_MONTH, YAML, ServedPage

ORDERS = """\
name: orders
version: "{version}"
input:
  count: {{type: integer, default: 10, description: How many orders}}
  mode: {{type: string, enum: [fast, exact]}}
  dry: {{type: boolean, default: false}}
  who: string
  options: {{type: object, default: {{a: 1}}}}
steps:
  - name: load
    run: [{{action: set, set: {{total: "{{{{ input.count }}}}"}}}}]
    rule: [{{case: default, run: [{step}]}}]
  - name: {step}
    run: [{{action: log, message: "{{{{ input.who }}}} {{{{ total }}}} {{{{ missing | default('none') }}}}"}}]
"""
HOSTILE = ("etl/<script>alert(1)</script>", "\u05d0\u05d1 \u00fc/50%?#&", "new", "it's $(x)")


def register(service: ServedPage, text: str) -> None:
    answer = service.http.post("/playbooks", content=text.encode(), headers=YAML)
    assert answer.status_code in (200, 201), answer.text


def register_named(service: ServedPage, name: str) -> None:
    playbook = {"name": name, "steps": [{"name": "a", "run": [{"action": "log", "message": "x"}]}]}
    answer = service.http.post("/playbooks", json={"playbook": playbook})
    assert answer.status_code in (200, 201), answer.text


def run_registered(service: ServedPage, name: str, **input: object) -> str:
    body = {"playbook": {"name": name}, "input": input}
    answer = service.http.post("/workflows/run", json=body, headers={"Prefer": "wait=25"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["workflow_id"])


@pytest.fixture(scope="module")
def orders(service: ServedPage) -> ServedPage:
    """The service with two versions of a playbook, and with runs of them."""
    register(service, ORDERS.format(version="1", step="write"))
    run_registered(service, "orders", mode="fast", who="you", count=3)
    register(service, ORDERS.format(version="2", step="store"))
    for count in (3, 4):
        run_registered(service, "orders", mode="fast", who="you", count=count)
    return service


def test_the_registry_shows_how_runs_ended(page: Page, orders: ServedPage) -> None:
    requests: list[str] = []

    def note(request: Request) -> None:
        requests.append(request.url)

    page.on("request", note)
    for name in HOSTILE:
        register_named(orders, name)
    page.goto(f"{orders.url}/ui/runs")
    page.get_by_role("link", name="Playbooks").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="orders", exact=True))
    expect(row).to_contain_text("100 %")
    expect(row).to_contain_text(re.compile(r"\d+ ms"))
    expect(row.get_by_role("cell").nth(0)).to_have_text("2")
    expect(row).to_contain_text("ago")
    assert len([url for url in requests if "/playbooks?" in url]) == 1
    assert not [url for url in requests if "statistics?" in url]
    page.get_by_label("Find a playbook").fill("ORD")
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page).to_have_url(re.compile("q=ORD"))
    page.get_by_label("Find a playbook").fill("no such")
    expect(page.get_by_text("No playbook has no such in its name.")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Find a playbook")).to_have_value("no such")


def test_an_empty_registry_says_what_to_do(browser: Browser, guarded: tuple[str, str]) -> None:
    url, key = guarded
    with open_page(browser, statuses=[401]) as page:
        page.goto(f"{url}/ui/playbooks")
        dialog = page.get_by_role("dialog", name="Key")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use the key").click()
        expect(page.get_by_text("No playbooks are registered.")).to_be_visible()
        links = page.get_by_role("link", name="New playbook")
        for link in links.all():
            assert str(link.get_attribute("href")).endswith("/ui/playbooks/new")


def test_a_playbook_shows_graph_findings_inputs_and_source(page: Page, orders: ServedPage) -> None:
    page.goto(f"{orders.url}/ui/playbooks/orders")
    about = page.get_by_role("complementary", name="About the playbook")
    expect(about).to_contain_text("Findings")
    expect(about).to_contain_text("How many orders")
    expect(about).to_contain_text("integer, optional")
    expect(about).to_contain_text('one of "fast", "exact"')
    page.get_by_role("button", name=re.compile("^store")).click()
    expect(about.get_by_role("heading", name="store")).to_be_visible()
    expect(about.locator(".source")).to_contain_text("- name: store")
    before = page.locator(".graph svg > g").get_attribute("transform")
    page.keyboard.press("Escape")
    expect(about.get_by_role("heading", name="store")).to_be_hidden()
    assert page.locator(".graph svg > g").get_attribute("transform") == before
    page.locator('.graph [tabindex="0"]').focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    about.get_by_role("link", name=re.compile("in the source")).click()
    expect(page.locator(".source .marked")).to_contain_text("- name: load")
    expect(page.get_by_role("link", name="Edit")).to_have_attribute("href", "/ui/playbooks/orders/edit")


def test_the_live_version_and_aliases_are_shown(page: Page, service: ServedPage, axe: str) -> None:
    for version in ("1", "2"):
        register(
            service, ORDERS.format(version=version, step="write").replace("name: orders", "name: released")
        )
    for alias in ("live", "stable"):
        answer = service.http.put(f"/playbooks/released/aliases/{alias}", json={"version": "1"})
        assert answer.status_code == 201, answer.text
    page.goto(f"{service.url}/ui/playbooks/released")
    expect(page.locator(".facts")).to_contain_text("The newest version")
    expect(page.locator(".facts")).to_contain_text("Live is 1, pinned")
    page.locator(".facts").get_by_role("link", name="1").click()
    expect(page.locator(".title .tag")).to_have_text(["1", "live, pinned", "stable"])
    assert find_barriers(page, axe) == []
    page.goto(f"{service.url}/ui/playbooks/released/versions")
    first = page.get_by_role("row").filter(has=page.get_by_label("To version 1"))
    expect(first.locator(".tag")).to_have_text(["live, pinned", "stable"])
    second = page.get_by_role("row").filter(has=page.get_by_label("To version 2"))
    expect(second.locator(".tag")).to_have_count(0)
    assert find_barriers(page, axe) == []
    page.goto(f"{service.url}/ui/playbooks/released/start")
    expect(page.get_by_text("Version 1")).to_be_visible()


def test_versions_are_listed_shown_and_compared(page: Page, orders: ServedPage) -> None:
    page.goto(f"{orders.url}/ui/playbooks/orders/versions")
    first = page.get_by_role("row").filter(has=page.get_by_label("To version 1"))
    expect(first.get_by_role("time")).to_be_visible()
    expect(first).to_contain_text("this machine")
    page.get_by_role("button", name="Compare the chosen two").click()
    expect(page).to_have_url(re.compile(r"diff\?a=1&b=2"))
    expect(page.locator(".step-changes")).to_contain_text("Added 1")
    for words, step in (("Added", "store"), ("Removed", "write"), ("Changed", "load")):
        entry = page.locator(".step-changes > div").filter(has_text=words)
        expect(entry.get_by_role("link", name=step)).to_be_visible()
    before = page.get_by_role("region", name="Graph of version 1")
    expect(before.get_by_role("button", name=re.compile("^write .*Removed"))).to_be_visible()
    expect(before.get_by_role("button", name=re.compile("^load .*Changed"))).to_be_visible()
    after = page.get_by_role("region", name="Graph of version 2")
    expect(after.get_by_role("button", name=re.compile("^store .*Added"))).to_be_visible()
    expect(page.locator(".lines .removed").first).to_contain_text('version: "1"')
    expect(page.locator(".lines .added").first).to_contain_text('version: "2"')
    folded = page.get_by_role("button", name=re.compile("equal lines"))
    expect(folded).to_have_count(1)
    folded.click()
    expect(page.locator(".lines")).to_contain_text("options:")
    page.get_by_role("button", name="Swap").click()
    expect(page.locator(".lines .added").first).to_contain_text('version: "1"')
    page.get_by_label("To", exact=True).select_option("2")
    expect(page.get_by_text("The texts are the same.")).to_be_visible()
    expect(page.get_by_text("All steps are the same.")).to_be_visible()
    page.goto(f"{orders.url}/ui/playbooks/orders/versions/1")
    expect(page.get_by_role("button", name=re.compile("^write"))).to_be_visible()
    expect(page.get_by_text("This version")).to_be_visible()
    link = page.get_by_role("link", name="Start")
    expect(link).to_have_attribute("href", "/ui/playbooks/orders/start?version=1")


def test_statistics_name_the_slow_and_the_failing_steps(page: Page, orders: ServedPage) -> None:
    page.goto(f"{orders.url}/ui/playbooks/orders/statistics")
    row = page.get_by_role("row").filter(has_text="load")
    expect(row).to_contain_text(re.compile(r"\d ms"))
    expect(page.locator(".rates")).to_contain_text("100 %")
    expect(page.locator(".rates").get_by_role("link")).to_contain_text("Succeeded")
    page.get_by_label("The latest").select_option("20")
    expect(page).to_have_url(re.compile("runs=20"))
    expect(row).to_be_visible()


def test_a_form_starts_a_run_and_keeps_what_was_typed(browser: Browser, orders: ServedPage) -> None:
    with open_page(browser, statuses=[422]) as page:
        page.goto(f"{orders.url}/ui/playbooks")
        page.get_by_role("link", name="Start orders").click()
        expect(page.get_by_label("count")).to_have_value("")
        page.get_by_label("count").fill("12345678901234567890x")
        page.get_by_label("who").fill("<b>you</b>")
        page.get_by_label("options").fill("{a: 1}")
        page.get_by_role("button", name="Start the run").click()
        expect(page.locator(".field").filter(has_text="options")).to_contain_text("This is not JSON")
        expect(page.get_by_label("options")).to_be_focused()
        page.get_by_label("options").fill('{"a": [1]}')
        page.get_by_role("button", name="Start the run").click()
        expect(page.locator(".field").filter(has_text="count")).to_contain_text("must be of type integer")
        expect(page.locator(".field").filter(has_text="mode")).to_contain_text(re.compile("required|missing"))
        expect(page.get_by_label("count")).to_be_focused()
        expect(page.get_by_label("who")).to_have_value("<b>you</b>")
        expect(page.get_by_label("options")).to_have_value('{"a": [1]}')
        page.get_by_label("count").fill("12345678901234567890")
        page.get_by_label("mode").select_option("exact")
        page.get_by_label("dry").select_option("Yes")
        page.get_by_text("Tags and repetition").click()
        page.get_by_label("Tags", exact=True).fill("eu  month=10")
        page.get_by_label("Idempotency key").fill("order-4711")
        with page.expect_response("**/workflows/run") as sent:
            page.keyboard.press("Control+Enter")
        assert sent.value.status == 202
        run_id = sent.value.json()["workflow_id"]
        assert sent.value.request.headers["idempotency-key"] == "order-4711"
        expect(page).to_have_url(re.compile(f"/ui/runs/{run_id}"))
        run = orders.wait_for(run_id, "succeeded")
        assert run["version"] == "2"
        found = orders.http.get(f"/workflows/{run_id}/input").text
        for words in ('"count":12345678901234567890', '"dry":true', '"mode":"exact"', '"options":{"a":[1]}'):
            assert words in found.replace(" ", "")
        assert orders.http.get(f"/workflows/{run_id}").json()["tags"] == ["eu", "month=10"]


@pytest.mark.page_only
def test_a_lost_answer_does_not_start_a_second_run(browser: Browser, orders: ServedPage) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{orders.url}/ui/playbooks/orders/start?version=1")
    page.get_by_label("mode").select_option("fast")
    page.get_by_label("who").fill("lost")
    page.get_by_text("Tags and repetition").click()
    page.get_by_label("Tags", exact=True).fill("lost-answer")

    def lose(route: Route) -> None:
        assert route.fetch().status == 202
        route.abort()

    page.route("**/workflows/run", lose, times=1)
    start = page.get_by_role("button", name="Start the run")
    start.click()
    expect(page.locator(".start-form output")).to_contain_text("The service cannot be reached.")
    expect(page.get_by_label("who")).to_have_value("lost")
    start.click()
    expect(page).to_have_url(re.compile("/ui/runs/"))
    runs = orders.http.get("/workflows", params={"tag": "lost-answer"}).json()["items"]
    assert [run["workflow_id"] for run in runs] == [page.url.rpartition("/")[2]]
    context.close()


def test_start_again_has_the_input_of_the_run(page: Page, orders: ServedPage) -> None:
    run_id = run_registered(orders, "orders", mode="exact", who="a\nb", count=7, options={"n": [1, {"b": 2}]})
    page.goto(f"{orders.url}/ui/playbooks/orders/start?from={run_id}")
    expect(page.get_by_label("count")).to_have_value("7")
    expect(page.get_by_label("mode").locator("option:checked")).to_have_text("exact")
    expect(page.get_by_label("who")).to_have_value("a\nb")
    expect(page.get_by_label("options")).to_have_value(re.compile(r'"n": \['))
    page.get_by_role("button", name="Start the run").click()
    expect(page).to_have_url(re.compile("/ui/runs/"))
    again = page.url.rpartition("/")[2]
    assert again != run_id
    assert orders.http.get(f"/workflows/{again}/input").json()["input"]["who"] == "a\nb"


def test_a_run_of_an_unregistered_text_is_started_again(browser: Browser, service: ServedPage) -> None:
    text = ORDERS.format(version="9", step="only").replace("name: orders", "name: loose")
    body = {"playbook": text, "input": {"mode": "fast", "who": "you"}}
    run_id = service.http.post("/workflows/run", json=body).json()["workflow_id"]
    with open_page(browser, statuses=[404]) as page:
        page.goto(f"{service.url}/ui/runs/{run_id}")
        page.get_by_role("link", name="Start again").or_(
            page.get_by_role("button", name="Start again")
        ).click()
        expect(page).to_have_url(re.compile(f"/ui/playbooks/loose/start\\?.*from={run_id}"))
        expect(page.get_by_text("With the text of the run, which is not in the registry")).to_be_visible()
        page.get_by_role("button", name="Start the run").click()
        expect(page).to_have_url(re.compile("/ui/runs/"))


def test_two_selected_runs_are_compared(page: Page, orders: ServedPage) -> None:
    ids = [run_registered(orders, "orders", mode="fast", who="you", count=count) for count in (1, 2)]
    page.goto(f"{orders.url}/ui/runs?playbook=orders")
    button = page.get_by_role("button", name="Compare")
    expect(button).to_be_disabled()
    for run_id in ids:
        page.get_by_label(f"Select {run_id[:8]}").check()
    button.click()
    expect(page).to_have_url(re.compile(f"/ui/compare\\?a={ids[0]}&b={ids[1]}"))
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="count", exact=True))
    expect(row.get_by_role("cell").nth(0)).to_have_text("1")
    expect(row.get_by_role("cell").nth(1)).to_have_text("2")
    expect(page.get_by_role("rowheader", name="load")).to_be_visible()
    page.get_by_role("button", name="Swap").click()
    expect(row.get_by_role("cell").nth(0)).to_have_text("2")
    page.goto(f"{orders.url}/ui/compare?a={ids[0]}&b={ids[0]}")
    expect(page.get_by_text("Nothing differs but the times.")).to_be_visible()
    page.goto(f"{orders.url}/ui/compare")
    expect(page.get_by_text("Select two runs in the list")).to_be_visible()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_have_addresses(page: Page, orders: ServedPage, name: str) -> None:
    register_named(orders, name)
    page.goto(f"{orders.url}/ui/playbooks?q={quote(name, safe='')}")
    page.get_by_role("row").get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.get_by_role("button", name=re.compile("^a "))).to_be_visible()
    address = page.url
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    page.get_by_role("link", name="Versions").click()
    page.get_by_role("row").get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("button", name=re.compile("^a "))).to_be_visible()
    page.goto(address)
    page.get_by_role("link", name="Start", exact=True).click()
    page.get_by_role("button", name="Start the run").click()
    expect(page).to_have_url(re.compile("/ui/runs/"))
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    assert page.evaluate("document.querySelectorAll('#app script').length") == 0


@pytest.mark.page_only
def test_what_is_missing_is_said_in_words(browser: Browser, orders: ServedPage) -> None:
    run_id = run_registered(orders, "orders", mode="fast", who="you")
    with open_page(browser, statuses=[404]) as page:
        for address, words in (
            ("playbooks/nothing", "The registry has no playbook nothing."),
            ("playbooks/orders/versions/99", "The registry has no version 99 of a playbook orders."),
            ("playbooks/nothing/start", "unknown playbook"),
            ("playbooks/orders/start?from=" + "f" * 24, "f" * 24),
            (f"compare?a={run_id}&b={'f' * 24}", "f" * 24),
            ("playbooks/orders/diff?a=1&b=77", "77"),
        ):
            page.goto(f"{orders.url}/ui/{address}")
            expect(page.get_by_role("alert")).to_contain_text(words)
        page.goto(f"{orders.url}/ui/playbooks/orders/other")
        expect(page.get_by_text("There is no such page.")).to_be_visible()
        page.goto(f"{orders.url}/ui/playbooks/%")
        expect(page.get_by_role("alert")).to_contain_text("The registry has no playbook %.")


def test_a_playbook_that_is_removed_while_shown_stays(browser: Browser, service: ServedPage) -> None:
    register_named(service, "short_lived")
    with open_page(browser, statuses=[404]) as page:
        page.clock.install()
        page.goto(f"{service.url}/ui/playbooks/short_lived")
        expect(page.get_by_role("button", name=re.compile("^a "))).to_be_visible()
        assert service.http.delete("/playbooks/short_lived").status_code == 204
        page.clock.fast_forward(16_000)
        expect(page.get_by_role("alert")).to_contain_text("not in the registry any more")
        expect(page.get_by_role("button", name="Start")).to_be_disabled()
        expect(page.get_by_role("button", name=re.compile("^a "))).to_be_visible()


@pytest.fixture
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a service with a playbook, and a key that may only read."""
    folder = tmp_path_factory.mktemp("reader")
    store = open_store(f"sqlite:///{folder / 'noetl.db'}")
    read_key, read_record = create_api_key("reader", ["read"], "default", 1.0)
    admin_key, admin_record = create_api_key("admin", ["admin"], "default", 1.0)
    for record in (read_record, admin_record):
        store.keys.add(record)
    store.close()
    with run_service(folder) as (_, url):
        headers = {**YAML, "Authorization": f"Bearer {admin_key}"}
        answer = httpx.post(f"{url}/playbooks", content=CLOSE_MONTH, headers=headers)
        assert answer.status_code == 201, answer.text
        yield url, read_key


def test_who_may_not_start_sees_the_reason_at_the_button(browser: Browser, reader: tuple[str, str]) -> None:
    url, key = reader
    with open_page(browser, statuses=[401, 403]) as page:
        page.goto(f"{url}/ui/playbooks/close_month/start")
        dialog = page.get_by_role("dialog", name="Key")
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use the key").click()
        page.get_by_label("on_error").fill("stop")
        page.get_by_role("button", name="Start the run").click()
        expect(page.locator(".start-form output")).to_contain_text("It needs the scope `run`.")
        expect(page.get_by_label("on_error")).to_have_value("stop")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_no_view_of_playbooks_has_barriers(
    browser: Browser, orders: ServedPage, axe: str, scheme: str, width: int
) -> None:
    register(orders, CLOSE_MONTH)
    for name in HOSTILE:
        register_named(orders, name)
    ids = [run_registered(orders, "orders", mode="fast", who="you", count=count) for count in (1, 2)]
    views = {
        "playbooks": "tbody tr",
        "playbooks/close_month?step=compute": ".about .inputs",
        "playbooks/orders/source": ".source li",
        "playbooks/orders/versions": "tbody tr",
        "playbooks/orders/diff": ".lines",
        "playbooks/orders/statistics": "tbody tr",
        f"playbooks/orders/start?from={ids[0]}": ".start-form .field",
        f"compare?a={ids[0]}&b={ids[1]}": ".changes",
    }
    with open_page(browser, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        for view, part in views.items():
            page.goto(f"{orders.url}/ui/{view}")
            expect(page.locator(part).first).to_be_visible()
            assert find_barriers(page, axe) == [], view
            is_wide = page.evaluate(
                "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
            assert not is_wide, view
