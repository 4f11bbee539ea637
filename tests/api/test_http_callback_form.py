"""`GET /workflows/callbacks/{token}`: the form of a callback's link, for a person with a browser."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from starlette.responses import Response

from noetl.api.app import create_app
from noetl.api.callback_form import fields, page
from noetl.api.routes import callbacks
from noetl.api.service.inbox_views import AnswerChoice, CallbackQuestion
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.json_values import write_json
from noetl.executor.stores.sqlite.store import SqliteStore
from tests.api.responses import assert_problem, read_view
from tests.api.test_http_callbacks import PUBLIC, CallbackRun

pytestmark = pytest.mark.anyio

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

DEEP: Any = [0] * 2_000_000
for _ in range(99):
    DEEP = [DEEP]

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m"

ASK = """\
name: ask
input: {gate: string, title: {type: string, default: "Pay?"}}
steps:
  - name: ask
    run:
      - action: callback
        as: decision
        title: "{{ input.title }}"
        details: {sum: 5, lines: ["{{ input.title }}"]}
        timeout: 2h
        answer:
          approved: boolean
          colour: {enum: [red, green, 3]}
          count: {type: integer, default: 1}
          rate: {type: number, default: 0.5, description: A part of one.}
          note: {type: string, default: none}
          tags: {type: array, default: []}
        notify: {action: shell, command: [tee, "{{ input.gate }}"], stdin: "{{ callback.url }}"}
    rule:
      - {case: "{{ error.type == 'CallbackExpired' }}", run: [late]}
      - {case: "{{ decision.approved and decision.colour == 'red' }}", run: [paint]}
      - {case: "{{ not decision.approved }}", run: [refuse]}
      - {case: default, run: [book]}
  - {name: late, run: [{action: log, message: late}]}
  - {name: paint, run: [{action: log, message: paint}]}
  - {name: refuse, run: [{action: log, message: refuse}]}
  - {name: book, run: [{action: log, message: book}]}
output: {decision: "{{ decision }}"}
"""

FREE = """\
name: free
input: {gate: string}
steps:
  - name: ask
    run:
      - action: callback
        as: approved
        %s
        notify: {action: shell, command: [tee, "{{ input.gate }}"], stdin: "{{ callback.url }}"}
    rule:
      - {case: "{{ approved }}", run: [go]}
  - {name: go, run: [{action: log, message: go}]}
output: {approved: "{{ approved }}"}
"""


@pytest.fixture
def settings(settings: dict[str, str]) -> dict[str, str]:
    return settings | {"NOETL_PUBLIC_URL": f"{PUBLIC}/"}


@dataclass
class Form(HTMLParser):
    """The page as a browser reads it: the controls of its form, and its text."""

    html: str
    controls: list[dict[str, str | None]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    labelled: set[str | None] = field(default_factory=set)
    ids: set[str | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes |= found.keys()
        self.ids.add(found.get("id"))
        if tag == "label":
            self.labelled.add(found.get("for"))
        if tag in ("input", "select", "textarea"):
            self.controls.append({"tag": tag, **found})
        if tag == "option":
            self.controls[-1].setdefault("options", "")
            self.controls[-1]["options"] = f"{self.controls[-1]['options']} {found.get('value')}"

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags[-1:] != ["style"]:
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [control for control in self.controls if control["name"] == name]

    def chosen(self, name: str) -> list[str | None]:
        return [control["value"] for control in self.named(name) if "checked" in control]


async def start(http: httpx.AsyncClient, gate: Path, playbook: str = ASK, **input: Any) -> CallbackRun:
    body = {"playbook": playbook, "input": {"gate": str(gate), **input}}
    response = await http.post("/workflows/run", json=body)
    assert response.status_code == 202, response.text
    url = await asyncio.to_thread(gate.read_text)
    return CallbackRun(http, response.json()["workflow_id"], url.removeprefix(PUBLIC))


async def start_waiting(
    http: httpx.AsyncClient, gate: Path, playbook: str = ASK, **input: Any
) -> CallbackRun:
    callback_run = await start(http, gate, playbook, **input)
    await callback_run.wait_until_waiting()
    return callback_run


async def open_link(callback_run: CallbackRun) -> httpx.Response:
    return await callback_run.http.get(callback_run.path, headers=BROWSER)


async def send_form(callback_run: CallbackRun, **texts: str) -> httpx.Response:
    headers = {**BROWSER, "Content-Type": "application/x-www-form-urlencoded"}
    return await callback_run.http.post(callback_run.path, content=urlencode(texts), headers=headers)


def assert_page(response: httpx.Response, status: int) -> Form:
    """Check that a response is a page that is safe to open, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "etag" not in response.headers
    (style,) = re.findall("<style>(.*?)</style>", response.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert response.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    )
    form = Form(response.text)
    assert "script" not in form.tags
    assert not any(
        name.startswith("on") or name in ("style", "src", "href", "action") for name in form.attributes
    )
    assert "viewport" in response.text
    assert "prefers-color-scheme: dark" in style
    return form


