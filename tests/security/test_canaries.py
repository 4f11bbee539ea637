"""Canaries: secrets that must be found in no byte of a store, a log or an answer.

A server echoes them in every encoding, in bodies, headers and errors. A playbook for each action type passes
on what it gets by every path: results, errors, events, logs, callbacks, child runs, files and output.
Then every byte is searched: of stores and buckets, logs, answers, trace headers and what `noetl doctor` says.
The table CASES must name every action type.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from ahocorasick_rs import AhoCorasick

from noetl.api.app import create_app
from noetl.api.cli import main
from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue, temporary_types
from noetl.executor.actions.action import Call
from noetl.executor.clients import aws as aws_clients
from noetl.executor.runtime.json_logs import log_as_json_lines
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.security.redaction import MASK
from noetl.executor.security.secret_sources import register_local_secrets
from noetl.executor.stores.interface import Store
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra import dynamodb
from noetl.infra.migrations import upgrade
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.testing.run_harness import RunHarness, register_playbook
from tests.http_server import StubExchange, StubServer, serve
from tests.security.test_encoded_secrets import ENCODERS

CANARIES = {
    "WORD": 'canary-w0rd/"ü b+c\\x',
    "DIGITS": "83746152093847",
    "LINES": "-----BEGIN KEY-----\nCANARYkeyLINEnumber1/abc\nCANARYkeyLINEnumber2+def\n",
    "DSN": "postgresql://canary:canary-pass%2Fword@127.0.0.1:1/canary-database",
}
TEXTS = [*CANARIES.values(), "CANARYkeyLINEnumber1/abc", "CANARYkeyLINEnumber2+def", "canary-pass/word"]
"""The texts that are searched: the secrets, the lines of the key, and the password of the address."""

OWN_WORDS = (0, 1, 4, 5, 6)
"""The indexes of the texts of which no ten characters may be left."""

BUCKETS = ("bucket", "values-of-the-store")
"""The buckets of the playbook and of the store in DynamoDB."""

REVEAL = {"X-Word": "{{ secrets.WORD | urlencode }}", "X-Digits": "{{ secrets.DIGITS }}"}
KEEP = {"on_error": "continue"}


def _echoes() -> dict[str, Any]:
    texts = {
        f"{name} of {index}": encode(text)
        for name, encode in ENCODERS.items()
        for index, text in enumerate(TEXTS)
    }
    return {
        "texts": texts,
        "number": int(CANARIES["DIGITS"]),
        "nested": [[texts["json of 0"]]],
        CANARIES["WORD"]: 1,
    }


def _answer(exchange: StubExchange) -> None:
    """Send the canaries back: as JSON, as text, with a status of the path, or as a service of AWS does."""
    target = exchange.received.target
    body = json.dumps(_echoes())
    status = int(target.rpartition("/")[2]) if target.startswith("/status/") else 200
    if target.startswith("/text"):
        body = "\n".join(map(str, _echoes()["texts"].values()))
    if exchange.received.headers.get("x-amz-target"):
        body = json.dumps({"MessageId": json.dumps(_echoes()["texts"])})
    headers = {"content_type": "text/plain" if target.startswith("/text") else "application/json"}
    exchange.reply(status, body.encode(), x_echo=CANARIES["DIGITS"], **headers)


class Careless:
    """An action type that raises what it received, as a bug would."""

    DECLARATION = ActionDeclaration("careless", "", {"key": Parameter((Kind.ANY,), "", secrets=True)})

    @staticmethod
    def perform(call: Call) -> None:
        raise ValueError(f"bad key: {call.parameters['key']} {json.dumps(_echoes())}")


def _get(url: str, **parameters: Any) -> dict[str, Any]:
    return {"action": "http", "url": url, "headers": REVEAL, "as": "reply", **parameters}


Work = list[dict[str, Any]]

CASES: dict[str, Callable[[str], Work]] = {
    "http": lambda url: [
        _get(url, method="POST", json={"a": ["{{ secrets.LINES }}"], "b": "{{ secrets.WORD }}"}),
        {**_get(f"{url}text", auth={"bearer": "{{ secrets.DIGITS }}"}), "as": "text"},
        {**_get(f"{url}status/500", form={"a": "{{ secrets.WORD }}"}, method="POST"), **KEEP},
        {**_get(url, accept_status="{{ reply.body.texts.repr }}"), **KEEP},
        {**_get(url, max_bytes=10), **KEEP},
        {**_get(f"{url}status/404"), "as": "lost"},
    ],
    "set": lambda url: [
        _get(url),
        {"action": "set", "set": {"copy": "{{ reply }}", "part": "{{ (reply | string)[5:900] }}"}},
        {**_get(url), "cache": {"key": "{{ reply.body }}", "ttl": "1h"}, "as": "kept"},
    ],
    "log": lambda url: [
        _get(url),
        {"action": "log", "message": "{{ reply.body | string }}", "fields": {"body": "{{ reply.body }}"}},
        {
            "action": "log",
            "loop": {"items": "{{ reply.body.texts.values() | list }}"},
            "message": "{{ item }}",
        },
    ],
    "fail": lambda url: [
        _get(url),
        {
            "action": "fail",
            "message": "{{ reply }}",
            "type": "{{ reply.body.texts['plain'] | default('X') }}",
        },
    ],
    "wait": lambda url: [
        _get(url),
        {"action": "wait", "seconds": 60},
        {"action": "set", "set": {"after": "{{ reply }}"}},
    ],
    "callback": lambda url: [
        _get(url),
        {
            "action": "callback",
            "title": "{{ reply.body.texts['unchanged of 0'] }}",
            "details": "{{ reply }}",
            "notify": {
                "action": "http",
                "method": "POST",
                "url": url,
                "headers": REVEAL,
                "json": {"token": "{{ callback.token }}"},
            },
            "as": "answered",
        },
    ],
    "workflow": lambda url: [
        _get(url),
        {"action": "workflow", "playbook": "child", "input": {"x": "{{ reply }}"}, "as": "child"},
    ],
    "postgres": lambda url: [
        _get(url),
        {
            "action": "postgres",
            "connection": "{{ secrets.DSN }}",
            "query": "select {{ reply.body | string }}",
            **KEEP,
        },
        {"action": "postgres", "connection": "{{ secrets.DSN }} nonsense=1", "query": "select 1", **KEEP},
        {
            "action": "postgres",
            "connection": "host=127.0.0.1 port=1 user=a password={{ secrets.DIGITS }}",
            "query": "select 1",
            **KEEP,
        },
    ],
    "shell": lambda url: [
        _get(url),
        {
            "action": "shell",
            "command": 'cat; for f in cat base64 "od -An -tx1 -v"; do printf %s "$KEY" | $f; echo; done; env',
            "env": {"KEY": "{{ secrets.WORD }}"},
            "stdin": "{{ secrets.LINES }}",
            "parse": "lines",
            "as": "output",
        },
        {"action": "shell", "command": 'printf %s "$KEY" >&2; exit 3', "env": {"KEY": "{{ secrets.WORD }}"}},
    ],
    "python": lambda _: [
        {
            "action": "python",
            "function": "json:dumps",
            "args": [["{{ secrets.WORD }}", "{{ secrets.LINES }}"]],
            "as": "text",
        },
        {"action": "python", "function": "base64:b16encode", "args": ["{{ secrets.WORD }}"], **KEEP},
        {"action": "python", "function": "builtins:int", "args": ["{{ secrets.WORD }}"]},
    ],
    "file": lambda url: [
        _get(url),
        {"action": "file", "write": "out.json", "format": "json", "content": "{{ reply }}"},
        {"action": "file", "append": "out.txt", "content": "{{ reply.body | string }}"},
        {"action": "file", "read": "out.json", "format": "json", "as": "content"},
        {"action": "file", "read": "{{ reply.body.texts['unchanged of 1'] }}"},
    ],
    "s3": lambda url: [
        _get(url),
        {"action": "s3", "put": "s3://bucket/key", "content": "{{ reply.body | string }}", **KEEP},
        {"action": "s3", "get": "s3://bucket/key", **KEEP},
        {"action": "s3", "get": "s3://bucket/key", "format": "json", **KEEP},
    ],
    "message": lambda url: [
        {"action": "message", "to": f"{url}123456789012/queue", "body": "{{ secrets.WORD }}", "as": "id"},
    ],
    "lambda": lambda _: [
        {"action": "lambda", "function": "canary", "payload": {"key": "{{ secrets.LINES }}"}, "as": "answer"},
    ],
    "careless": lambda _: [{"action": "careless", "key": "{{ secrets.WORD }}"}],
}
"""Work for each action type. The address is that of the server that echoes."""


def test_every_action_type_has_a_case() -> None:
    assert set(CASES) == {*catalogue(), "careless"}, "add a case that passes secrets through the new type"


def test_the_search_finds_every_encoding() -> None:
    for index, canary in enumerate(TEXTS):
        for name, encode in ENCODERS.items():
            assert _leaks(f"[{encode(canary)}]"), f"{name} of {index}"
            assert _leaks(json.dumps([encode(canary)])), f"{name} of {index} in JSON"
    assert not _leaks("harmless")


@pytest.fixture
def server() -> Iterator[StubServer]:
    with serve(_answer) as started:
        yield started


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: StubServer) -> dict[str, str]:
    """The settings of a service, which may send the canaries to the server and into commands."""
    places = "127.0.0.1, action:shell, action:python, action:careless"
    (tmp_path / "files").mkdir()
    values = {
        **{f"NOETL_SECRET_{name}": value for name, value in CANARIES.items()},
        "NOETL_SECRETS_HOSTS": "\n".join(f"{name}: {places}" for name in CANARIES),
        "NOETL_ALLOW_NETWORKS": "127.0.0.0/8",
        "NOETL_ALLOW_SHELL": "1",
        "NOETL_PYTHON_MODULES": "json,base64,builtins",
        "NOETL_FILES_ROOT": str(tmp_path / "files"),
        **{f"AWS_ENDPOINT_URL_{service}": server.url("") for service in ("S3", "SQS", "LAMBDA")},
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    if "AWS_REGION" not in os.environ:
        for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "us-east-1")
    aws_clients.reset_clients()
    register_local_secrets()  # as a service does at its start
    return values


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of the process, as a service writes it."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [logging.StreamHandler(stream)]
    log_as_json_lines()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def _run(store: Store, action_type: str, url: str, environ: Mapping[str, str]) -> RunHarness:
    """Execute the case of an action type in a service, until nothing is due. Answer its callback."""
    register_playbook(
        store,
        "name: child\ninput: {x: any}\nsteps:\n- {name: only, run: [{action: fail, message: '{{ x }}'}]}",
    )
    playbook = {
        "name": "canary",
        "output": {"all": "{{ steps.only.result | default(none) }}"},
        "steps": [{"name": "only", "run": CASES[action_type](url)}],
    }
    with temporary_types(Careless):
        harness = RunHarness(store, json.dumps(playbook), origin="service")
        harness.capabilities = service_capabilities(environ)
        _execute_due(harness)
        if action_type == "callback":
            services = create_services(store, catalogue())
            services.callbacks.answer(_received_token, {"echo": _echoes()})
            _execute_due(harness)
    return harness


_received_token = ""


def _execute_due(harness: RunHarness) -> None:
    for _ in range(50):
        if not harness.execute_next(chained=True):
            due = harness.store.queue.next_due(harness.queue)
            if due is None or due > harness.clock.now + 3600:
                return
            harness.clock.now = max(harness.clock.now, due)


@cache
def _forms() -> dict[str, str]:
    """Return all that must not be found, with what each is: a canary in an encoding, or a part of one."""
    forms: dict[str, str] = {}
    for index, canary in enumerate(TEXTS):
        for name, encode in ENCODERS.items():
            written = encode(canary)
            escaped = (json.dumps(written)[1:-1], json.dumps(written, ensure_ascii=False)[1:-1])
            forms |= dict.fromkeys((written, written.strip('"'), *escaped), f"{name} of {index}")
        for start in range(len(canary) - 9) if index in OWN_WORDS else ():
            forms[canary[start : start + 10]] = f"part of {index}"
    return forms


@cache
def _search() -> AhoCorasick:
    return AhoCorasick([*_forms()])


def _leaks(text: str) -> list[str]:
    """Return which canary a text has in which encoding, also if the text is JSON."""
    return [_forms()[form] for form in _search().find_matches_as_strings(text, overlapping=True)]


def _assert_clean(text: str, source: str) -> None:
    leaks = _leaks(text)
    assert not leaks, f"{source} has {leaks[:5]}"


def _bytes_of(folder: Path) -> str:
    """Return the content of all files of a folder, such as a database and its write-ahead log."""
    files = [path for path in folder.glob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in files)


def _dump_postgres(dsn: str) -> str:
    import psycopg

    with psycopg.connect(dsn) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        rows = [
            str(row[0])
            for (table,) in tables
            for row in connection.execute(f'select t::text from "{table}" t').fetchall()
        ]
    return "\n".join(rows)


def _dump_items(items: Any) -> str:
    def text_of(value: Any) -> str:
        if isinstance(value, Mapping):
            return " ".join(f"{name} {text_of(part)}" for name, part in value.items())
        if isinstance(value, list | tuple | set):
            return " ".join(map(text_of, value))
        data = (
            bytes(value)
            if not isinstance(value, str | int | float | bool | type(None)) and hasattr(value, "__bytes__")
            else value
        )
        if isinstance(data, bytes):
            for start in (0, 1):
                try:
                    return zlib.decompress(data[start:]).decode()
                except zlib.error:
                    continue
            return data.decode("utf-8", "replace")
        return str(data)

    return "\n".join(map(text_of, items))


@pytest.fixture(autouse=True)
def _token(server: StubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remember the token that a playbook sends to the server, as the answering party would."""

    class Token(str):
        __slots__ = ()

    def find() -> str:
        for request in server.requests:
            if b'"token"' in request.body:
                return str(json.loads(request.body)["token"])
        raise AssertionError("no token was sent")

    original = create_services

    def services_with_token(*arguments: Any) -> Any:
        monkeypatch.setattr(f"{__name__}._received_token", find())
        return original(*arguments)

    monkeypatch.setattr(f"{__name__}.create_services", services_with_token)
    yield


@pytest.mark.parametrize("action_type", CASES)
async def test_sqlite_logs_and_answers_have_no_secret(
    action_type: str, tmp_path: Path, server: StubServer, environ: dict[str, str], log: io.StringIO
) -> None:
    path = tmp_path / "noetl.db"
    with closing(SqliteStore(str(path))) as store:
        harness = _run(store, action_type, server.url(), environ)
        dump = _bytes_of(tmp_path)
    assert MASK in dump
    _assert_clean(dump, "the file of the store")
    _assert_clean(_bytes_of(tmp_path / "files"), "a file")
    for name, answer in (await _read_all(harness, f"sqlite:///{path}")).items():
        _assert_clean(answer, name)
    _assert_clean(log.getvalue(), "the log")


def test_the_report_of_the_doctor_has_no_secret(
    tmp_path: Path, server: StubServer, environ: dict[str, str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "noetl.db"
    with closing(SqliteStore(str(path))) as store:
        harness = _run(store, "callback", server.url(), environ)
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute("delete from visits").rowcount
    for options in ((), ("--json",)):
        monkeypatch.setattr("sys.argv", ["noetl", "doctor", "--store", f"sqlite:///{path}", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        report = "".join(capsys.readouterr())
        assert harness.id in report
        _assert_clean(report, "the report")


async def test_trace_headers_have_no_secret(
    tmp_path: Path, server: StubServer, environ: dict[str, str], log: io.StringIO
) -> None:
    path = tmp_path / "noetl.db"
    settings = {**environ, "NOETL_FILES_ROOT": "", "NOETL_STORE": f"sqlite:///{path}", "NOETL_WORKERS": "1"}
    app = create_app(settings)
    playbook = {"name": "traced", "steps": [{"name": "only", "run": [_get(server.url())]}]}
    headers = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": f"vendor={CANARIES['DIGITS']},other={ENCODERS['base64'](CANARIES['WORD']).strip('=')}",
        "baggage": f"key={CANARIES['DIGITS']}",
        "Prefer": "wait=25",
    }
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        answer = await client.post("/workflows/run", json={"playbook": playbook}, headers=headers)
    assert answer.json()["status"] == "succeeded", answer.text
    sent = server.requests[0].headers
    assert sent["tracestate"].startswith(f"vendor={MASK}")
    assert CANARIES["DIGITS"] in str(sent), "the secret itself was sent where it belongs"
    trace = {name: value for name, value in sent.items() if "trace" in name or name == "baggage"}
    _assert_clean(json.dumps(trace), "the headers of the trace")
    _assert_clean(_bytes_of(tmp_path), "the file of the store")
    _assert_clean(log.getvalue(), "the log")


async def test_what_clients_send_is_stored_without_a_secret(
    tmp_path: Path, environ: dict[str, str], log: io.StringIO
) -> None:
    """Input of starts, resumes and firings, variables, tags, and new values of a switched run."""
    path = tmp_path / "noetl.db"
    settings = {**environ, "NOETL_FILES_ROOT": "", "NOETL_STORE": f"sqlite:///{path}", "NOETL_WORKERS": "1"}
    app = create_app(settings)
    sent, word = {"a": _echoes()["texts"]}, CANARIES["WORD"]
    failing = {
        "name": "failing",
        "input": {"a": "any"},
        "variables": {"v": "x"},
        "triggers": [{"name": "n", "type": "schedule", "cron": "0 0 1 1 *", "input": {"a": 1}}],
        "steps": [{"name": "only", "run": [{"action": "fail", "message": "{{ input.a }}"}]}],
    }
    changed = {**failing, "output": {"a": "{{ input.a }}"}}
    wait = {"Prefer": "wait=25"}
    start = {"playbook": failing, "input": sent, "variables": {"v": sent}, "tags": [word, f"key={word}"]}
    text = {"Content-Type": "application/yaml", **wait}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        run = (await client.post("/workflows/run", json=start, headers=wait)).json()
        assert run["status"] == "failed", run
        address = f"/workflows/{run['workflow_id']}"
        query = {"input": json.dumps({"a": word})}
        responses = [
            await client.post("/workflows/run", content=json.dumps(failing), params=query, headers=text),
            await client.patch(f"{address}/tags", json={"add": [f"other={word}"], "remove": [word]}),
            await client.post(f"{address}/resume", json={"from": "only", "input": sent}),
            await client.post(f"{address}/resume", json={"at": "1", "input": sent}),
            await client.post(f"{address}/resume", json={"playbook": changed, "set": sent}),
            await client.post("/playbooks", json={"playbook": failing}),
            await client.post("/triggers/failing/n/fire", json={"input": sent}),
            await client.get(f"{address}/input"),
        ]
        for response in responses:
            assert response.is_success, response.text
            _assert_clean(response.text, str(response.url.path))
    assert MASK in responses[-1].text
    _assert_clean(_bytes_of(tmp_path), "the file of the store")
    _assert_clean(log.getvalue(), "the log")


@pytest.mark.parametrize("action_type", CASES)
def test_postgres_has_no_secret(
    action_type: str, postgres_dsn: str, server: StubServer, environ: dict[str, str]
) -> None:
    from noetl.executor.stores.postgres.store import PostgresStore

    upgrade(postgres_dsn)
    with closing(PostgresStore(postgres_dsn)) as store:
        _run(store, action_type, server.url(), environ)
    dump = _dump_postgres(postgres_dsn)
    assert MASK in dump
    _assert_clean(dump, "the database")


@pytest.fixture
def s3(aws: Any, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client of S3 with two buckets: of the playbook, and of the store. Accounts share their names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    client = aws("s3")
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
    yield client
    for bucket in BUCKETS:
        for key in _keys_of(client, bucket):
            client.delete_object(Bucket=bucket, Key=key)
        client.delete_bucket(Bucket=bucket)


@pytest.mark.parametrize("action_type", CASES)
def test_dynamodb_and_s3_have_no_secret(
    action_type: str, s3: Any, server: StubServer, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from noetl.executor.stores.dynamo import blobs
    from noetl.executor.stores.dynamo.store import DynamoStore

    monkeypatch.setattr(blobs, "INLINE_BYTES", 256)
    dynamodb.upgrade("noetl")
    with closing(DynamoStore("noetl", bucket=BUCKETS[1])) as store:
        _run(store, action_type, server.url(), environ)
        dump = _dump_items(store.context.table.scan())
    playbook_objects, store_objects = (_dump_bucket(s3, bucket) for bucket in BUCKETS)
    assert MASK in dump + store_objects
    assert bool(playbook_objects) == (action_type == "s3")
    _assert_clean(dump, "the table")
    _assert_clean(playbook_objects, "the bucket of the playbook")
    _assert_clean(store_objects, "the bucket of the store")


def _keys_of(client: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", ())]


def _dump_bucket(client: Any, bucket: str) -> str:
    keys = _keys_of(client, bucket)
    values = [client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    return _dump_items([*keys, *values])


SCHEDULED = {
    "name": "scheduled",
    "version": "1",
    "triggers": [{"name": "nightly", "type": "schedule", "cron": "0 0 1 1 *"}],
    "steps": [{"name": "only", "run": [{"action": "set", "set": {"x": 1}}]}],
}
PARAMETERS = {
    "name": "scheduled",
    "version": "1",
    "playbook": "scheduled",
    "trigger": "nightly",
    "code": "NP101",
    "channel": "ops",
    "alias": "live",
    "limit_name": "api",
    "notification": "none",
}
"""The path parameters of routes that read, without the ids of the run and of a backfill."""

BACKFILL = {"playbook": "scheduled", "trigger": "nightly", "from": "2020-01-01", "to": "2020-01-02"}

QUERIES = {
    "/workflows/comparison": "a={id}&b={id}",
    "/workflows/statistics": "playbook=canary",
    "/workflows/{workflow_id}/step": "name=only&complete=true",
    "/workflows/{workflow_id}/items": "step=only",
}
FORMS = {
    "/workflows/{workflow_id}/graph": ("format=json", "format=mermaid", "format=svg"),
    "/workflows/{workflow_id}": ("", "include=graph", "at=1"),
    "/playbooks": ("", "include=statistics"),
}
"""The queries of routes that have several forms."""


async def _read_all(harness: RunHarness, url: str) -> dict[str, str]:
    """Return the answer of every route that reads, in each form that it has."""
    app = create_app({"NOETL_STORE": url, "NOETL_WORKERS": "1"})
    app.state.list_stream_seconds = 0.0  # This transport returns only complete responses.
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        document = (await client.get("/openapi.json")).json()
        paths = document["paths"].items()
        routes = [path for path, calls in paths if "get" in calls and "{token}" not in path]
        answers = {"/openapi.json": json.dumps(document)}
        await client.post("/playbooks", json={"playbook": SCHEDULED})
        backfill = await client.post("/backfills", json=BACKFILL)
        assert backfill.status_code == 201, backfill.text
        parameters = PARAMETERS | {"backfill_id": backfill.json()["id"]}
        channel = await client.put("/channels/ops", json={"url": "https://hooks.example.com/noetl"})
        assert channel.status_code in {200, 201}, channel.text
        limit = await client.put("/limits/api", json={"units": 1, "kind": "steps"})
        assert limit.status_code in {200, 201}, limit.text
        runs = (await client.get("/workflows")).json()["items"]
        assert harness.id in {run["workflow_id"] for run in runs}
        for id in [run["workflow_id"] for run in runs]:
            for route in routes:
                path = route.format(workflow_id=id, **parameters)
                for form in FORMS.get(route, (QUERIES.get(route, ""),)):
                    target = f"{path}?{form.format(id=id)}"
                    if target in answers:
                        continue
                    answer = await client.get(target)
                    has_no_loop = route.endswith("/items") and answer.status_code == 422
                    is_unknown = "none" in target and answer.status_code == 404
                    is_answered = answer.status_code in {200, 202} or has_no_loop or is_unknown
                    assert is_answered, f"{target}: {answer.text}"
                    answers[target] = answer.text
    return answers


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio
