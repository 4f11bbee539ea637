"""Data that looks like code stays data: in SQL, in shells, in addresses, in headers, in paths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import for_local_run

from tests.calls import LOCAL, perform
from tests.http_server import StubExchange, serve

HOSTILE = [
    "'; drop table t; --", "' or '1'='1", '" or ""="', "\\'; select 1; --", "$$; drop table t; $$", "/* */", "%s %(a)s %%", "{{ 1 }}",
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "| touch pwned", "&& touch pwned", "> pwned", "\n touch pwned\n", "$HOME",
    "${IFS}", "*", "~", "!!", "-rf", "--", "'\"'\"'", "a'b\"c\\d", "\\", "\t", "", " ", "é\U0001f600", "\u2028", "\r\n",
    "../../etc/passwd", "a/../b", "%2e%2e%2f", "?x=1#y", "@evil.test", "\x1b[0m", "\x01",
]  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
REAL = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestSql:
    @pytest.mark.parametrize("value", HOSTILE)
    def test_values_come_back_as_they_went_in(self, postgres_dsn: str, value: str) -> None:
        assert round_trip(postgres_dsn, value) == value

    @REAL
    @given(value=TEXTS)
    def test_any_value(self, postgres_dsn: str, value: str) -> None:
        assert round_trip(postgres_dsn, value) == value

    @REAL
    @given(name=TEXTS.filter(lambda name: 0 < len(name.encode()) < 60))
    def test_any_name_is_one_column(self, postgres_dsn: str, name: str) -> None:
        query = "select {{ 1 }}::int as {{ n | identifier }}"
        assert perform("postgres", connection=postgres_dsn, query=query, names={"n": name}, fetch="one") == {
            name: 1
        }

    def test_a_nul_is_an_error_and_not_the_end_of_the_text(self, postgres_dsn: str) -> None:
        with pytest.raises(ActionError) as caught:
            round_trip(postgres_dsn, "a\0b")
        assert (caught.value.type, caught.value.retryable) == ("SQLError", False)


def round_trip(dsn: str, value: str) -> Any:
    return perform(
        "postgres", connection=dsn, query="select {{ v }}::text", names={"v": value}, fetch="value"
    )


class TestShell:
    @pytest.mark.parametrize("value", HOSTILE)
    def test_a_value_arrives_as_one_argument(self, tmp_path: Path, value: str) -> None:
        capabilities = replace(LOCAL, folder=tmp_path)
        shell = perform(
            "shell", capabilities=capabilities, command="printf '<%s>' {{ v }} end", names={"v": value}
        )
        words = perform(
            "shell",
            capabilities=capabilities,
            command=["printf", "<%s>", "{{ v }}", "end"],
            names={"v": value},
        )
        assert shell["stdout"] == words["stdout"] == f"<{value}><end>"
        assert list(tmp_path.iterdir()) == []

    @settings(REAL, max_examples=40)
    @given(value=TEXTS)
    def test_any_value(self, value: str) -> None:
        done = perform("shell", command="printf %s {{ v }}x{{ v }}", names={"v": value})
        assert done["stdout"] == f"{value}x{value}"

    def test_variables_and_stdin_are_plain(self, tmp_path: Path) -> None:
        for value in HOSTILE:
            done = perform(
                "shell",
                capabilities=replace(LOCAL, folder=tmp_path),
                command='printf %s "$V"; cat',
                env={"V": "{{ v }}"},
                stdin="{{ v }}",
                names={"v": value},
            )
            assert done["stdout"] == value * 2
        assert list(tmp_path.iterdir()) == []


class TestAddresses:
    @pytest.mark.parametrize("value", HOSTILE)
    def test_a_value_is_one_segment_and_one_value_of_the_query(self, value: str) -> None:
        with serve(lambda exchange: exchange.reply(200, exchange.path.encode())) as server:
            url = server.url("/a/{{ v }}/b?q={{ w }}&r=1")
            if ".." in value.split("/"):
                with pytest.raises(ActionError, match="climb"):
                    perform("http", url=url, names={"v": value, "w": value})
                value = value.replace("..", "")
            target = perform("http", url=url, names={"v": value, "w": value})["body"]
        path, _, query = target.partition("?")
        assert [unquote(part) for part in path.split("/")] == ["", "a", value, "b"]
        assert [unquote(part) for part in query.split("&")] == [f"q={value}", "r=1"]

    def test_a_value_cannot_move_the_origin(self) -> None:
        with serve(lambda exchange: exchange.reply(200, exchange.path.encode())) as server:
            assert (
                perform("http", url=server.url("/{{ v }}"), names={"v": "@evil.test/"})["body"]
                == "/%40evil.test%2F"
            )


class TestHeaders:
    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\x7fb", "\x0b", "\ud800"])
    def test_a_value_cannot_end_the_line(self, value: str) -> None:
        parameters: list[dict[str, Any]] = [{"headers": {"X-A": "{{ v }}"}}, {"auth": {"bearer": "{{ v }}"}}]
        for given_ in parameters:
            with pytest.raises(ActionError, match="control character") as caught:
                perform("http", url="http://127.0.0.1:1/", names={"v": value}, **given_)
            assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\0"])
    def test_a_name_is_a_token(self, name: str) -> None:
        with pytest.raises(ActionError, match="not the name of a header"):
            perform("http", url="http://127.0.0.1:1/", headers={name: "x"})

    @pytest.mark.parametrize(
        "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Expect"]
    )
    def test_headers_that_frame_the_message_are_ours(self, name: str) -> None:
        with pytest.raises(ActionError, match="follows from the request"):
            perform("http", url="http://127.0.0.1:1/", headers={name: "x"})

    def test_what_a_server_sends_stays_data(self) -> None:
        def answer(exchange: StubExchange) -> None:
            exchange.wfile.write(b"HTTP/1.1 200 OK\r\nx-a: {{ 7 * 7 }}\r\ncontent-length: 0\r\n\r\n")

        with serve(answer) as server:
            reply = perform("http", url=server.url())
        assert perform("set", set={"a": "{{ r.headers['x-a'] }}"}, names={"r": reply}) == {"a": "{{ 7 * 7 }}"}


class TestPaths:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "sub").mkdir(parents=True)
        (tmp_path / "rootkit").mkdir()
        (tmp_path / "rootkit" / "secret").write_text("secret")
        (tmp_path / "secret").write_text("secret")
        (root / "out").symlink_to(tmp_path)
        (root / "link").symlink_to(tmp_path / "secret")
        (root / "dangling").symlink_to(tmp_path / "new")
        (root / "loop").symlink_to("loop")
        return root

    ESCAPES = (
        "../secret", "sub/../../secret", "/etc/passwd", "../rootkit/secret", "out/secret", "out/new", "link", "dangling",
        "loop", "a\0b", "", "..", "/", "sub/../../root/../secret", "/proc/self/environ", "~/x/../../secret/../../secret",
    )  # fmt: skip

    @pytest.mark.parametrize("path", ESCAPES)
    @pytest.mark.parametrize("verb", ["read", "write", "append"])
    def test_nothing_outside_is_reached(self, root: Path, verb: str, path: str) -> None:
        given: dict[str, Any] = {verb: path} if verb == "read" else {verb: path, "content": "x"}
        before = snapshot(root.parent)
        with pytest.raises(ActionError) as caught:
            perform("file", capabilities=for_local_run(root), **given)
        assert (caught.value.type, caught.value.retryable) == ("FileError", False)
        assert snapshot(root.parent) == before

    @pytest.mark.parametrize(
        "path", ["../secret", "out/secret", "/etc/passwd", "..", "", ".", "out/../secret"]
    )
    def test_nothing_outside_is_deleted(self, root: Path, path: str) -> None:
        before = snapshot(root.parent)
        with pytest.raises(ActionError) as caught:
            perform("file", capabilities=for_local_run(root), delete=path)
        assert caught.value.type == "FileError"
        assert snapshot(root.parent) == before

    def test_a_link_is_deleted_and_not_what_it_leads_to(self, root: Path) -> None:
        perform("file", capabilities=for_local_run(root), delete="link")
        assert not os.path.lexists(root / "link")
        assert (root.parent / "secret").read_text() == "secret"

    @pytest.mark.parametrize("pattern", ["../*", "/etc/*", "sub/../../*", "/", "", "[", "a\0b"])
    def test_nothing_outside_is_listed(self, root: Path, pattern: str) -> None:
        try:
            found = perform("file", capabilities=for_local_run(root), list=pattern)
        except ActionError as error:
            assert error.type == "FileError"
        else:
            assert found == []

    def test_links_that_lead_out_are_not_listed(self, root: Path) -> None:
        (root / "sub" / "a").touch()
        assert perform("file", capabilities=for_local_run(root), list="**/*") == ["sub/a"]
        assert perform("file", capabilities=for_local_run(root), list="out/*") == []


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }
