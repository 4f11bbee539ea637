"""One trace for a run, its requests and its child runs."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from noetl.executor.model.run import Run
from noetl.executor.model.tracing import (
    MAX_STATE_LENGTH,
    make_traceparent,
    parse_trace,
    trace_id,
    trace_state,
)
from noetl.executor.runtime.json_logs import LOG_CONTEXT, log_as_json_lines
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness, register_playbook
from tests.executor.test_subruns import CHILD, PARENT, children
from tests.http_server import StubExchange, serve

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03"),
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"01-{TRACE}-{SPAN}-01-more", GIVEN),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GIVEN.upper(), None),
        (GIVEN[:-1], None),
        ("", None),
        (None, None),
    ],
)
def test_traceparent_headers_are_parsed(text: str | None, read: str | None) -> None:
    assert parse_trace(text) == read


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ([], ""),
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["rojo=1", " congo=2 ,, \t"], "rojo=1,congo=2"),
        (["1a-2@x=value with blanks"], "1a-2@x=value with blanks"),
        (["rojo=1,rojo=2"], ""),
        (["Rojo=1"], ""),
        (["rojo"], ""),
        (["rojo=a=b"], ""),
        (["rojo=\x1b[2J"], ""),
        (["rojo=1\r\nX-Injected: 1"], ""),
        (["rojo=é"], ""),
        ([f"rojo={'x' * 257}"], ""),
        (
            [",".join(f"a{number}=1" for number in range(32))],
            ",".join(f"a{number}=1" for number in range(32)),
        ),
        ([",".join(f"a{number}=1" for number in range(33))], ""),
        ([f"a={'x' * 200},b=1,c={'x' * 200},d={'x' * 200}"], "b=1"),
        (
            [",".join(f"a{number}={'x' * 100}" for number in range(6))],
            ",".join(f"a{number}={'x' * 100}" for number in range(4)),
        ),
    ],
)
def test_the_state_of_a_trace_is_bounded(headers: list[str], state: str) -> None:
    assert parse_trace(GIVEN, headers) == (f"{GIVEN} {state}" if state else GIVEN)
    assert parse_trace(None, headers) is None
    assert len(state) <= MAX_STATE_LENGTH


def run_of(harness: RunHarness) -> Run:
    found = harness.store.runs.get("default", harness.id)
    assert found is not None
    return found


def test_child_runs_belong_to_the_trace_of_their_parent(store: SqliteStore) -> None:
    register_playbook(store, CHILD)
    harness = RunHarness(store, PARENT % ("", ""), {"n": 0}).finish()
    [child] = children(harness)
    assert trace_id(child) == trace_id(run_of(harness))
    assert child.trace is not None and parse_trace(child.trace) == child.trace


def test_requests_carry_the_traceparent(store: SqliteStore) -> None:
    def refuse_once(exchange: StubExchange) -> None:
        exchange.reply(503 if len(server.requests) == 1 else 200, connection="close")

    with serve(refuse_once) as server:
        text = f"""
            steps:
            - name: a
              run: [{{action: http, url: "{server.url()}", retry: {{attempts: 2, delay: 1ms}}}}]
              rule: [{{case: default, run: [b]}}]
            - {{name: b, run: [{{action: http, url: "{server.url()}", headers: {{Traceparent: mine}}}}]}}
            """
        harness = RunHarness(store, text, {}).finish()
        first, again, custom = [request.headers["traceparent"] for request in server.requests]
    assert first == again
    assert trace_id(run_of(harness)) == first.split("-")[1]
    assert custom == "mine"


def test_flags_and_state_reach_requests_and_child_runs(store: SqliteStore) -> None:
    with serve(lambda exchange: exchange.reply(connection="close")) as server:
        child = f"name: child\nsteps: [{{name: a, run: [{{action: http, url: '{server.url()}'}}]}}]"
        register_playbook(store, child)
        text = f"""
            steps:
            - name: a
              run: [{{action: http, url: "{server.url()}"}}, {{action: workflow, playbook: child}}]
              rule: [{{case: default, run: [b]}}]
            - {{name: b, run: [{{action: http, url: "{server.url()}", headers: {{Traceparent: mine}}}}]}}
            """
        trace = f"00-{TRACE}-{SPAN}-00 rojo=1,congo=2"
        harness = RunHarness(store, text, {}, trace=trace).finish()
        sent = [request.headers for request in server.requests]
    assert run_of(harness).trace == trace
    sent_by_noetl = [headers for headers in sent if headers["traceparent"] != "mine"]
    assert len(sent_by_noetl) == 2
    for headers in sent_by_noetl:
        assert headers["tracestate"] == "rojo=1,congo=2"
        assert headers["traceparent"].split("-")[1::2] == [TRACE, "00"]
    [custom] = [headers for headers in sent if headers["traceparent"] == "mine"]
    assert "tracestate" not in custom


def test_different_causes_have_different_span_ids(store: SqliteStore) -> None:
    run = run_of(RunHarness(store, "steps: [{name: a, run: [{action: set, set: {b: 1}}]}]", {}))
    spans = {make_traceparent(run, *cause) for cause in (("a", 1), ("a", 2), ("b", 1), ())}
    assert len(spans) == 4
    assert all(parse_trace(span) == span and span.split("-")[1] == trace_id(run) for span in spans)


def test_log_lines_name_run_step_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    about = LOG_CONTEXT.set({"workflow_id": "a", "trace_id": TRACE})
    try:
        log_as_json_lines()
        labels = {"run": "a", "step": "s", "visit": 2, "trace_id": TRACE, "trace_flags": "00"}
        logging.getLogger("noetl.playbook").info(
            "one\nline \x1b[2J", extra={"fields": {"n": 1}, "labels": labels}
        )
        logging.getLogger("noetl.executor").info("another")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        LOG_CONTEXT.reset(about)
        root.handlers[:] = before
        root.setLevel(level)
    assert [(line["message"], line["workflow_id"], line["trace_id"]) for line in lines] == [
        ("one\nline \x1b[2J", "a", TRACE),
        ("another", "a", TRACE),
    ]
    assert (lines[0]["step"], lines[0]["visit"], lines[0]["trace_flags"]) == ("s", 2, "00")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_client_chooses_the_trace_of_a_run(tmp_path: object) -> None:
    from noetl.api.app import create_app

    app = create_app({"NOETL_STORE": f"sqlite:///{tmp_path}/noetl.db", "NOETL_WORKERS": "1"})
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            headers = {
                "Content-Type": "application/yaml",
                "traceparent": GIVEN.replace("-01", "-00"),
                "tracestate": "rojo=1",
            }
            content = "name: x\nsteps: [{name: a, run: [{action: set, set: {b: 1}}]}]"
            answer = await http.post("/workflows/run", content=content, headers=headers)
        run = app.state.context.services().store.runs.get("default", answer.json()["workflow_id"])
    assert run.trace == f"{GIVEN.replace('-01', '-00')} rojo=1"
    assert (trace_id(run), trace_state(run)) == (TRACE, "rojo=1")
