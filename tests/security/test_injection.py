"""Data that looks like code stays data in SQL, shell commands, URLs, headers and paths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import local_run_capabilities
from tests.action_calls import LOCAL, perform_action
from tests.http_server import StubExchange, serve
from tests.property_settings import examples

HOSTILE_TEXTS = [
    "'; drop table t; --",
    "' or '1'='1",
    '" or ""="',
    "\\'; select 1; --",
    "$$; drop table t; $$",
    "/* */",
    "%s %(a)s %%",
    "{{ 1 }}",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "| touch pwned",
    "&& touch pwned",
    "> pwned",
    "\n touch pwned\n",
    "$HOME",
    "${IFS}",
    "*",
    "~",
    "!!",
    "-rf",
    "--",
    "'\"'\"'",
    "a'b\"c\\d",
    "\\",
    "\t",
    "",
    " ",
    "é\U0001f600",
    "\u2028",
    "\r\n",
    "../../etc/passwd",
    "a/../b",
    "%2e%2e%2f",
    "?x=1#y",
    "@evil.test",
    "\x1b[0m",
    "\x01",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50)
REAL_SERVICES = examples(1, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestSqlInjection:
    @pytest.mark.parametrize("value", HOSTILE_TEXTS)
    def test_a_value_is_returned_unchanged(self, postgres_dsn: str, value: str) -> None:
        assert select_value(postgres_dsn, value) == value

    @REAL_SERVICES
    @given(value=TEXTS)
    def test_any_value(self, postgres_dsn: str, value: str) -> None:
        assert select_value(postgres_dsn, value) == value

    @REAL_SERVICES
    @given(name=TEXTS.filter(lambda name: 0 < len(name.encode()) < 60))
    def test_any_name_is_a_single_column(self, postgres_dsn: str, name: str) -> None:
        query = "select {{ 1 }}::int as {{ n | identifier }}"
        assert perform_action(
            "postgres", connection=postgres_dsn, query=query, names={"n": name}, fetch="one"
        ) == {name: 1}

    def test_a_nul_character_is_an_error(self, postgres_dsn: str) -> None:
        with pytest.raises(ActionError) as caught:
            select_value(postgres_dsn, "a\0b")
        assert (caught.value.type, caught.value.retryable) == ("SQLError", False)


def select_value(dsn: str, value: str) -> Any:
    return perform_action(
        "postgres", connection=dsn, query="select {{ v }}::text", names={"v": value}, fetch="value"
    )


class TestShellInjection:
    @pytest.mark.parametrize("value", HOSTILE_TEXTS)
    def test_a_value_is_one_argument(self, tmp_path: Path, value: str) -> None:
        capabilities = replace(LOCAL, folder=tmp_path)
        shell = perform_action(
            "shell", capabilities=capabilities, command="printf '<%s>' {{ v }} end", names={"v": value}
        )
        words = perform_action(
            "shell",
            capabilities=capabilities,
            command=["printf", "<%s>", "{{ v }}", "end"],
            names={"v": value},
        )
        assert shell["stdout"] == words["stdout"] == f"<{value}><end>"
        assert list(tmp_path.iterdir()) == []

    @examples(0.5, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(value=TEXTS)
    def test_any_value(self, value: str) -> None:
        result = perform_action("shell", command="printf %s {{ v }}x{{ v }}", names={"v": value})
        assert result["stdout"] == f"{value}x{value}"

    def test_variables_and_stdin_are_not_interpreted(self, tmp_path: Path) -> None:
        for value in HOSTILE_TEXTS:
            result = perform_action(
                "shell",
                capabilities=replace(LOCAL, folder=tmp_path),
                command='printf %s "$V"; cat',
                env={"V": "{{ v }}"},
                stdin="{{ v }}",
                names={"v": value},
            )
            assert result["stdout"] == value * 2
        assert list(tmp_path.iterdir()) == []


class TestUrlInjection:
    @pytest.mark.parametrize("value", HOSTILE_TEXTS)
    def test_a_value_is_one_path_segment_and_one_query_value(self, value: str) -> None:
        with serve(lambda exchange: exchange.reply(200, exchange.path.encode())) as server:
            url = server.url("/a/{{ v }}/b?q={{ w }}&r=1")
            if ".." in value.split("/"):
                with pytest.raises(ActionError, match="must not be in the path"):
                    perform_action("http", url=url, names={"v": value, "w": value})
                value = value.replace("..", "")
            target = perform_action("http", url=url, names={"v": value, "w": value})["body"]
        path, _, query = target.partition("?")
        assert [unquote(part) for part in path.split("/")] == ["", "a", value, "b"]
        assert [unquote(part) for part in query.split("&")] == [f"q={value}", "r=1"]

    def test_a_value_cannot_change_the_origin(self) -> None:
        with serve(lambda exchange: exchange.reply(200, exchange.path.encode())) as server:
            assert (
                perform_action("http", url=server.url("/{{ v }}"), names={"v": "@evil.test/"})["body"]
                == "/%40evil.test%2F"
            )


class TestHeaderInjection:
    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\x7fb", "\x0b", "\ud800"])
    def test_a_value_cannot_end_the_header_line(self, value: str) -> None:
        parameters: list[dict[str, Any]] = [{"headers": {"X-A": "{{ v }}"}}, {"auth": {"bearer": "{{ v }}"}}]
        for header in parameters:
            with pytest.raises(ActionError, match="control character") as caught:
                perform_action("http", url="http://127.0.0.1:1/", names={"v": value}, **header)
            assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é", "a\0"])
    def test_a_header_name_must_be_a_token(self, name: str) -> None:
        with pytest.raises(ActionError, match="not a valid name"):
            perform_action("http", url="http://127.0.0.1:1/", headers={name: "x"})

    @pytest.mark.parametrize(
        "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Expect"]
    )
    def test_framing_headers_cannot_be_set(self, name: str) -> None:
        with pytest.raises(ActionError, match="computed from the request"):
            perform_action("http", url="http://127.0.0.1:1/", headers={name: "x"})

    def test_a_response_is_not_evaluated_as_a_template(self) -> None:
        def answer(exchange: StubExchange) -> None:
            exchange.wfile.write(b"HTTP/1.1 200 OK\r\nx-a: {{ 7 * 7 }}\r\ncontent-length: 0\r\n\r\n")

        with serve(answer) as server:
            reply = perform_action("http", url=server.url())
        assert perform_action("set", set={"a": "{{ r.headers['x-a'] }}"}, names={"r": reply}) == {
            "a": "{{ 7 * 7 }}"
        }


class TestPathTraversal:
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
        "../secret",
        "sub/../../secret",
        "/etc/passwd",
        "../rootkit/secret",
        "out/secret",
        "out/new",
        "link",
        "dangling",
        "loop",
        "a\0b",
        "",
        "..",
        "/",
        "sub/../../root/../secret",
        "/proc/self/environ",
        "~/x/../../secret/../../secret",
    )

    @pytest.mark.parametrize("path", ESCAPES)
    @pytest.mark.parametrize("verb", ["read", "write", "append"])
    def test_files_outside_of_the_folder_are_not_accessible(self, root: Path, verb: str, path: str) -> None:
        parameters: dict[str, Any] = {verb: path} if verb == "read" else {verb: path, "content": "x"}
        before = snapshot(root.parent)
        with pytest.raises(ActionError) as caught:
            perform_action("file", capabilities=local_run_capabilities(root), **parameters)
        assert (caught.value.type, caught.value.retryable) == ("FileError", False)
        assert snapshot(root.parent) == before

    @pytest.mark.parametrize(
        "path", ["../secret", "out/secret", "/etc/passwd", "..", "", ".", "out/../secret"]
    )
    def test_files_outside_of_the_folder_are_not_deleted(self, root: Path, path: str) -> None:
        before = snapshot(root.parent)
        with pytest.raises(ActionError) as caught:
            perform_action("file", capabilities=local_run_capabilities(root), delete=path)
        assert caught.value.type == "FileError"
        assert snapshot(root.parent) == before

    def test_deleting_a_link_keeps_its_target(self, root: Path) -> None:
        perform_action("file", capabilities=local_run_capabilities(root), delete="link")
        assert not os.path.lexists(root / "link")
        assert (root.parent / "secret").read_text() == "secret"

    @pytest.mark.parametrize("pattern", ["../*", "/etc/*", "sub/../../*", "/", "", "[", "a\0b"])
    def test_files_outside_of_the_folder_are_not_listed(self, root: Path, pattern: str) -> None:
        try:
            files = perform_action("file", capabilities=local_run_capabilities(root), list=pattern)
        except ActionError as error:
            assert error.type == "FileError"
        else:
            assert files == []

    def test_links_to_other_folders_are_not_listed(self, root: Path) -> None:
        (root / "sub" / "a").touch()
        assert perform_action("file", capabilities=local_run_capabilities(root), list="**/*") == ["sub/a"]
        assert perform_action("file", capabilities=local_run_capabilities(root), list="out/*") == []


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }
