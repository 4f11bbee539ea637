from __future__ import annotations

import pytest

from noetl.planner.lexers.shell import ShellLexer, read_as_code
from noetl.planner.lexers.sql import SqlLexer
from noetl.planner.lexers.url import UrlLexer

TEMPLATE = "@"
"""The character that stands for a template in the texts below."""


def sql_contexts(text: str) -> list[str | None]:
    lexer = SqlLexer()
    first, *rest = text.split(TEMPLATE)
    lexer.feed(first)
    contexts = []
    for text_part in rest:
        contexts.append(lexer.context)
        lexer.feed(text_part)
    return contexts


def shell_contexts(text: str) -> list[str | None]:
    lexer = ShellLexer()
    first, *rest = text.split(TEMPLATE)
    lexer.feed(first)
    contexts = []
    for text_part in rest:
        contexts.append(lexer.context)
        lexer.feed_value()
        lexer.feed(text_part)
    return contexts


@pytest.mark.parametrize(
    ("text", "contexts"),
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
def test_contexts_in_sql(text: str, contexts: list[str | None]) -> None:
    assert sql_contexts(text) == contexts


@pytest.mark.parametrize(
    ("text", "contexts"),
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
        ("echo ${A:-'@}'} @", ["quotes", None]),
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
def test_contexts_in_shell_commands(text: str, contexts: list[str | None]) -> None:
    assert shell_contexts(text) == contexts


@pytest.mark.parametrize(
    ("text_parts", "components"),
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
def test_components_of_urls(text_parts: list[str], components: list[str]) -> None:
    lexer = UrlLexer()
    found_components = []
    for text_part in text_parts:
        lexer.feed(text_part)
        found_components.append(lexer.component.value)
    assert found_components == components


def commands_that_read_code(text: str) -> list[str | None]:
    lexer = ShellLexer()
    first, *rest = text.split(TEMPLATE)
    lexer.feed(first)
    commands = []
    for text_part in rest:
        commands.append(read_as_code(lexer.words))
        lexer.feed_value()
        lexer.feed(text_part)
    return commands


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("eval @ a@", ["eval", "eval"]),
        ("eval a; echo @", [None]),
        ("'eval' @", ["eval"]),
        ("ev\\al x\\ y @", ["eval"]),
        ("echo eval\\ @", [None]),
        ("true && eval x=@ | cat @", ["eval", None]),
        ("# eval\n@", [None]),
        ("echo x # y\neval @", ["eval"]),
        ("sh -c @ @", ["sh -c", None]),
        ("sh -c 'echo \"$1\"' _ @", [None]),
        ("sudo -u x /bin/bash -o pipefail -euc echo@", ["bash -c"]),
        ("(sh -c @) || x -c @", ["sh -c", None]),
        ("sh script.sh -c\n@", [None]),
        ("su -c @ me", ["su -c"]),
        ("echo @", [None]),
        ("@ -c @", [None, None]),
    ],
)
def test_words_that_a_command_reads_as_code(text: str, commands: list[str | None]) -> None:
    assert commands_that_read_code(text) == commands
