from __future__ import annotations

import pytest
from noetl.planner.lexers.shell import ShellLexer
from noetl.planner.lexers.sql import SqlLexer
from noetl.planner.lexers.url import UrlLexer

HERE = "@"
"""Marks the place of a template in the texts below."""


def sql_places(text: str) -> list[str | None]:
    lexer = SqlLexer()
    first, *rest = text.split(HERE)
    lexer.feed(first)
    places = []
    for piece in rest:
        places.append(lexer.context)
        lexer.feed(piece)
    return places


def shell_places(text: str) -> list[str | None]:
    lexer = ShellLexer()
    first, *rest = text.split(HERE)
    lexer.feed(first)
    places = []
    for piece in rest:
        places.append(lexer.context)
        lexer.feed_value()
        lexer.feed(piece)
    return places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("select @, @", [None, None]),
        ("select '@' , @", ["quotes", None]),
        ("select 'it''s @', @", ["quotes", None]),
        ("select 'a' || @ || 'b'", [None]),
        ("select '@ and @'", ["quotes", "quotes"]),
        ('select "@", @', ["a quoted name", None]),
        ('select "a""@" , @', ["a quoted name", None]),
        ("select E'\\'@', @", ["quotes", None]),
        ("select e'\\\\', @", [None]),
        ("select '\\', @", [None]),
        ("select table'\\', @", [None]),
        ("select $$ @ $$, @", ["dollar quotes", None]),
        ("select $a$ $$ @ $b$ @ $a$, @", ["dollar quotes", "dollar quotes", None]),
        ("select a$b$ @ $b$", [None]),
        ("select $1, @", [None]),
        ("select 1 -- it's @\n, @", ["a comment", None]),
        ("select 1 /* ' /* @ */ @ */ , @", ["a comment", "a comment", None]),
        ("select 1 - -@ / *@", [None, None]),
        ("select '-- ' || @ || '/*' || @", [None, None]),
        ("@ @", [None, None]),
    ],
)
def test_sql(text: str, places: list[str | None]) -> None:
    assert sql_places(text) == places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("echo @ --x=@ a@b", [None, None, None]),
        ("echo '@' @", ["quotes", None]),
        ('echo "@" @', ["quotes", None]),
        ('echo "it\'s @" @', ["quotes", None]),
        ("echo 'say \"' @ '\"'", [None]),
        ('echo "\\"@" @', ["quotes", None]),
        ("echo \\'@ \\\\@ \\@ @", [None, None, "an escape", None]),
        ("echo $(cat @) @", ["`$( )`", None]),
        ('echo "$(cat "@" @)@" @', ["quotes", "`$( )`", "quotes", None]),
        ("echo $((1 + @)) @", ["`$( )`", None]),
        ("echo `cat @` @", ["backticks", None]),
        ("echo ${A:-@} ${B} ${#C} @", ["`${ }`", None]),
        ("(cd @; ls) @", [None, None]),
        ("echo $(a (b) @) @", ["`$( )`", None]),
        ("echo a # it's @\necho @", ["a comment", None]),
        ("echo a#b @ $# @", [None, None]),
        ("#@\n@", ["a comment", None]),
        ("cat <<EOF @\n@ '\nEOF\necho @", [None, "a heredoc", None]),
        ("cat <<-'E F'\n@\n\tE F\necho @", ["a heredoc", None]),
        ("cat <<A <<B\n@\nA\n@\nB\n@", ["a heredoc", "a heredoc", None]),
        ("cat <<EOF\nEOF@\nEOF\n@", ["a heredoc", None]),
        ("cat <<< @ && echo @", [None, None]),
        ("echo $'@' @", ["quotes", None]),
        ("a=@ b='x'@ c", [None, None]),
        ("echo @#@ @", [None, None, None]),
    ],
)
def test_shell(text: str, places: list[str | None]) -> None:
    assert shell_places(text) == places


@pytest.mark.parametrize(
    ("pieces", "places"),
    [
        (["", "/a"], ["origin", "path"]),
        (["https://", ""], ["origin", "origin"]),
        (["https://x.test", ":80/"], ["origin", "path"]),
        (["https://x.test/", "?a=", "#"], ["path", "query", "fragment"]),
        (["https://x.test?a=/"], ["query"]),
        (["https://x.test/?a#b?"], ["fragment"]),
        (["https://x.test/#?"], ["fragment"]),
        (["", "://", "/a?next=http://"], ["origin", "origin", "query"]),
        (["/a?b=http://"], ["query"]),
    ],
)
def test_url(pieces: list[str], places: list[str]) -> None:
    lexer = UrlLexer()
    found = []
    for piece in pieces:
        lexer.feed(piece)
        found.append(lexer.component.value)
    assert found == places