async def test_the_link_shows_a_labelled_form_and_changes_nothing(
    http: httpx.AsyncClient, gate: Path
) -> None:
    callback_run = await start_waiting(http, gate)
    before = (await http.get(f"/workflows/{callback_run.workflow_id}/events")).json()
    for _ in range(3):
        response = await open_link(callback_run)
    form = assert_page(response, 200)
    assert callback_run.token not in response.text
    assert {control["id"] for control in form.controls} <= form.labelled
    assert [control["type"] for control in form.named("approved")] == ["radio", "radio"]
    assert [control["value"] for control in form.named("colour")] == ['"red"', '"green"', "3"]
    assert (form.chosen("approved"), form.chosen("colour")) == ([], [])
    assert form.named("count")[0]["value"] == "1"
    assert {"Pay?", "sum", "5", "Yes", "No", "A part of one. A number"} <= set(form.texts)
    assert "An answer counts until 20" in form.text
    assert (await http.get(f"/workflows/{callback_run.workflow_id}/events")).json() == before
    await http.head(callback_run.path, headers=BROWSER)
    assert (await callback_run.status())["status"] == "waiting"


async def test_an_answer_says_where_it_leads_if_the_rule_decides_by_it_alone(
    http: httpx.AsyncClient, gate: Path
) -> None:
    callback_run = await start_waiting(http, gate)
    response = await http.get(callback_run.path)
    assert response.headers["cache-control"] == "no-store"
    question = read_view(CallbackQuestion, response.json())
    assert (question.title, question.details) == ("Pay?", {"sum": 5, "lines": ["Pay?"]})
    assert question.expires_at is not None
    assert list(question.answer or ()) == ["approved", "colour", "count", "rate", "note", "tags"]
    assert question.choices == []
    simple = ASK.replace(" and decision.colour == 'red'", "")
    callback_run = await start_waiting(http, gate, simple)
    choices = read_view(CallbackQuestion, (await http.get(callback_run.path)).json()).choices
    assert [(choice.field, choice.value, choice.case, choice.targets) for choice in choices] == [
        ("approved", True, 1, ["paint"]),
        ("approved", False, 2, ["refuse"]),
    ]
    form = assert_page(await open_link(callback_run), 200)
    assert {"leads to paint", "leads to refuse"} <= set(form.texts)


async def test_a_submitted_form_is_the_answer(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await start_waiting(http, gate)
    texts = {
        "approved": "true",
        "colour": '"green"',
        "count": "12",
        "rate": "1e-1",
        "note": "a\r\nb",
        "tags": '["x"]',
    }
    form = assert_page(await send_form(callback_run, **texts), 202)
    assert "Your answer was accepted. You can close this page." in form.texts
    assert form.controls == []
    decision = (await callback_run.result())["result"]["decision"]
    assert decision == {
        "approved": True,
        "colour": "green",
        "count": 12,
        "rate": 0.1,
        "note": "a\nb",
        "tags": ["x"],
    }
    assert_page(await send_form(callback_run, **texts), 202)
    other = assert_page(await send_form(callback_run, **{**texts, "count": "13"}), 409)
    first = next(text for text in other.texts if text.startswith("Another answer arrived before, at "))
    assert '{"approved":true,"colour":"green","count":12' in first


async def test_what_was_typed_stays_and_its_problem_is_at_its_field(
    http: httpx.AsyncClient, gate: Path
) -> None:
    callback_run = await start_waiting(http, gate)
    typed = {"approved": "true", "count": "many", "note": HOSTILE, "tags": "[1", "other": "x"}
    response = await send_form(callback_run, **typed)
    form = assert_page(response, 422)
    assert form.chosen("approved") == ["true"]
    assert form.named("count")[0]["value"] == "many"
    assert "<script>" not in response.text
    assert "&lt;script&gt;" in response.text
    (count,) = form.named("count")
    assert count["aria-invalid"] == "true"
    assert set(str(count["aria-describedby"]).split()) <= form.ids
    problems = [
        "missing field `colour`: it must be `red`, `green` or 3",
        "field `count` must be of type integer, not the text `many`",
        "field `tags` must be of type array, not the text `[1`",
    ]
    assert set(problems) <= set(form.texts)
    assert any(text.startswith("unknown field `other`") for text in form.texts)
    assert (await callback_run.status())["status"] == "waiting"
    assert_page(await send_form(callback_run, approved="false", colour="3"), 202)
    decision = (await callback_run.result())["result"]["decision"]
    assert (decision["colour"], decision["count"], decision["note"]) == (3, 1, "none")


async def test_hostile_text_is_shown_and_not_obeyed(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await start_waiting(http, gate, title=HOSTILE + "x" * 30_000)
    response = await open_link(callback_run)
    form = assert_page(response, 200)
    assert "alert(1)" in form.text
    assert "\x1b" not in response.text
    assert "\u202e" not in response.text
    assert len(response.text) < 60_000


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ({"answer": "true"}, True),
        ({"answer": "false", "json": "7"}, False),
        ({"answer": "json", "json": '{"a": [1]}'}, {"a": [1]}),
    ],
)
async def test_without_declared_fields_it_is_yes_no_or_json(
    http: httpx.AsyncClient, gate: Path, texts: dict[str, str], answer: Any
) -> None:
    callback_run = await start_waiting(http, gate, FREE % "title: Go?")
    form = assert_page(await open_link(callback_run), 200)
    assert [control["value"] for control in form.named("answer")] == ["true", "false", "json"]
    assert "leads to go" in form.texts
    assert "choose an answer" in assert_page(await send_form(callback_run), 422).text
    refused = assert_page(await send_form(callback_run, answer="json", json="{"), 422)
    assert "is not JSON" in refused.text
    assert refused.chosen("answer") == ["json"]
    assert "unknown field `x`" in assert_page(await send_form(callback_run, x="1"), 422).text
    assert_page(await send_form(callback_run, **texts), 202)
    assert (await callback_run.result())["result"] == {"approved": answer}


