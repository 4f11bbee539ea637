"""Postgres servers that must not be reached, and data of this machine that must not reach a server."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from noetl.executor.actions import _postgres_pool
from noetl.executor.actions._postgres_servers import vet_servers
from noetl.executor.actions.action import Call
from noetl.executor.clients import egress
from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities
from tests.action_calls import perform_action
from tests.security.test_egress import SPELLINGS, ScriptedResolver

NO_NETWORKS = Capabilities()
LOOPBACK = Capabilities(networks=("127.0.0.0/8",))


pytestmark = pytest.mark.usefixtures("no_idle_connections")


class CountingProxy:
    """A TCP proxy to the Postgres server of the tests. It counts connections."""

    def __init__(self, target: dict[str, Any], address: str) -> None:
        self._target = target
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self.connection_count = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        # Closing a listener does not wake up a thread in accept(), but a connection does.
        self._is_closing = True
        with socket.create_connection(self._listener.getsockname()):
            self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._is_closing:
                    client.close()
                    return
                self.connection_count += 1
                server = self._connect()
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = str(self._target["host"]), int(self._target.get("port", 5432))
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{host}/.s.PGSQL.{port}")
        return connection

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), closing(source), closing(sink):
            while chunk := source.recv(65536):
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[CountingProxy]:
    with closing(CountingProxy(conninfo_to_dict(postgres_dsn), "127.0.0.1")) as running_proxy:
        yield running_proxy


@pytest.fixture
def db_test_resolver(monkeypatch: pytest.MonkeyPatch) -> ScriptedResolver:
    """A resolver that gives 127.0.0.1 once for any name."""
    resolver = ScriptedResolver(["127.0.0.1"])
    monkeypatch.setattr(egress, "resolve_host", resolver)
    return resolver


def connection_string_through(proxy: CountingProxy, dsn: str, **keywords: Any) -> str:
    """Return the connection string of a database through a proxy, with a name that only the test resolves."""
    credentials = {k: v for k, v in conninfo_to_dict(dsn).items() if k in ("user", "password", "dbname")}
    return make_conninfo("", **{**credentials, "host": "db.test", "port": proxy.port, **keywords})


def refused(connection: str, capabilities: Capabilities = NO_NETWORKS) -> ActionError:
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres", capabilities=capabilities, connection=connection, query="select 1", seconds=20
        )
    return caught.value


@pytest.mark.parametrize(
    "connection",
    [
        "",
        "user=a",
        "dbname=postgres user=postgres",
        "postgresql://a@/x",
        "postgresql:///x?user=a",
        "host=/var/run/postgresql user=a",
        "host=@abstract user=a",
        "postgresql://a@%2Ftmp/x",
        "postgresql://a@/x?host=/tmp",
        "host=8.8.8.8,/tmp user=a",
        "host=8.8.8.8, user=a",
        "host=,8.8.8.8 user=a",
        "host=8.8.8.8 hostaddr=127.0.0.1 user=a",
        "hostaddr=8.8.8.8 user=a",
        "postgresql://a@8.8.8.8/x?hostaddr=127.0.0.1",
        "service=x",
        "postgresql://a@8.8.8.8/x?service=x",
        "host=8.8.8.8 user=a passfile=/etc/passwd",
        "host=8.8.8.8 user=a sslkey=/etc/passwd",
        "host=8.8.8.8 user=a sslcert=/etc/passwd",
        "host=8.8.8.8 user=a sslrootcert=/etc/passwd",
        "host=8.8.8.8 user=a sslcrl=/etc/passwd",
        "host=8.8.8.8 user=a sslcrldir=/etc",
        "host=8.8.8.8 user=a requirepeer=root",
        "host=8.8.8.8 user=a gssencmode=prefer",
        "host=8.8.8.8 user=a krbsrvname=x",
        "host=8.8.8.8 user=a require_auth=gss",
        "host=8.8.8.8 user=a replication=database",
        "host=8.8.8.8 user=a load_balance_hosts=random",
        "host=8.8.8.8 user=a client_encoding=sjis",
    ],
)
def test_connection_strings_that_use_this_machine_are_refused(connection: str) -> None:
    error = refused(connection)
    assert (error.type, error.retryable) == ("ForbiddenAddress", False)


@pytest.mark.parametrize(
    "connection",
    [
        "host=8.8.8.8 user=a servicefile=/etc/passwd",
        "host=8.8.8.8 user=a sslkeylogfile=/tmp/keys",
        "host=8.8.8.8 user=a oauth_issuer=http://127.0.0.1 oauth_client_id=x",
    ],
)
def test_keywords_that_older_drivers_do_not_know_are_refused(connection: str) -> None:
    assert refused(connection).type in {"ForbiddenAddress", "ParameterError"}


@pytest.mark.parametrize("host", SPELLINGS)
def test_every_spelling_of_a_forbidden_host_is_refused(host: str) -> None:
    error = refused(make_conninfo("", host=host.strip("[]"), user="a"))
    assert (error.type, error.retryable) == ("ForbiddenAddress", False)
    assert error.message.startswith(
        "`connection` leads to an address that `postgres` must not reach;"
        " add its network to NOETL_ALLOW_NETWORKS"
    )


def test_the_metadata_service_is_never_allowed() -> None:
    everything = Capabilities(networks=("0.0.0.0/0", "::/0"))
    assert refused("host=169.254.169.254 port=80 user=a", everything).type == "ForbiddenAddress"


@pytest.mark.parametrize(
    "connection",
    [
        "postgresql://a@8.8.8.8:1,10.0.0.1:2/x",
        "host=10.0.0.1,8.8.8.8 user=a",
        "host=8.8.8.8,localhost user=a",
    ],
)
def test_every_host_of_a_list_is_vetted(connection: str) -> None:
    assert refused(connection).type == "ForbiddenAddress"


def servers(
    connection: str, *answers: list[str], capabilities: Capabilities = NO_NETWORKS
) -> list[dict[str, Any]]:
    call = Call({}, "key", float("inf"), capabilities)
    return [
        dict(conninfo_to_dict(server)) for server in vet_servers(connection, call, ScriptedResolver(*answers))
    ]


def test_every_address_of_a_host_is_vetted() -> None:
    with pytest.raises(ActionError) as caught:
        servers("host=db.test user=a", ["8.8.8.8", "192.168.0.1"])
    assert caught.value.type == "ForbiddenAddress"
    assert "192.168.0.1" not in caught.value.message


def test_each_address_is_tried_and_keeps_the_host_name_for_tls() -> None:
    found = servers("postgresql://a@one.test:1,two.test:2/x", ["8.8.8.8", "2606:4700::1111"], ["1.1.1.1"])
    assert [(s["host"], s["hostaddr"], s["port"], s["dbname"]) for s in found] == [
        ("one.test", "8.8.8.8", "1", "x"),
        ("one.test", "2606:4700::1111", "1", "x"),
        ("two.test", "1.1.1.1", "2", "x"),
    ]


def test_a_standby_is_preferred_to_other_servers() -> None:
    found = servers("host=a.test,b.test user=a target_session_attrs=prefer-standby", ["8.8.8.8"], ["1.1.1.1"])
    assert [(s["host"], s["target_session_attrs"]) for s in found] == [
        ("a.test", "standby"),
        ("b.test", "standby"),
        ("a.test", "any"),
        ("b.test", "any"),
    ]


@pytest.mark.parametrize(
    "connection",
    [
        "host=db.test",
        "host=db.test user=a port=0",
        "host=db.test user=a port=65536",
        "host=db.test user=a port=1,2",
        "host=db.test user=a port=-1",
        "host=db.test user=a port=٣",
        f"host={','.join(['db.test'] * 17)} user=a",
        "postgresql://a:%ff@db.test/x",
        "postgresql://a:\ud800@db.test/x",
    ],
)
def test_connection_strings_without_a_valid_server_are_refused(connection: str) -> None:
    error = refused(connection)
    assert (error.type, error.retryable) == ("ParameterError", False)


@pytest.mark.parametrize(
    "password",
    ["", " ", "it's", "back\\slash", "a b='c'", "hostaddr=127.0.0.1", "x' hostaddr='::1", "à\u2028é"],
)
def test_a_value_cannot_inject_keywords(password: str) -> None:
    (found,) = servers(
        make_conninfo("", host="db.test", user="a", password=password, dbname="host=/tmp"), ["8.8.8.8"]
    )
    assert (found["password"], found["dbname"], found["hostaddr"]) == (password, "host=/tmp", "8.8.8.8")


def test_the_vetted_address_is_used(
    postgres_dsn: str, proxy: CountingProxy, db_test_resolver: ScriptedResolver
) -> None:
    db_test_resolver.answers.append(["169.254.169.254"])
    connection = connection_string_through(
        proxy, postgres_dsn, options="-c search_path=mine", application_name="reports"
    )
    query = "select current_setting('search_path') || ' ' || current_setting('application_name')"
    found = perform_action(
        "postgres", capabilities=LOOPBACK, connection=connection, query=query, fetch="value"
    )
    assert (found, db_test_resolver.queries, proxy.connection_count) == ("mine reports", ["db.test"], 1)
    # The name is resolved again, also for pooled connections.
    assert refused(connection, LOOPBACK).type == "ForbiddenAddress"
    assert proxy.connection_count == 1


def test_pooled_connections_are_reused_only_for_the_same_addresses(
    postgres_dsn: str, proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        egress, "resolve_host", ScriptedResolver(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.9", "127.0.0.1"])
    )
    connection = connection_string_through(proxy, postgres_dsn)
    for connection_count in (1, 1, 2):
        perform_action("postgres", capabilities=LOOPBACK, connection=connection, query="select 1")
        assert proxy.connection_count == connection_count


def test_the_next_address_is_tried(
    postgres_dsn: str, proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "resolve_host", ScriptedResolver(["127.0.0.9", "127.0.0.1"]))
    connection = connection_string_through(proxy, postgres_dsn)
    assert (
        perform_action(
            "postgres", capabilities=LOOPBACK, connection=connection, query="select 1", fetch="value"
        )
        == 1
    )


def test_connections_of_local_runs_are_not_lent_to_other_runs(postgres_dsn: str) -> None:
    assert perform_action("postgres", connection=postgres_dsn, query="select 1", fetch="value") == 1
    assert refused(postgres_dsn, LOOPBACK).type == "ForbiddenAddress"


def variables() -> list[str]:
    return [option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar is not None]


def test_the_environment_has_no_effect(
    postgres_dsn: str,
    proxy: CountingProxy,
    db_test_resolver: ScriptedResolver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    services = tmp_path / "services"
    services.write_text(
        "[elsewhere]\nhost=/nowhere\nhostaddr=127.0.0.9\nport=1\nuser=x\npassword=x\nsslmode=require\n"
    )
    for name in variables():
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    connection = connection_string_through(proxy, postgres_dsn)
    found = perform_action(
        "postgres", capabilities=LOOPBACK, connection=connection, query="select 1", fetch="value"
    )
    assert found == 1


def test_every_keyword_with_an_environment_variable_has_a_value() -> None:
    (found,) = servers("host=db.test user=a", ["8.8.8.8"])
    keywords = {o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar is not None}
    # libpq uses the service only for keywords without a value.
    assert keywords - found.keys() == {"service"}
    for keyword in ("passfile", "sslcert", "sslkey", "sslrootcert"):
        assert not Path(found[keyword]).exists()
        assert found[keyword]


class RogueServer:
    """A server that requests a password in clear text, and records what it receives."""

    def __init__(self, answer: bytes = b"R\0\0\0\x08\0\0\0\x03") -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, suppress(OSError):
            while length := client.recv(4):
                message = client.recv(int.from_bytes(length, "big") - 4)
                self.received += message
                client.sendall(self._answer if message.startswith(b"\0\x03\0\0") else b"N")
                if message.startswith(b"\0\x03\0\0"):
                    break
            while chunk := client.recv(1024):
                self.received += chunk


def test_passwords_of_this_machine_are_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / ".pgpass"
    home.write_text("*:*:*:*:of-the-file\n")
    home.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", str(home))
    monkeypatch.setenv("PGPASSWORD", "of-the-environment")
    with closing(RogueServer()) as rogue:
        error = refused(f"host=127.0.0.1 port={rogue.port} user=a", LOOPBACK)
    assert error.type == "ConnectionFailed"
    assert b"user\0a\0" in rogue.received
    assert b"of-the" not in rogue.received


def test_a_server_of_another_protocol_looks_like_a_closed_port() -> None:
    with closing(RogueServer(b"SSH-2.0-secret_banner\r\n")) as rogue:
        other = refused(f"host=127.0.0.1 port={rogue.port} user=a", LOOPBACK)
    closed = refused(f"host=127.0.0.1 port={rogue.port} user=a", LOOPBACK)
    unknown = refused("host=nowhere.invalid user=a", LOOPBACK)
    observed = [
        (error.type, error.message, error.retryable, error.details) for error in (other, closed, unknown)
    ]
    assert observed == [observed[0]] * 3
    assert observed[0][:3] == (
        "ConnectionFailed",
        "cannot connect to the server in `connection`",
        True,
    )


def test_a_silent_server_looks_like_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_postgres_pool, "CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = refused(f"host=127.0.0.1 port={listener.getsockname()[1]} user=a", LOOPBACK)
    assert (silent.type, silent.message) == (
        "ConnectionFailed",
        "cannot connect to the server in `connection`",
    )


def test_the_message_of_the_server_is_reported(
    postgres_dsn: str, proxy: CountingProxy, db_test_resolver: ScriptedResolver
) -> None:
    error = refused(connection_string_through(proxy, postgres_dsn, dbname="missing"), LOOPBACK)
    assert (error.type, error.retryable) == ("ConnectionFailed", False)
    assert error.message == 'the server refused the connection: database "missing" does not exist'


def test_local_runs_use_the_environment(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = str(conninfo_to_dict(postgres_server)["host"])
    monkeypatch.setenv("PGHOST", host)
    if "port" in conninfo_to_dict(postgres_server):
        monkeypatch.setenv("PGPORT", str(urlsplit(postgres_server).port))
    user = conninfo_to_dict(postgres_server)["user"]
    assert (
        perform_action("postgres", connection=f"user={user} dbname=postgres", query="select 1", fetch="value")
        == 1
    )
    assert os.environ["PGHOST"] == host


def test_the_operator_chooses_the_trusted_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", "/etc/ours.pem")
    (found,) = servers("host=db.test user=a sslmode=verify-full", ["8.8.8.8"])
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "/etc/ours.pem")
    (found,) = servers("host=db.test user=a sslrootcert=system", ["8.8.8.8"])
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", "system")
    (found,) = servers("host=db.test user=a", ["8.8.8.8"])
    assert found["sslrootcert"] != "/etc/ours.pem"
