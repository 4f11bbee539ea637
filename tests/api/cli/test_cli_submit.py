"""`noetl submit` and `noetl runs answer` to servers that are no NoETL services."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest

from noetl.api.cli import service_requests
from noetl.api.cli.commands import submit
from tests.api.cli.conftest import Command
from tests.http_server import StubExchange, serve

PLAYBOOK = "name: add\nsteps: [{name: a, run: [{action: log, message: hello}]}]\n"
UNLIKE = "unlike a NoETL service; "
ACCEPTED = {"workflow_id": "r1", "status": "queued"}
Answer = Callable[[StubExchange], None]


def json_of(value: object, status: int = 200) -> Answer:
    return lambda exchange: exchange.reply_json(value, status)


def redirect(exchange: StubExchange) -> None:
    exchange.reply(301, location="https://noetl.example.com/workflows/run")


def send_page(exchange: StubExchange) -> None:
    exchange.reply(200, b"<h1>Welcome</h1>", content_type="text/html")


def send_no_http(exchange: StubExchange) -> None:
    """Close the connection, as a server does that knows no HTTP."""
    exchange.close_connection = True


FOREIGN: dict[str, tuple[Answer, str]] = {
    "page": (send_page, f"answered POST with 200 OK and a body of type text/html, {UNLIKE}check --url"),
    "other JSON": (json_of({"ok": True}), UNLIKE),
    "list": (json_of([1]), UNLIKE),
    "text in JSON": (json_of("workflow_id status"), UNLIKE),
    "number as id": (json_of({**ACCEPTED, "workflow_id": 7}), UNLIKE),
    "unknown status": (json_of({**ACCEPTED, "status": "fine"}), UNLIKE),
    "list as status": (json_of({**ACCEPTED, "status": []}), UNLIKE),
    "deep JSON": (lambda exchange: exchange.reply(200, b"[" * 100_000), UNLIKE),
    "bytes": (lambda exchange: exchange.reply(200, b"\xff\0"), "a body without a type"),
    "nothing": (lambda exchange: exchange.reply(204), "204 No Content and no body"),
    "redirect": (redirect, f"{UNLIKE}it refers to https://noetl.example.com/workflows/run; check --url"),
    "other problem": (json_of({"error": "no"}, 400), "refused the request: 400"),
    "other diagnostics": (json_of({"diagnostics": [1, {"line": 1}], "detail": "no"}, 422), "request: no"),
    "no HTTP": (send_no_http, "failed: Server disconnected"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_server_that_is_no_service_is_an_error(noetl: Command, name: str) -> None:
    answer, sentence = FOREIGN[name]
    with serve(answer) as server:
        outcome = noetl("submit", "-", "--url", server.url(""), stdin=PLAYBOOK)
    assert outcome.out == ""
    assert outcome.exit_code in (1, 2)
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_server_without_tls_is_an_error(noetl: Command) -> None:
    with serve(send_page) as server:
        outcome = noetl("submit", "-", "--url", server.url("").replace("http:", "https:"), stdin=PLAYBOOK)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "the server does not answer in TLS; is its address http://?" in outcome.err


@pytest.mark.parametrize(
    ("errors", "message"),
    [([{"step": "a"}], "step `a`: None: None"), (["no"], "no"), ([], "run r1 failed"), ({}, UNLIKE)],
)
def test_a_result_with_other_errors_is_reported(noetl: Command, errors: object, message: str) -> None:
    def answer(exchange: StubExchange) -> None:
        is_start = exchange.received.method == "POST"
        result = {"workflow_id": "r1", "status": "failed", "result": None, "errors": errors}
        exchange.reply_json(ACCEPTED if is_start else result)

    with serve(answer) as server:
        outcome = noetl("submit", "-", "--url", server.url(""), "--wait", stdin=PLAYBOOK)
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert message in outcome.err


def test_a_skipped_run_is_no_failure(noetl: Command) -> None:
    def answer(exchange: StubExchange) -> None:
        is_start = exchange.received.method == "POST"
        errors = [{"type": "RunSkipped", "message": "limit `t` is full"}]
        result = {"workflow_id": "r1", "status": "skipped", "result": None, "errors": errors}
        exchange.reply_json(ACCEPTED if is_start else result)

    with serve(answer) as server:
        outcome = noetl("submit", "-", "--url", server.url(""), "--wait", stdin=PLAYBOOK)
    assert (outcome.exit_code, outcome.out) == (0, "")
    assert outcome.err.splitlines()[-1] == "run r1 was skipped: limit `t` is full"


def test_the_steps_are_shown_while_the_command_waits(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_POLL_SECONDS", 0.0)
    states = iter(
        [{}, {"a": ("running", 1)}, {"a": ("succeeded", 1), "b": ("retrying", 2)}, {"b": ("failed", 2)}]
    )
    error = {"type": "Failed", "message": "no", "step": "b", "line": 7, "action": "fail"}
    error["expression"] = "{{ n }}"

    def answer(exchange: StubExchange) -> None:
        run = {"workflow_id": "r1", "status": "failed"}
        if exchange.received.method == "POST":
            exchange.reply_json(ACCEPTED)
        elif "/status/" in exchange.received.target:
            steps = next(states)
            status = "failed" if "failed" in str(steps) else "running"
            rows = {name: {"status": state, "visits": visits} for name, (state, visits) in steps.items()}
            if "b" in rows and "a" in rows:
                item = {"number": 2, "value": "7", "error": {"type": "E", "message": "item 2 of 9: no"}}
                rows["a"] |= {"failed_items": [item], "failed_item_count": 3}
            exchange.reply_json({**run, "status": status, "steps": rows})
        else:
            exchange.reply_json({**run, "result": None, "errors": [error]})

    with serve(answer) as server:
        outcome = noetl("submit", "-", "--url", server.url(""), "--wait", stdin=PLAYBOOK)
    assert outcome.err.splitlines() == [
        "run r1",
        "▶ a  running",
        "✓ a  3 items failed",
        "  ✗ E: item 2 of 9: no  7",
        "  2 more items have failed; `noetl runs items` lists them",
        "↻ b  retrying  visit 2",
        "✗ b  visit 2",
        "line 7: step `b`, action fail: Failed: no",
        "  expression  {{ n }}",
        "run r1 failed",
    ]


def test_a_body_without_end_is_left(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts bytes after decompression."""
    monkeypatch.setattr(service_requests, "MAX_RESPONSE_BYTES", 1_000_000)
    body = gzip.compress(b"x" * 20_000_000)
    with serve(lambda exchange: exchange.reply(200, body, content_encoding="gzip")) as server:
        outcome = noetl("submit", "-", "--url", server.url(""), stdin=PLAYBOOK)
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert "sent a body of more than 1,000,000 bytes" in outcome.err


@pytest.mark.parametrize("name", ["page", "list", "deep JSON", "redirect", "no HTTP"])
def test_an_answer_to_a_server_that_is_no_service_is_an_error(noetl: Command, name: str) -> None:
    with serve(FOREIGN[name][0]) as server:
        outcome = noetl("runs", "answer", server.url("/callbacks/x"), "-d", "true")
    assert outcome.out == ""
    assert UNLIKE in outcome.err or "failed: Server disconnected" in outcome.err
