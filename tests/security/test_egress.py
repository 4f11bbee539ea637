"""Requests to internal addresses are refused, in every spelling, by name, and after redirects."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time

import httpcore
import httpx
import pytest

from noetl.executor.clients import egress
from noetl.executor.clients.time_limit import time_limit
from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities
from noetl.planner.syntax.addresses import is_forbidden_host, parse_literal_address
from tests.action_calls import perform_action
from tests.http_server import StubExchange, serve

NO_NETWORKS = Capabilities()
PRIVATE = Capabilities(networks=("10.0.0.0/8", "127.0.0.0/8", "::1/128"))

INSIDE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1",
    "127.255.255.255", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "::ffff:0:7f00:1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:7f00:1::", "2001:db8::1", "2001:20::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1",
    "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
]  # fmt: skip
OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "172.15.0.1",
    "172.32.0.1",
    "100.63.0.1",
    "100.128.0.1",
    "2606:4700::1111",
]


@pytest.mark.parametrize("address", INSIDE)
def test_special_addresses_are_denied(address: str) -> None:
    with pytest.raises(ActionError) as caught:
        egress.vet("x.test", [address], (), "http")
    assert (caught.value.type, caught.value.retryable) == ("ForbiddenAddress", False)


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_addresses_are_allowed(address: str) -> None:
    assert egress.vet("x.test", [address], (), "http") == [address]


def test_one_forbidden_address_of_a_host_is_enough() -> None:
    with pytest.raises(ActionError):
        egress.vet("x.test", ["8.8.8.8", "10.0.0.1"], (), "http")


def test_the_setting_that_the_error_names_allows_networks() -> None:
    with pytest.raises(ActionError, match="NOETL_ALLOW_NETWORKS"):
        egress.vet("x.test", ["10.1.2.3"], (), "http")
    assert egress.vet("x.test", ["10.1.2.3"], ("10.1.0.0/16",), "http") == ["10.1.2.3"]
    with pytest.raises(ActionError):
        egress.vet("x.test", ["10.2.2.3"], ("10.1.0.0/16",), "http")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd00:c1::a9fe:a9fe",
        "fd20:ce::254",
        "64:ff9b::a9fe:a9fe",
        "::ffff:a9fe:a9fe",
        "2002:a9fe:a9fe::",
    ],
)
def test_metadata_is_never_allowed(address: str) -> None:
    assert not egress.is_allowed(ipaddress.ip_address(address), ("0.0.0.0/0", "::/0"))
    with pytest.raises(ActionError) as caught:
        egress.vet(address, [address], ("0.0.0.0/0", "::/0"), "http")
    assert "NOETL_ALLOW_NETWORKS" not in caught.value.message


def test_the_error_hides_the_address_of_an_inside_name() -> None:
    messages = []
    for address in ("10.1.2.3", "169.254.169.254"):
        with pytest.raises(ActionError) as caught:
            egress.vet("wiki.corp.test", [address], (), "http")
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    assert messages[0].startswith("`wiki.corp.test` leads to an address that `http` must not reach")


SPELLINGS = [
    "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1",
    "0", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "10.0.0.1", "169.254.169.254",
    "2852039166", "0xa9fea9fe", "169.254.43518", "[fd00:ec2::254]", "metadata.google.internal",
    "METADATA.google.internal.", "１２７.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS)
def test_every_spelling_of_a_forbidden_address_is_refused(host: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("http", capabilities=NO_NETWORKS, url=f"http://{host}/", seconds=10)
    # The URL parser refuses some of them.
    assert caught.value.type in ("ForbiddenAddress", "ParameterError")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("2852039166", "169.254.169.254"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_numeric_hosts_are_parsed_like_resolvers_do(host: str, address: str) -> None:
    assert parse_literal_address(host) == ipaddress.ip_address(address)


@pytest.mark.parametrize(
    "host", ["1.2.3.4.5", "256.1.1.1", "1.2.65536", "09.1.1.1", "x.test", "1..2", "", "0x1ffffffff"]
)
def test_other_hosts_are_not_numeric(host: str) -> None:
    assert parse_literal_address(host) is None
    assert not is_forbidden_host(host)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://x.test/", "gopher://127.0.0.1/", "x.test/a", "//x.test/a", "javascript:1"],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("http", url=url)
    assert (caught.value.type, caught.value.retryable) == ("ForbiddenAddress", False)


def hello(exchange: StubExchange) -> None:
    exchange.reply(200, b"hello")


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.255.255.1/",
        "//192.168.0.1/",
        "http://2852039166/",
        "file:///etc/passwd",
        "http://0/",
    ],
)
def test_redirects_are_vetted(location: str) -> None:
    with (
        serve(lambda exchange: exchange.reply(302, location=location)) as server,
        pytest.raises(ActionError) as caught,
    ):
        perform_action("http", url=server.url())
    assert (caught.value.type, caught.value.retryable) == ("ForbiddenAddress", False)


class ScriptedResolver:
    """A resolver that returns the next of its answers for each query."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.queries: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.queries.append(host)
        return self.answers.pop(0)


def send_get(
    url: str, resolver: egress.Resolver, networks: tuple[str, ...] = PRIVATE.networks, seconds: float = 10
) -> httpx.Response:
    with time_limit(time.monotonic() + seconds):
        response = egress.vetted_transport(networks, "http", resolver).handle_request(
            httpx.Request("GET", url)
        )
        response.read()
        response.close()
        return response


def test_a_name_is_resolved_once_and_its_vetted_address_is_used() -> None:
    resolver = ScriptedResolver(["127.0.0.1"], ["169.254.169.254"])
    with serve(hello) as server:
        assert send_get(server.url(host="rebinding.test"), resolver).content == b"hello"
        assert server.requests[0].headers["host"] == f"rebinding.test:{server.port}"
        assert resolver.queries == ["rebinding.test"]
    with pytest.raises(ActionError) as caught:
        send_get("http://rebinding.test:1/", resolver)
    assert caught.value.type == "ForbiddenAddress"


def test_the_next_address_is_tried_if_one_does_not_respond() -> None:
    with serve(hello) as server:
        assert (
            send_get(server.url(host="x.test"), ScriptedResolver(["127.255.255.254", "127.0.0.1"])).content
            == b"hello"
        )


def test_transports_with_other_permissions_share_no_connections() -> None:
    with serve(hello) as server:
        perform_action("http", url=server.url())
        with pytest.raises(ActionError) as caught:
            perform_action("http", capabilities=NO_NETWORKS, url=server.url())
    assert caught.value.type == "ForbiddenAddress"


def test_tls_uses_the_name_instead_of_the_address() -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def shake() -> None:
            client, _ = listener.accept()
            with client, pytest.raises(OSError):
                context.wrap_socket(client, server_side=True)

        thread = threading.Thread(target=shake)
        thread.start()
        with pytest.raises(httpcore.ConnectError):
            send_get(f"https://secure.test:{listener.getsockname()[1]}/", ScriptedResolver(["127.0.0.1"]))
        thread.join()
    assert names == ["secure.test"]


def test_an_untrusted_certificate_is_refused_without_a_fallback_to_http() -> None:
    with serve(hello) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url().replace("http:", "https:"))
    assert caught.value.type == "ConnectionFailed"
    assert server.requests == []


def test_a_resolver_that_does_not_respond_times_out() -> None:
    end = threading.Event()

    def silent(host: str, port: int) -> list[str]:
        end.wait()
        return []

    with pytest.raises(httpcore.ConnectTimeout):
        send_get("http://x.test/", silent, seconds=0.2)
    end.set()


def test_a_name_without_an_address_is_an_error() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("unknown")

    with pytest.raises(httpcore.ConnectError, match=r"`x\.test` cannot be resolved"):
        send_get("http://x.test/", unknown)
    with pytest.raises(httpcore.ConnectError, match="has no address"):
        send_get("http://x.test/", ScriptedResolver([]))
