"""`noetl runs watch` and `noetl runs logs -f` while the service restarts, refuses, or is cut off."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from noetl.api.cli.access import outage
from tests.api.cli.conftest import Command
from tests.e2e.test_serve import run_service
from tests.http_server import StubExchange, find_free_port, serve

pytestmark = pytest.mark.xdist_group("service of outage")  # The fixture of the module is made once.

Start = Callable[..., subprocess.Popen[str]]

LINES = 6
STEPS = "\n".join(
    f"  - name: s{number}\n"
    f"    run: [{{action: log, message: line {number}}}, {{action: wait, seconds: 0.2}}]\n"
    + (f"    rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < LINES else "")
    for number in range(LINES)
)
PLAYBOOK = f"name: lines\nsteps:\n{STEPS}\noutput: {{done: true}}\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_service(tmp_path_factory.mktemp("service")) as (_, url):
        yield url


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "FIRST_WAIT_SECONDS", 0.01)


def start_run(url: str) -> str:
    response = httpx.post(f"{url}/workflows/run", json={"playbook": PLAYBOOK}, timeout=60)
    run_id: str = response.json()["workflow_id"]
    return run_id


def forward(url: str, exchange: StubExchange) -> httpx.Response:
    return httpx.get(url + exchange.received.target, timeout=60)


def fail(exchange: StubExchange, response: httpx.Response, number: int) -> None:
    """Fail in one of several ways: no response, half a response, or a response that asks to come again."""
    kind = number % 4
    if kind == 0:
        exchange.close_connection = True
    elif kind == 1:
        exchange.send_response(200)
        exchange.send_header("content-length", str(len(response.content)))
        exchange.end_headers()
        exchange.wfile.write(response.content[: len(response.content) // 2])
        exchange.close_connection = True
    elif kind == 2:
        exchange.reply(502, b"<html>bad gateway</html>", content_type="text/html")
    else:
        body = {"type": "urn:noetl:problem:store-unavailable", "detail": "The store cannot be reached."}
        exchange.reply_json(body, 503)


def proxy(url: str, passed: int) -> Callable[[StubExchange], None]:
    """Return a proxy that passes the first requests, and then fails two of three."""
    numbers = itertools.count()

    def answer(exchange: StubExchange) -> None:
        number, response = next(numbers), forward(url, exchange)
        if number < passed or number % 3 == 0:
            exchange.reply(response.status_code, response.content, content_type="application/json")
        else:
            fail(exchange, response, number)

    return answer


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_log_is_followed_without_a_lost_or_repeated_line(
    noetl: Command, url: str, options: list[str]
) -> None:
    run_id = start_run(url)
    with serve(proxy(url, 2)) as server:
        followed = noetl("runs", "logs", run_id, "-f", "--url", server.url(""), *options)
    assert followed.exit_code == 0
    expected = noetl("runs", "logs", run_id, "--url", url, *options)
    assert followed.out == expected.out
    assert re.findall(r"line \d", followed.out) == [f"line {number}" for number in range(LINES)]
    assert followed.err.count("; trying again for up to 300 s\n") == followed.err.count("answers again\n") > 1


def test_a_run_is_watched_without_a_lost_or_repeated_line(noetl: Command, url: str) -> None:
    run_id = start_run(url)
    with serve(proxy(url, 2)) as server:
        watched = noetl("runs", "watch", run_id, "--url", server.url(""))
    assert (watched.exit_code, watched.out) == (0, '{\n  "done": true\n}\n')
    assert re.findall(r"✓ (s\d)", watched.err) == [f"s{number}" for number in range(LINES)]
    assert "; trying again for up to 300 s\n" in watched.err


@pytest.mark.parametrize("command", [["watch"], ["logs", "-f"]])
def test_a_service_that_stays_away_ends_the_command_with_an_error(
    noetl: Command, url: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "MAX_OUTAGE_SECONDS", 0.2)
    numbers = itertools.count()

    def answer(exchange: StubExchange) -> None:
        if next(numbers) < 3:
            response = forward(url, exchange)
            exchange.reply(response.status_code, response.content, content_type="application/json")
        else:
            exchange.reply(503, retry_after="1")

    run_id = start_run(url)
    with serve(answer) as server:
        outcome = noetl("runs", *command, run_id, "--url", server.url(""))
        host = f"127.0.0.1:{server.port}"
    assert outcome.exit_code == 1
    assert outcome.err.splitlines()[-1].startswith(
        f"noetl: {host} has not answered for 0 s: {host} answered with 503"
    )


@pytest.mark.parametrize("command", [["watch"], ["logs", "-f"]])
def test_the_first_request_is_not_repeated(noetl: Command, command: list[str]) -> None:
    port = find_free_port()
    outcome = noetl("runs", *command, "4e21aa09", "--url", f"http://127.0.0.1:{port}")
    assert outcome.exit_code == 2
    assert "trying again" not in outcome.err


def test_what_cannot_pass_ends_the_command_at_once(noetl: Command, url: str) -> None:
    numbers = itertools.count()

    def answer(exchange: StubExchange) -> None:
        if next(numbers) < 3:
            response = forward(url, exchange)
            exchange.reply(response.status_code, response.content, content_type="application/json")
        else:
            exchange.reply_json(
                {"type": "urn:noetl:problem:unauthenticated", "detail": "The key is gone."}, 401
            )

    run_id = start_run(url)
    with serve(answer) as server:
        outcome = noetl("runs", "logs", run_id, "-f", "--url", server.url(""))
    assert outcome.exit_code == 1
    assert "The key is gone." in outcome.err
    assert "trying again" not in outcome.err


def test_an_outage_can_be_interrupted(folder: Path, start: Start, url: str) -> None:
    passed = itertools.count()

    def answer(exchange: StubExchange) -> None:
        if next(passed) < 3:
            response = forward(url, exchange)
            exchange.reply(response.status_code, response.content, content_type="application/json")
        else:
            exchange.reply(503, retry_after="200")

    run_id = start_run(url)
    with serve(answer) as server:
        watching = start("runs", "watch", run_id, "--url", server.url(""))
        assert watching.stderr is not None
        for line in watching.stderr:
            if "trying again" in line:
                break
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert f"`noetl runs watch {run_id}`" in err
