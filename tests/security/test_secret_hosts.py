"""A service sends the value of a secret only to the hosts that its operator has listed for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from noetl.executor.actions import catalogue, temporary_types
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError, SettingError
from noetl.executor.model.run import RunStatus
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.security.secret_access import SecretAccess, unrestricted_access
from noetl.executor.security.secret_hosts import SecretHosts, read_secret_hosts
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.testing.run_harness import RunHarness
from tests.http_server import StubExchange, StubServer, serve

VALUE = "correct-horse-battery"
ENVIRON = {
    "NOETL_SECRET_TOKEN": VALUE,
    "NOETL_TENANT_SECRET_acme__TOKEN": "battery-of-acme",
    "NOETL_SECRET_PIN": "1234",
}


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server() -> Iterator[StubServer]:
    with serve(lambda exchange: exchange.reply_json({})) as started:
        yield started


def run_in_service(
    work: dict[str, Any], hosts: str = "", tenant: str = "default", **environ: str
) -> RunHarness:
    """Return the finished run of one action, started at a service with these rules."""
    playbook = json.dumps({"name": "play", "steps": [{"name": "only", "run": [work]}]})
    harness = RunHarness(MemoryStore(), playbook, tenant=tenant, origin="service")
    environ = {
        "NOETL_ALLOW_NETWORKS": "127.0.0.0/8",
        "NOETL_SECRETS_HOSTS": hosts,
        "NOETL_ALLOW_SHELL": "1",
        **environ,
    }
    harness.capabilities = service_capabilities(environ)
    return harness.finish()


def error_of(harness: RunHarness) -> dict[str, Any]:
    assert harness.status is RunStatus.FAILED
    (error,) = harness.run.errors
    assert VALUE not in json.dumps(harness.run.errors)
    return dict(error)


REVEALS: list[dict[str, Any]] = [
    {"headers": {"X-Key": "{{ secrets.TOKEN }}"}},
    {"params": {"key": "{{ secrets.TOKEN }}"}},
    {"method": "POST", "json": {"a": ["{{ secrets.TOKEN }}"]}},
    {"method": "POST", "body": "{{ secrets.TOKEN }}"},
    {"method": "POST", "form": {"a": "{{ secrets.TOKEN }}"}},
    {"auth": {"bearer": "{{ secrets.TOKEN }}"}},
    {"auth": {"basic": {"username": "a", "password": "{{ secrets.TOKEN | upper }}"}}},
    {"headers": {"X-Bit": "{{ 'a' if secrets.TOKEN[0] == 'c' else 'b' }}"}},
]


@pytest.mark.parametrize("reveals", REVEALS)
@pytest.mark.parametrize(
    "hosts", ["", "TOKEN: api.test", "OTHER: 127.0.0.1", "acme/TOKEN: 127.0.0.1", "TOKEN: *.0.0.1"]
)
def test_a_secret_goes_to_no_host_that_is_not_listed(
    server: StubServer, reveals: dict[str, Any], hosts: str
) -> None:
    error = error_of(run_in_service({"action": "http", "url": server.url(), **reveals}, hosts))
    assert (error["type"], error["retryable"]) == ("AccessDenied", False)
    assert "`TOKEN` must not go to `127.0.0.1`" in error["message"]
    assert "NOETL_SECRETS_HOSTS needs the rule `TOKEN: 127.0.0.1`" in error["message"]
    assert server.requests == []


@pytest.mark.parametrize("reveals", REVEALS)
def test_a_secret_goes_to_a_listed_host(server: StubServer, reveals: dict[str, Any]) -> None:
    work = {"action": "http", "url": server.url(), **reveals}
    assert run_in_service(work, "TOKEN: api.test, 127.0.0.1").status is RunStatus.SUCCEEDED
    assert len(server.requests) == 1


def test_a_secret_in_args_of_a_task_is_checked_where_it_is_used(server: StubServer) -> None:
    playbook = {
        "name": "play",
        "tasks": {
            "send": {"run": [{"action": "http", "url": server.url(), "headers": {"X": "{{ args.key }}"}}]}
        },
        "steps": [{"name": "only", "run": [{"task": "send", "with": {"key": "{{ secrets.TOKEN }}"}}]}],
    }
    harness = RunHarness(MemoryStore(), json.dumps(playbook), origin="service")
    harness.capabilities = service_capabilities({"NOETL_ALLOW_NETWORKS": "127.0.0.0/8"})
    assert error_of(harness.finish())["type"] == "AccessDenied"
    assert server.requests == []


def test_a_tenant_sends_its_own_secret_by_its_own_rule(server: StubServer) -> None:
    work = {"action": "http", "url": server.url(), "headers": {"X-Key": "{{ secrets.TOKEN }}"}}
    error = error_of(run_in_service(work, "TOKEN: 127.0.0.1", tenant="acme"))
    assert "needs the rule `acme/TOKEN: 127.0.0.1`" in error["message"]
    assert run_in_service(work, "acme/TOKEN: 127.0.0.1", tenant="acme").status is RunStatus.SUCCEEDED
    assert [request.headers["x-key"] for request in server.requests] == ["battery-of-acme"]


def test_a_local_run_needs_no_rules(server: StubServer) -> None:
    work = {
        "action": "http",
        "url": server.url(),
        "headers": {"X-Key": "{{ secrets.TOKEN }}", "X-Pin": "{{ secrets.PIN }}"},
    }
    playbook = json.dumps({"name": "play", "steps": [{"name": "only", "run": [work]}]})
    assert RunHarness(MemoryStore(), playbook).finish().status is RunStatus.SUCCEEDED
    assert server.requests[0].headers["x-key"] == VALUE


def test_a_short_secret_is_not_revealed_in_a_service(server: StubServer) -> None:
    work = {"action": "http", "url": server.url(), "headers": {"X-Key": "{{ secrets.PIN }}"}}
    error = error_of(run_in_service(work, "PIN: 127.0.0.1"))
    assert error["type"] == "AccessDenied" and "fewer than 8 characters" in error["message"]
    assert server.requests == []


def test_a_redirect_to_another_host_has_no_secret() -> None:
    with serve(lambda exchange: exchange.reply_json({})) as other:

        def redirect(exchange: StubExchange) -> None:
            exchange.reply(307, location=other.url(host="localhost"))

        with serve(redirect) as first:
            work = {"action": "http", "url": first.url(), "headers": {"X-Key": "{{ secrets.TOKEN }}"}}
            assert run_in_service(work, "TOKEN: 127.0.0.1").status is RunStatus.SUCCEEDED
    assert first.requests[0].headers["x-key"] == VALUE
    assert "x-key" not in other.requests[0].headers


def test_what_a_page_echoes_goes_to_no_other_host() -> None:
    with serve(lambda exchange: exchange.reply_json({})) as other:

        def echo(exchange: StubExchange) -> None:
            exchange.reply_json({"echo": exchange.received.headers["x-key"]})

        with serve(echo) as first:
            next_url = other.url("/", host="localhost") + "{{ response.body.echo | reverse | join }}"
            work = {
                "action": "http",
                "url": first.url(),
                "headers": {"X-Key": "{{ secrets.TOKEN }}"},
                "paginate": {"next": next_url},
            }
            error = error_of(run_in_service(work, "TOKEN: 127.0.0.1"))
    assert error["type"] == "AccessDenied" and other.requests == []


@pytest.mark.parametrize(
    ("connection", "rule"),
    [
        ("{{ secrets.DSN }}", "DSN: db.test"),
        ("postgresql://app:{{ secrets.DSN }}@db.test/x", "DSN: db.test"),
        ("host=db.test,other.test user=app password={{ secrets.DSN }}", "DSN: db.test"),
        ("host=db.test hostaddr=127.0.0.1 user=app password={{ secrets.DSN }}", "DSN: db.test"),
        ("user=app password={{ secrets.DSN }}", "DSN: db.test"),
        ("postgresql://app:{{ secrets.DSN }}@/x?host=127.0.0.1", "DSN: db.test"),
        ("postgresql://app:{{ secrets.DSN }}@127.0.0.1/x", ""),
    ],
)
def test_a_secret_in_a_connection_string_goes_to_listed_hosts_only(
    connection: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("NOETL_SECRET_DSN", "postgresql://app:long-password@127.0.0.1:1/x")
    error = error_of(
        run_in_service({"action": "postgres", "connection": connection, "query": "select 1"}, rule)
    )
    assert error["type"] in ("AccessDenied", "ParameterError")
    assert "127.0.0.1" not in error["message"]


def test_a_connection_to_a_listed_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("NOETL_SECRET_DSN", "postgresql://app:long-password@127.0.0.1:1/x")
    work = {"action": "postgres", "connection": "{{ secrets.DSN }}", "query": "select 1"}
    assert error_of(run_in_service(work, "DSN: 127.0.0.1"))["type"] == "ConnectionFailed"


ARN = "arn:aws:{}:eu-west-1:123456789012:x"
AWS_WORK: list[tuple[dict[str, Any], str]] = [
    (
        {"action": "lambda", "function": ARN.format("lambda"), "payload": {"k": "{{ secrets.TOKEN }}"}},
        "lambda",
    ),
    ({"action": "message", "to": ARN.format("sqs"), "body": "{{ secrets.TOKEN }}"}, "sqs"),
    ({"action": "message", "to": ARN.format("sns"), "body": "{{ secrets.TOKEN }}"}, "sns"),
    ({"action": "message", "to": ARN.format("events"), "body": {"k": "{{ secrets.TOKEN }}"}}, "events"),
    (
        {
            "action": "message",
            "to": "https://sqs.eu-west-1.amazonaws.com/123456789012/x",
            "body": "{{ secrets.TOKEN }}",
        },
        "sqs",
    ),
]


@pytest.mark.parametrize(("work", "service"), AWS_WORK)
def test_a_secret_goes_to_listed_endpoints_of_aws_only(
    work: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    error = error_of(run_in_service(work, "TOKEN: api.test"))
    assert error["type"] == "AccessDenied"
    assert f"`{service}.eu-west-1.amazonaws.com`" in error["message"]


def test_commands_and_functions_need_a_rule_of_their_own() -> None:
    work = {"action": "shell", "command": 'test -n "$KEY"', "env": {"KEY": "{{ secrets.TOKEN }}"}}
    error = error_of(run_in_service(work, "TOKEN: 127.0.0.1, shell"))
    assert "needs the rule `TOKEN: action:shell`" in error["message"]
    assert run_in_service(work, "TOKEN: action:shell").status is RunStatus.SUCCEEDED
    stdin = {"action": "shell", "command": "cat > /dev/null", "stdin": "{{ secrets.TOKEN }}"}
    assert error_of(run_in_service(stdin, "TOKEN: action:python"))["type"] == "AccessDenied"
    python = {"action": "python", "function": "json:dumps", "args": ["{{ secrets.TOKEN }}"]}
    assert error_of(run_in_service(python, NOETL_PYTHON_MODULES="json"))["type"] == "AccessDenied"


class Forgetful:
    """An action type whose author did not declare where it sends its parameters."""

    DECLARATION = ActionDeclaration("forgetful", "", {"key": Parameter((Kind.STRING,), "", secrets=True)})
    received: ClassVar[list[str]] = []

    @classmethod
    def perform(cls, call: Call) -> None:
        cls.received.append(call.parameters["key"])


def test_an_action_type_without_a_destination_gets_no_secret() -> None:
    work = {"action": "forgetful", "key": "{{ secrets.TOKEN }}"}
    with temporary_types(Forgetful):
        error = error_of(run_in_service(work, "TOKEN: api.test"))
        assert "`action:forgetful`" in error["message"] and Forgetful.received == []
        assert run_in_service(work, "TOKEN: action:forgetful").status is RunStatus.SUCCEEDED
    assert Forgetful.received == [VALUE]


def test_every_type_that_sends_secrets_over_the_network_declares_its_destination() -> None:
    local = {"shell", "python", "callback"}
    types = {
        declaration.type
        for declaration in catalogue().values()
        if any(parameter.secrets for parameter in declaration.parameters.values())
    }
    declared = {declaration.type for declaration in catalogue().values() if declaration.destination}
    assert declared == types - local
    for name in declared:
        destination = catalogue()[name].destination
        assert destination is not None and catalogue()[name].parameters[destination.parameter].required


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("api.test", "API.test.", True),
        ("API.test.", "api.test", True),
        ("api.test", "api.test.evil.test", False),
        ("api.test", "evil-api.test", False),
        ("*.api.test", "a.b.api.test", True),
        ("*.api.test", "api.test", False),
        ("*.api.test", "evilapi.test", False),
        ("*.api.test", ".api.test", False),
        ("::1", "[::1]", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("xn--bcher-kva.test", "xn--bcher-kva.test", True),
        ("api.test", "", False),
    ],
)
def test_hosts_are_compared_as_names(pattern: str, host: str, matches: bool) -> None:
    access = SecretAccess("default", read_secret_hosts({"NOETL_SECRETS_HOSTS": f"TOKEN: {pattern}"}), ENVIRON)
    access.set_destination(lambda: (host,))
    if matches:
        assert access.reveal("TOKEN") == VALUE
    else:
        with pytest.raises(ActionError) as caught:
            access.reveal("TOKEN")
        assert caught.value.type == "AccessDenied"


@pytest.mark.parametrize("hosts", [(), ("api.test", "evil.test"), ("",)])
def test_every_host_of_the_destination_must_be_listed(hosts: tuple[str, ...]) -> None:
    access = SecretAccess("default", read_secret_hosts({"NOETL_SECRETS_HOSTS": "TOKEN: api.test"}), ENVIRON)
    assert access.reveal("TOKEN") == VALUE  # the destination itself may contain it
    with pytest.raises(ActionError, match="must not go to"):
        access.set_destination(lambda: hosts)


def test_an_unknown_secret_stays_unknown_whatever_the_rules() -> None:
    for hosts in (SecretHosts(), read_secret_hosts({"NOETL_SECRETS_HOSTS": "NONE: api.test"})):
        with pytest.raises(ActionError, match="unknown secret `NONE`") as caught:
            SecretAccess("default", hosts, ENVIRON).reveal("NONE")
        assert caught.value.type == "ParameterError"
    assert unrestricted_access(ENVIRON).reveal("PIN") == "1234"


@pytest.mark.parametrize(
    "text",
    ["TOKEN", "TOKEN api.test", "TOKEN:", "TOKEN: *", "TOKEN: *.*", "TOKEN: https://api.test",
     "TOKEN: api.test:443",
     "TOKEN: a b", "a/b/TOKEN: api.test", "1X: api.test", "TOKEN: api.test,,b.test", "TOKEN: action:"],
)  # fmt: skip
def test_an_invalid_rule_keeps_a_service_from_starting(text: str) -> None:
    with pytest.raises(SettingError, match=r"^NOETL_SECRETS_HOSTS: "):
        service_capabilities({"NOETL_SECRETS_HOSTS": f"A: a.test\n{text}"})


def test_rules_of_all_forms_are_read() -> None:
    text = "A: a.test; A: *.b.test\norg:1/A: c.test, action:shell\n\n a@b.c/_X : ::1,10.0.0.1 ;"
    assert read_secret_hosts({"NOETL_SECRETS_HOSTS": text}).rules == {
        ("default", "A"): ("a.test", "*.b.test"),
        ("org:1", "A"): ("c.test", "action:shell"),
        ("a@b.c", "_X"): ("::1", "10.0.0.1"),
    }


def test_files_and_logs_take_no_secrets() -> None:
    for action, parameters in catalogue().items():
        if action in ("file", "log", "set", "s3", "fail", "wait", "workflow"):
            assert not any(parameter.secrets for parameter in parameters.parameters.values())
