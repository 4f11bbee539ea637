"""Where in SQL and shell text a template stands: the small lexers behind the checks of sinks, as `urls` has one for addresses.

Each lexer reads literal text piece by piece and says, between two pieces, where it is. Standard library only.
"""

from __future__ import annotations

import re

_SQL_TOKEN = re.compile(
    r"""(?P<escape>(?<![\w$])[eE]')|(?P<quote>')|(?P<name>")|(?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$)"""
    r"""|(?P<line>--)|(?P<block>/\*)"""
)
_SQL_ENDS = {
    "escape": re.compile(r"(?:[^'\\]|''|\\.)*'(?!')", re.DOTALL),
    "quote": re.compile(r"(?:[^']|'')*'(?!')", re.DOTALL),
    "name": re.compile(r'(?:[^"]|"")*"(?!")', re.DOTALL),
    "line": re.compile(r"[^\n]*\n"),
}
_SQL_COMMENT = re.compile(r"/\*|\*/")
_SQL_PLACES = {
    "escape": "quotes",
    "quote": "quotes",
    "name": "a quoted name",
    "dollar": "dollar quotes",
    "line": "a comment",
    "block": "a comment",
}


class SqlLexer:
    """Reads SQL as Postgres does; `context` names what the next piece would stand in, or is None in plain SQL."""

    def __init__(self) -> None:
        self._state: str | None = None
        self._tag = ""
        self._depth = 0

    @property
    def context(self) -> str | None:
        return None if self._state is None else _SQL_PLACES[self._state]

    def feed(self, text: str) -> None:
        """Move past literal text."""
        at = 0
        while at < len(text):
            if self._state is None:
                token = _SQL_TOKEN.search(text, at)
                if token is None:
                    return
                self._state, self._tag, self._depth = str(token.lastgroup), token[0], 1
                at = token.end()
            else:
                end = self._end(text, at)
                if end is None:
                    return
                self._state, at = None, end

    def _end(self, text: str, at: int) -> int | None:
        """Where what was opened ends, or None when it does not in this text."""
        if self._state == "dollar":
            found = text.find(self._tag, at)
            return None if found < 0 else found + len(self._tag)
        if self._state == "block":
            return self._comment_end(text, at)
        ended = _SQL_ENDS[self._state or ""].match(text, at)
        return None if ended is None else ended.end()

    def _comment_end(self, text: str, at: int) -> int | None:
        for mark in _SQL_COMMENT.finditer(text, at):
            self._depth += 1 if mark[0] == "/*" else -1
            if self._depth == 0:
                return mark.end()
        return None
