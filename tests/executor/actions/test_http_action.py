from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.clients import connection_pool
from noetl.executor.errors import ActionError
from noetl.executor.security.redaction import REVEALED_SECRETS
from tests.action_calls import perform_action
from tests.http_server import StubExchange, serve


def echo(exchange: StubExchange) -> None:
    request = exchange.received
    exchange.reply_json(
        {
            "method": request.method,
            "target": request.target,
            "headers": dict(request.headers),
            "body": request.body.decode(),
        }
    )


def test_the_result_has_the_status_lower_case_headers_and_the_parsed_body() -> None:
    with serve(
        lambda exchange: exchange.reply(201, b'{"a": [1]}', content_type="application/json", X_Kind="b")
    ) as server:
        result = perform_action("http", method="POST", url=server.url("/x"))
    assert result["status"] == 201
    assert result["headers"]["x-kind"] == "b"
    assert result["body"] == {"a": [1]}


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/problem+json; charset=utf-8", b'{"a": 1}', {"a": 1}),
        ("text/plain", b'{"a": 1}', '{"a": 1}'),
        ("application/json", b"{broken", "{broken"),
        ("application/json", b'{"a": NaN}', '{"a": NaN}'),
        ("application/json", b'"\\ud800"', '"\\ud800"'),
        ("application/json", b"[" * 100, "[" * 100),
        ("application/json", b"", ""),
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "café"),
        ("text/plain; charset=punycode", b"abc", "abc"),
        (f"text/plain; charset*{'9' * 5000}=x", b"abc", "abc"),
        ("text/plain", b"\xff", "\ufffd"),
    ],
)
def test_a_body_is_parsed_only_if_it_is_declared_and_valid_json(
    content_type: str, body: bytes, expected: Any
) -> None:
    with serve(lambda exchange: exchange.reply(200, body, content_type=content_type)) as server:
        assert perform_action("http", url=server.url())["body"] == expected


def test_method_query_headers_and_json_body_are_sent() -> None:
    with serve(echo) as server:
        sent = perform_action(
            "http",
            method="put",
            url=server.url("/a?x=1"),
            params={"q": "a b&c", "list": [1, True], "none": None},
            headers={"X-Number": 5, "X-None": None, "x-text": "grüße"},
            json={"ü": None},
        )["body"]
    assert sent["method"] == "PUT"
    assert sent["target"] == "/a?x=1&q=a+b%26c&list=1&list=true"
    assert json.loads(sent["body"]) == {"ü": None}
    headers = sent["headers"]
    assert headers["content-type"] == "application/json"
    assert headers["x-number"] == "5"
    assert headers["x-text"].encode("iso-8859-1").decode() == "grüße"
    assert "x-none" not in headers
    assert headers["idempotency-key"] == "key-1"
    assert headers["host"] == f"127.0.0.1:{server.port}"


def test_a_body_is_sent_as_text_or_as_a_form() -> None:
    with serve(echo) as server:
        text = perform_action(
            "http", method="POST", url=server.url(), body="a=b\n", headers={"content-type": "text/x"}
        )["body"]
        form = perform_action("http", method="POST", url=server.url(), form={"a": "b c", "n": [1, 2]})["body"]
    assert (text["body"], text["headers"]["content-type"]) == ("a=b\n", "text/x")
    assert form["body"] == "a=b+c&n=1&n=2"
    assert form["headers"]["content-type"] == "application/x-www-form-urlencoded"


def test_unsafe_methods_send_the_idempotency_key_unless_one_is_given() -> None:
    with serve(echo) as server:
        seen = {
            method: perform_action("http", method=method, url=server.url())["body"]["headers"].get(
                "idempotency-key"
            )
            for method in ("GET", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
        }
        with_key = perform_action(
            "http", method="POST", url=server.url(), headers={"Idempotency-Key": "mine"}
        )["body"]
    assert seen == {"GET": None, "OPTIONS": None} | dict.fromkeys(("POST", "PUT", "PATCH", "DELETE"), "key-1")
    assert with_key["headers"]["idempotency-key"] == "mine"


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"bearer": "abc"}, "Bearer abc"),
        ({"basic": {"username": "ann", "password": "p:w"}}, "Basic YW5uOnA6dw=="),
        ({"username": "ann", "password": "p:w"}, "Basic YW5uOnA6dw=="),
    ],
)
def test_auth_becomes_the_authorization_header(auth: dict[str, Any], expected: str) -> None:
    with serve(echo) as server:
        assert (
            perform_action("http", url=server.url(), auth=auth)["body"]["headers"]["authorization"]
            == expected
        )


@pytest.mark.parametrize(
    "auth", [{"digest": "x"}, {"bearer": 1}, {"bearer": "a", "basic": {}}, {"username": "a"}]
)
def test_other_auth_is_refused(auth: dict[str, Any]) -> None:
    with pytest.raises(ActionError, match="`auth` must be") as caught:
        perform_action("http", url="http://127.0.0.1/", auth=auth)
    assert caught.value.type == "ParameterError"


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(400, False), (404, False), (408, True), (425, True), (429, True), (500, True), (503, True)],
)
def test_a_status_of_400_or_more_fails(status: int, retryable: bool) -> None:
    with (
        serve(lambda exchange: exchange.reply_json({"why": "so"}, status)) as server,
        pytest.raises(ActionError) as caught,
    ):
        perform_action("http", url=server.url())
    error = caught.value
    assert (error.type, error.status, error.retryable) == ("HTTPStatus", status, retryable)
    assert error.details["body"] == {"why": "so"}
    assert error.details["headers"]["content-type"] == "application/json"


def test_an_error_keeps_the_start_of_the_body() -> None:
    with (
        serve(lambda exchange: exchange.reply(500, b"x" * 200_000)) as server,
        pytest.raises(ActionError) as caught,
    ):
        perform_action("http", url=server.url())
    assert caught.value.details["body"] == "x" * 64 * 1024


def test_a_secret_at_the_end_of_the_kept_body_is_redacted() -> None:
    value = "first-half-of-a-third-second-half"
    REVEALED_SECRETS.add(value)
    body = b"x" * (64 * 1024 - 15) + value.encode() + b"y" * 200_000
    with serve(lambda exchange: exchange.reply(500, body)) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url())
    kept = caught.value.details["body"]
    assert (len(kept), "half" in kept) == (64 * 1024, False)


@pytest.mark.parametrize("accepted", [[404, 409], 404])
def test_an_accepted_status_is_a_result(accepted: Any) -> None:
    with serve(lambda exchange: exchange.reply(404, b"none")) as server:
        assert perform_action("http", url=server.url(), accept_status=accepted)["status"] == 404


def test_a_refused_connection_is_retryable() -> None:
    with serve(echo) as server:
        url = server.url()
    with pytest.raises(ActionError) as caught:
        perform_action("http", url=url)
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)


def test_a_broken_connection_is_retryable() -> None:
    def hang_up(exchange: StubExchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
        exchange.close_connection = True

    with serve(hang_up) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url())
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)


def test_a_request_ends_at_its_deadline() -> None:
    def say_nothing(_: StubExchange) -> None:
        server.closing.wait()

    with serve(say_nothing) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url(), seconds=0.3)
    assert len(server.requests) == 1
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)


def test_connections_are_reused_but_cookies_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "MAX_SETTLE_SECONDS", 0.0)
    with serve(lambda exchange: exchange.reply(200, b"x", Set_Cookie="a=b")) as server:
        for _ in range(3):
            perform_action("http", url=server.url())
    assert len(server.connections) == 1
    assert all("cookie" not in request.headers for request in server.requests)


def test_threads_share_the_transport() -> None:
    with serve(echo) as server:
        targets: list[str] = []
        threads = [
            threading.Thread(
                target=lambda n=n: targets.append(
                    perform_action("http", url=server.url(f"/{n}"))["body"]["target"]
                )
            )
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(targets) == sorted(f"/{n}" for n in range(20))


def redirect(exchange: StubExchange) -> None:
    kind, _, rest = exchange.path.lstrip("/").partition("/")
    if kind.isdigit():
        exchange.reply(int(kind), location=f"/{rest}")
    else:
        echo(exchange)


@pytest.mark.parametrize(
    ("status", "method", "arrives_as"),
    [
        (301, "GET", "GET"),
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "PUT", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_redirects_are_followed(status: int, method: str, arrives_as: str) -> None:
    body: dict[str, Any] = {} if method == "GET" else {"json": {"a": 1}}
    with serve(redirect) as server:
        arrived = perform_action(
            "http", method=method, url=server.url(f"/{status}/end"), headers={"X-A": "b"}, **body
        )["body"]
    assert (arrived["method"], arrived["target"]) == (arrives_as, "/end")
    assert arrived["headers"]["x-a"] == "b"
    assert bool(arrived["body"]) == (arrives_as == method != "GET")


@pytest.mark.parametrize("follow", [False, 0])
def test_a_redirect_is_the_result_if_redirects_are_not_followed(follow: Any) -> None:
    with serve(redirect) as server:
        assert perform_action("http", url=server.url("/302/end"), follow_redirects=follow)["status"] == 302


def test_at_most_three_redirects_are_followed_by_default() -> None:
    with serve(redirect) as server:
        assert perform_action("http", url=server.url("/302/302/302/end"))["status"] == 200
        with pytest.raises(ActionError) as caught:
            perform_action("http", url=server.url("/302/302/302/302/end"))
        assert (
            perform_action("http", url=server.url("/302/302/302/302/end"), follow_redirects=4)["status"]
            == 200
        )
    assert (caught.value.type, caught.value.status, caught.value.retryable) == ("HTTPStatus", 302, False)


def test_credentials_stay_with_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_SECRET_APIKEY", "key-of-the-first-origin")
    given: dict[str, Any] = {
        "auth": {"bearer": "token"},
        "headers": {"Cookie": "a=b", "X-Api-Key": "{{ secrets.APIKEY }}", "X-Trace": "1"},
    }
    with (
        serve(echo) as other,
        serve(lambda exchange: exchange.reply(307, location=other.url("/end"))) as first,
        serve(redirect) as same_server,
    ):
        other_headers = perform_action("http", url=first.url(), **given)["body"]["headers"]
        same_headers = perform_action("http", url=same_server.url("/307/end"), **given)["body"]["headers"]
    assert first.requests[0].headers["authorization"] == "Bearer token"
    assert first.requests[0].headers["x-api-key"] == "key-of-the-first-origin"
    assert other_headers["x-trace"] == "1"
    assert not {"authorization", "cookie", "x-api-key"} & other_headers.keys()
    assert {"authorization", "cookie", "x-api-key"} <= same_headers.keys()


def test_compressed_bodies_are_decompressed() -> None:
    packed = gzip.compress(b"hello ") + gzip.compress(b"world")
    with serve(lambda exchange: exchange.reply(200, packed, content_encoding="gzip")) as server:
        assert perform_action("http", url=server.url())["body"] == "hello world"


@pytest.mark.parametrize(
    ("coding", "body", "message"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)[:-9], "too early"),
        ("gzip", b"junk", "cannot be decompressed"),
        ("br", b"x", "not requested"),
    ],
)
def test_a_body_that_cannot_be_decompressed_fails(coding: str, body: bytes, message: str) -> None:
    with (
        serve(lambda exchange: exchange.reply(200, body, content_encoding=coding)) as server,
        pytest.raises(ActionError, match=message) as caught,
    ):
        perform_action("http", url=server.url())
    assert caught.value.type == "ConnectionFailed"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"url": "http://127.0.0.1/", "json": 1, "body": "x"}, "`json` and `body` exclude each other"),
        ({"url": "http://ann:word@127.0.0.1/"}, "use `auth`"),
        ({"url": "http:///x"}, "has no host"),
        ({"url": "http://127.0.0.1/\ud800"}, "`url` has half of a surrogate pair"),
        ({"url": "http://[::1"}, "`url` is invalid"),
        ({"url": "http://127.0.0.1:65536"}, "`url` has the port 65536, which does not exist"),
        (
            {"url": "http://127.0.0.1/", "auth": {"bearer": "a"}, "headers": {"authorization": "b"}},
            "exclude each other",
        ),
        ({"url": "http://127.0.0.1/", "headers": {"a": [1]}}, "`a` must be text"),
    ],
)
def test_invalid_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ActionError, match=message) as caught:
        perform_action("http", **parameters)
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password word")
    with serve(echo) as server:
        assert "authorization" not in perform_action("http", url=server.url())["body"]["headers"]


def serve_pages(exchange: StubExchange) -> None:
    """Serve five items in pages of two. `?page=N` selects a page; each has the URL of the next."""
    page = int(exchange.path.rpartition("=")[2]) if "=" in exchange.path else 1
    items = list(range(1, 6))[2 * page - 2 : 2 * page]
    exchange.reply_json({"items": items, "next": f"?page={page + 1}" if page < 3 else None})


NEXT = "{{ response.body.next }}"
ITEMS = "{{ response.body.items }}"


def test_pages_are_followed_and_their_items_are_the_result() -> None:
    with serve(serve_pages) as server:
        assert perform_action("http", url=server.url("/x"), paginate={"next": NEXT, "items": ITEMS}) == [
            1,
            2,
            3,
            4,
            5,
        ]
        assert perform_action("http", url=server.url("/x"), paginate={"next": NEXT, "max_pages": 3}) == [
            {"items": [1, 2], "next": "?page=2"},
            {"items": [3, 4], "next": "?page=3"},
            {"items": [5], "next": None},
        ]
    assert [request.target for request in server.requests[:3]] == ["/x", "/x?page=2", "/x?page=3"]


def test_templates_of_pages_see_other_names_and_the_whole_response() -> None:
    paginate = {
        "next": "{{ response.headers.link if response.status == limit else '' }}",
        "items": "{{ response.body | map('upper') | list }}",
        "max_pages": "{{ most }}",
    }
    with serve(
        lambda exchange: (
            exchange.reply(200, b'["a"]', content_type="application/json", link=server.url("/end"))
            if exchange.path == "/"
            else exchange.reply(201, b'["b"]', content_type="application/json")
        )
    ) as server:
        names = {"limit": 200, "most": 2, "response": "shadowed"}
        assert perform_action("http", url=server.url(), paginate=paginate, names=names) == ["A", "B"]


def test_more_pages_than_allowed_fail() -> None:
    with (
        serve(serve_pages) as server,
        pytest.raises(ActionError, match="more pages than `max_pages`, 2") as caught,
    ):
        perform_action("http", url=server.url(), paginate={"next": NEXT, "max_pages": 2})
    assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("paginate", "type_", "message"),
    [
        ({"next": "{{ response.body.nxet }}"}, "UndefinedName", "`next`: .*nxet"),
        ({"next": NEXT, "items": "{{ response.body.next }}"}, "ParameterError", "`items` must be a list"),
        ({"next": "{{ response.status }}"}, "ParameterError", "`next` must be text or none, not a number"),
        (
            {"next": "file:///etc/passwd{{ response.body.nothing | default('') }}"},
            "ForbiddenAddress",
            "must begin",
        ),
        (
            {"next": "http://169.254.169.254/{{ response.status }}"},
            "ForbiddenAddress",
            "must not reach",
        ),
        ({"next": NEXT, "max_pages": 0}, "ParameterError", "at least 1"),
        ({"items": ITEMS}, "ParameterError", "missing field `next` of `paginate`"),
        ({"next": NEXT, "item": "x"}, "ParameterError", "unknown field `item` of `paginate`"),
        ("{{ response }}", "ParameterError", "literal mapping"),
    ],
)
def test_invalid_pagination_is_refused(paginate: Any, type_: str, message: str) -> None:
    with serve(serve_pages) as server, pytest.raises(ActionError, match=message) as caught:
        perform_action("http", url=server.url(), paginate=paginate, names={"response": {}})
    assert (caught.value.type, caught.value.retryable) == (type_, False)


def test_each_page_has_its_own_idempotency_key() -> None:
    with serve(serve_pages) as server:
        perform_action("http", method="POST", url=server.url(), json={"q": 1}, paginate={"next": NEXT})
        perform_action(
            "http",
            method="POST",
            url=server.url(),
            headers={"Idempotency-Key": "mine"},
            paginate={"next": NEXT},
        )
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys == ["key-1-1", "key-1-2", "key-1-3", "mine", "mine", "mine"]
    assert {request.body for request in server.requests[:3]} == {b'{"q":1}'}


