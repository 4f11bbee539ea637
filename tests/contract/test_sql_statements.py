"""Named SQL statements: each is used, each use names one with its parameters, and each is valid SQL."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

import noetl.executor.stores
from noetl.executor.stores.postgres import database as postgres
from noetl.executor.stores.postgres.slots import COMMITS, MOVES
from noetl.executor.stores.sql.statements import (
    Statement,
    Statements,
    find_parameters,
    parse_file,
    to_numbered,
    to_psycopg,
)
from noetl.executor.stores.sqlite import file as sqlite

FOLDER = Path(noetl.executor.stores.__file__).parent
DIALECTS: Mapping[str, Statements[Any]] = {"SQLite": sqlite.STATEMENTS, "Postgres": postgres.STATEMENTS}
SENDERS = {
    "execute",
    "executemany",
    "fetch_all",
    "fetch_one",
    "execute_returning",
    "execute_returning_locked",
}
"""Methods that take a query."""

MAX_CACHED_BYTES = 4096
MAX_CACHED_PARAMETERS = 50
"""How long a statement may be that psycopg parses only once, and how many parameters it may have."""

ON_A_TABLE = re.compile(r"\b(?:from|into|update|join)\s+(?:runs|visits|joins|plans|waits|keys|playbooks)\b")


def source_trees() -> Iterator[ast.Module]:
    for part in ("sql", "sqlite", "postgres"):
        for path in sorted((FOLDER / part).glob("*.py")):
            yield ast.parse(path.read_text("utf-8"), filename=str(path))


def text_constants() -> Iterator[str]:
    for tree in source_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def statement_calls() -> Iterator[tuple[str, set[str], bool]]:
    """Yield the name of a statement, the keywords of its call, and whether the call passes more values."""
    for tree in source_trees():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=method), args=[ast.Constant(value=str(name))], keywords=keywords
                ) if method in SENDERS and "." in name:
                    given = {keyword.arg for keyword in keywords if keyword.arg is not None}
                    yield name, given, len(given) < len(keywords)


def all_names() -> frozenset[str]:
    return frozenset().union(*(statements.names() for statements in DIALECTS.values()))


def find_statement(name: str) -> Statement:
    return next(statements.find(name) for statements in DIALECTS.values() if name in statements.names())


def test_each_statement_is_used() -> None:
    assert len(all_names()) > 100
    assert all_names() - set(text_constants()) == set()


def test_each_fragment_is_used() -> None:
    paths = [path for part in ("sql", "sqlite", "postgres") for path in (FOLDER / part / "queries").glob("*")]
    texts = [text for path in paths for text in parse_file(path.read_text("utf-8")).values()]
    used = {
        name
        for text in (*texts, *COMMITS.values(), *MOVES.values())
        for name in re.findall(r"\{(\w+)\}", text)
    }
    fragments = {
        name for path in paths if path.stem == "fragments" for name in parse_file(path.read_text("utf-8"))
    }
    assert used == fragments


def test_each_use_names_a_statement_and_its_parameters() -> None:
    calls = list(statement_calls())
    assert len(calls) > 80
    for name, given, has_more in calls:
        assert name in all_names(), name
        statement = find_statement(name)
        assert given <= statement.parameters, (name, given - statement.parameters)
        if not has_more:
            missing = statement.parameters - given - statement.optional
            assert missing == set(), (name, missing)


def test_no_statement_on_a_table_is_in_the_code() -> None:
    assert ON_A_TABLE.search("select 1 from runs")
    assert [text for text in text_constants() if ON_A_TABLE.search(text)] == []


def test_each_statement_is_valid_in_sqlite(tmp_path: Path) -> None:
    with closing(sqlite.SqliteFile(str(tmp_path / "noetl.db"))) as file:
        for name in sorted(sqlite.STATEMENTS.names()):
            for text, parameters in variants(sqlite.STATEMENTS.find(name)):
                numbered, values_of = to_numbered(text)
                file.connection().execute(f"explain {numbered}", values_of(dict.fromkeys(parameters)))


def test_each_statement_is_valid_in_postgres(postgres_store_dsn: str) -> None:
    with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
        for name in postgres_queries():
            for text, parameters in variants(postgres.STATEMENTS.find(name)):
                numbered = to_psycopg(text).decode().replace("%%", "%")
                for number, parameter in enumerate(sorted(parameters), 1):
                    numbered = numbered.replace(f"%({parameter})s", f"${number}")
                connection.execute(f"prepare checked as {numbered}".encode())
                connection.execute("deallocate checked")


def test_the_driver_parses_each_statement_of_postgres_once() -> None:
    for name in postgres_queries():
        statement = postgres.STATEMENTS.find(name)
        text = statement.text_without(statement.optional)
        assert len(to_psycopg(text)) <= MAX_CACHED_BYTES, name
        assert len(find_parameters(text)) <= MAX_CACHED_PARAMETERS, name


def postgres_queries() -> list[str]:
    """Return the names of all statements of Postgres, and the texts of those that are composed."""
    return [*sorted(postgres.STATEMENTS.names()), *COMMITS.values(), *MOVES.values()]


def variants(statement: Statement) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the text and the parameters of a statement with all optional lines, and without."""
    for missing in {frozenset[str](), statement.optional}:
        text = statement.text_without(missing)
        yield text, find_parameters(text)


def test_statements_are_installed() -> None:
    """A wheel holds the files, since the patterns of `pyproject.toml` name their folders."""
    patterns = (FOLDER.parents[1] / "pyproject.toml").read_text("utf-8")
    assert '"queries/*.sql"' in patterns
    assert files("noetl.executor.stores.sql").joinpath("queries/queue.sql").is_file()


class TestStatements:
    @pytest.fixture
    def statements(self, tmp_path: Path) -> Statements[str]:
        (tmp_path / "fragments.sql").write_text("-- name: mine\nowner = :owner\n")
        (tmp_path / "things.sql").write_text(
            "-- Things.\n-- name: find\nselect * from things where {mine}\nand size > :size -- optional\n"
        )
        return Statements(tmp_path, str)

    def test_an_optional_line_needs_its_value(self, statements: Statements[str]) -> None:
        short = "select * from things where owner = :owner"
        assert statements.text("things.find", {"owner": 1}) == short
        assert statements.text("things.find", {"owner": 1, "size": 2}) == f"{short}\nand size > :size"

    @pytest.mark.parametrize("values", [{}, {"size": 1}, {"owner": 1, "colour": 2}])
    def test_other_values_than_parameters_are_refused(
        self, statements: Statements[str], values: dict[str, int]
    ) -> None:
        with pytest.raises(ValueError, match=r"'things\.find' has other parameters than values"):
            statements.text("things.find", values)

    def test_an_unknown_name_is_refused(self, statements: Statements[str]) -> None:
        with pytest.raises(KeyError):
            statements.text("things.lose", {})

    def test_text_is_a_statement_of_its_own(self, statements: Statements[str]) -> None:
        assert statements.text("select :n", {"n": 1}) == "select :n"
        assert statements.text("select {mine}", {"owner": 1}) == "select owner = :owner"