async def test_a_program_may_send_a_form(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await start_waiting(http, gate)
    refused = await http.post(callback_run.path, data={"approved": "yes"})
    assert_problem(refused, 422, "invalid-answer")
    assert [entry["name"] for entry in refused.json()["fields"]] == ["approved", "colour"]
    twice = "approved=true&approved=false"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for content in (twice, "approved=%ff", "&".join(f"f{number}=" for number in range(1001)), "approved=ü"):
        response = await http.post(callback_run.path, content=content.encode(), headers=form)
        assert_problem(response, 400, "malformed-form")
    assert_page(await http.post(callback_run.path, content=twice, headers={**form, **BROWSER}), 400)
    accepted = await http.post(callback_run.path, data={"approved": "false", "colour": "red"})
    assert (accepted.status_code, accepted.json()) == (202, {"status": "accepted"})


async def assert_closed(callback_run: CallbackRun, words: str) -> None:
    """Check that the link says why it does not count any more, and nothing else of the run."""
    response = await open_link(callback_run)
    form = assert_page(response, 410)
    assert words in form.text
    assert form.controls == []
    for secret in (callback_run.workflow_id, callback_run.token, "Pay?", "ask"):
        assert secret not in form.text.replace("has asked again", "")
    problem = await callback_run.http.get(callback_run.path)
    assert_problem(problem, 410, "closed")
    assert words in problem.json()["detail"].capitalize() + "."


async def test_an_answered_link_says_so(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await start_waiting(http, gate)
    await callback_run.answer({"approved": True, "colour": "red"})
    await assert_closed(callback_run, "This question was answered on ")


async def test_a_link_of_a_run_that_has_ended_says_so(http: httpx.AsyncClient, gate: Path) -> None:
    callback_run = await start_waiting(http, gate)
    await callback_run.cancel()
    await assert_closed(callback_run, "The run has ended, so it needs no answer any more.")


async def test_a_link_whose_time_is_over_says_so(http: httpx.AsyncClient, gate: Path) -> None:
    """The step asks again, with another link, of which the page says nothing."""
    options = "timeout: 1ms\n        retry: {attempts: 2, delay: 0}"
    callback_run = await start(http, gate, FREE % options)
    newer = (await asyncio.to_thread(gate.read_text)).removeprefix(PUBLIC)
    assert newer != callback_run.path
    response = await open_link(callback_run)
    assert_page(response, 410)
    assert newer.rpartition("/")[2] not in response.text


async def test_an_unknown_link_says_so(http: httpx.AsyncClient, gate: Path) -> None:
    path = "/workflows/callbacks/" + "x" * 43
    form = assert_page(await http.get(path, headers=BROWSER), 404)
    assert "Unknown link" in form.texts
    assert_page(await http.post(path, data={"answer": "true"}, headers=BROWSER), 404)
    assert_problem(await http.get(path), 404, "unknown-token")


async def test_a_link_of_a_deleted_run_is_unknown(
    http: httpx.AsyncClient, gate: Path, settings: dict[str, str]
) -> None:
    callback_run = await start_waiting(http, gate)
    await callback_run.cancel()
    store = SqliteStore(settings["NOETL_STORE"].removeprefix("sqlite:///"), retention_seconds=0.001)
    try:
        store.maintenance.sweep(store.clock() + 10)
        assert store.waits.find_wait(hash_secret(callback_run.token)) is None
    finally:
        store.close()
    form = assert_page(await open_link(callback_run), 404)
    assert "This link is unknown; it may be incomplete, or its run was deleted." in form.texts


async def test_a_form_may_be_sent_from_its_own_page_only(http: httpx.AsyncClient, gate: Path) -> None:
    """A page whose policy is `no-referrer` sends its forms with the Origin `null`."""
    callback_run = await start_waiting(http, gate)
    data = {"approved": "true", "colour": "3"}
    foreign: list[dict[str, str]] = [
        {"Origin": "null"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ]
    for headers in foreign:
        assert_problem(await http.post(callback_run.path, data=data, headers=headers), 403, "loopback-only")
    same_site = {**BROWSER, "Origin": "null", "Sec-Fetch-Site": "same-origin"}
    assert_page(await http.post(callback_run.path, data=data, headers=same_site), 202)


@pytest.fixture
def limited(settings: dict[str, str]) -> Iterator[dict[str, str]]:
    yield settings | {"NOETL_RATE_CALLBACKS": "3", "NOETL_RATE_FAILURES": "2"}


async def test_links_are_limited_as_answers_are(limited: dict[str, str]) -> None:
    app = create_app(limited)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            path = "/workflows/callbacks/unknown"
            statuses = [(await client.get(path, headers=BROWSER)).status_code for _ in range(2)]
            refused = await client.get(path, headers=BROWSER)
    assert statuses == [404, 404]
    assert "Too many requests" in assert_page(refused, 429).texts
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        ("\x01" * 1_000_000, "␁" * 3),
        ({"a": ["\x01" * 1_000_000] * 9, "b" * 1_000_000: 1}, '["\\u0001'),
        (DEEP, "[[["),
    ],
)
def test_large_details_are_not_written_as_a_whole(details: Any, shown: str) -> None:
    """The blanks of a deep value would have 500 MB, and those of a table 54 MB."""
    tracemalloc.start()
    try:
        rows, text = page._describe_details(details)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (rows[0][1] if rows else text or "").startswith(shown)
    assert sum(len(cell) for row in rows for cell in row) + len(text or "") < 22_000
    assert peak < 10_000_000


def test_each_value_of_a_choice_is_written_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []

    def write(value: Any) -> str:
        written.append(value)
        return write_json(value)

    monkeypatch.setattr(fields, "write_json", write)
    values = list(range(200))
    question = CallbackQuestion(
        answer={"colour": {"type": "integer", "enum": values, "required": True}},
        expires_at=None,
        choices=[AnswerChoice(field="colour", value=value, case=0, targets=["x"]) for value in values],
    )
    assert bytes(page.question_page(question).body).count(b"leads to x") == len(values)
    assert len(written) <= 3 * len(values)


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_a_question_is_written_on_a_thread(
    http: httpx.AsyncClient, gate: Path, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    threads: list[int] = []

    def record(write: Callable[..., Response]) -> Callable[..., Response]:
        def write_and_record(*arguments: Any, **options: Any) -> Response:
            threads.append(threading.get_ident())
            return write(*arguments, **options)

        return write_and_record

    callback_run = await start(http, gate)
    for name in ("question_page", "JsonResponse"):
        monkeypatch.setattr(callbacks, name, record(getattr(callbacks, name)))
    response = await http.get(callback_run.path, headers={"Accept": accept})
    assert response.status_code == 200
    assert threads
    assert threading.get_ident() not in threads