def test_credentials_of_pages_stay_with_the_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_SECRET_WORD", "word-of-the-first-origin")
    paginate = {"next": "{{ response.body.next }}"}

    def link_to_other_server(exchange: StubExchange) -> None:
        exchange.reply_json({"next": other.url("/end")})

    with (
        serve(lambda exchange: exchange.reply_json({"next": None})) as other,
        serve(link_to_other_server) as first,
    ):
        perform_action(
            "http", url=first.url(), auth={"bearer": "token"}, headers={"X-A": "b"}, paginate=paginate
        )
        with pytest.raises(ActionError, match="another origin") as caught:
            perform_action(
                "http", method="POST", url=first.url(), json={"a": "{{ secrets.WORD }}"}, paginate=paginate
            )
    assert caught.value.type == "ForbiddenAddress"
    (arrived,) = other.requests
    assert "authorization" not in arrived.headers
    assert arrived.headers["x-a"] == "b"


@pytest.mark.parametrize(
    ("method", "tries"), [("GET", 3), ("PUT", 3), ("DELETE", 3), ("POST", 1), ("PATCH", 1)]
)
def test_idempotent_methods_are_retried_after_a_broken_connection(method: str, tries: int) -> None:
    def hang_up(exchange: StubExchange) -> None:
        exchange.close_connection = True

    with serve(hang_up) as server, pytest.raises(ActionError) as caught:
        perform_action("http", method=method, url=server.url())
    assert (caught.value.type, len(server.requests)) == ("ConnectionFailed", tries)


def test_a_retry_hides_a_connection_that_breaks_once() -> None:
    def hang_up_once(exchange: StubExchange) -> None:
        if len(server.requests) == 1:
            exchange.close_connection = True
        else:
            exchange.reply(200, b"x")

    with serve(hang_up_once) as server:
        assert perform_action("http", url=server.url())["body"] == "x"


def test_the_end_of_the_process_closes_all_connections() -> None:
    """An idle connection would cause a warning about an unclosed socket."""
    with serve(echo) as server:
        script = (
            f"from tests.action_calls import perform_action; perform_action('http', url={server.url()!r})"
        )
        command = [sys.executable, "-W", "always::ResourceWarning", "-c", script]
        ended = subprocess.run(
            command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("status", "is_retryable"), [(500, True), (503, True), (501, False), (505, False)])
def test_statuses_that_a_retry_does_not_change_are_not_retried(status: int, is_retryable: bool) -> None:
    with serve(lambda exchange: exchange.reply(status)) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url())
    assert caught.value.retryable is is_retryable


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("7", 7.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("9" * 400, 9_999_999_999.0),
        (f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT", None),
        ("Fri, 31 Dec 2030 23:59:59 +99999999999999999999", None),
        ("-1", None),
        ("", None),
    ],
)
def test_an_error_says_when_the_server_wants_the_next_request(value: str, expected: float | None) -> None:
    with (
        serve(lambda exchange: exchange.reply(503, retry_after=value)) as server,
        pytest.raises(ActionError) as caught,
    ):
        perform_action("http", url=server.url())
    assert caught.value.details["retry_after_seconds"] == expected


def test_a_failed_request_names_method_address_and_the_beginning_of_the_body() -> None:
    body = b"<h1>no\n\n  such order</h1>" + b"x" * 500
    with serve(lambda exchange: exchange.reply(404, body)) as server, pytest.raises(ActionError) as caught:
        perform_action("http", method="delete", url=server.url("/orders"), params={"key": "12345"})
    message = caught.value.message
    subject = f"DELETE {server.url('/orders')}?… answered 404 Not Found"
    assert message.startswith(f"{subject}: <h1>no such order</h1>xxx")
    assert "12345" not in message and len(message) < 300


def test_a_long_address_is_cut() -> None:
    with serve(lambda exchange: exchange.reply(500, b"")) as server, pytest.raises(ActionError) as caught:
        perform_action("http", url=server.url("/" + "a" * 500))
    assert caught.value.message.endswith("aaa… answered 500 Internal Server Error")
    assert len(caught.value.message) < 250
