"""The lexical context of a template inside SQL text. Standard library only.

Problem: a template in SQL becomes a bind parameter. Inside quotes or a comment the database would read the
placeholder as text, so NP505 must know the context of each template.

Algorithm: a finite-state lexer for the quoting rules of PostgreSQL (Source: PostgreSQL documentation, section
4.1). It knows standard and escape strings, quoted identifiers, dollar quotes, line comments and nested block
comments. The caller feeds the literal text between two templates, and reads `context` for the template that
follows.

Cost: O(length of the text); regular expressions skip to the next delimiter.

Limits: a delimiter that a template splits, such as `-{{ x }}-`, is not recognised. It is not one in SQL
either.
"""

from __future__ import annotations

import re

_DELIMITER = re.compile(
    r"""(?P<escape>(?<![\w$])[eE]')|(?P<quote>')|(?P<name>")|(?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$)"""
    r"""|(?P<line>--)|(?P<block>/\*)"""
)
_ENDS = {
    "escape": re.compile(r"(?:[^'\\]|''|\\.)*'(?!')", re.DOTALL),
    "quote": re.compile(r"(?:[^']|'')*'(?!')", re.DOTALL),
    "name": re.compile(r'(?:[^"]|"")*"(?!")', re.DOTALL),
    "line": re.compile(r"[^\n]*\n"),
}
_COMMENT_DELIMITER = re.compile(r"/\*|\*/")
_CONTEXTS = {
    "escape": "quotes",
    "quote": "quotes",
    "name": "a quoted name",
    "dollar": "dollar quotes",
    "line": "a comment",
    "block": "a comment",
}


class SqlLexer:
    """The state of the lexer after the text that was fed.

    >>> lexer = SqlLexer()
    >>> lexer.feed("select 'it''s ")
    >>> lexer.context
    'quotes'
    """

    def __init__(self) -> None:
        self._state: str | None = None
        self._delimiter = ""
        self._comment_depth = 0

    @property
    def context(self) -> str | None:
        """The construct that contains the next character, or None outside of quotes and comments."""
        return None if self._state is None else _CONTEXTS[self._state]

    def feed(self, text: str) -> None:
        """Move past literal text."""
        offset = 0
        while offset < len(text):
            if self._state is None:
                token = _DELIMITER.search(text, offset)
                if token is None:
                    return
                self._state, self._delimiter, self._comment_depth = str(token.lastgroup), token[0], 1
                offset = token.end()
            else:
                end = self._find_end(text, offset)
                if end is None:
                    return
                self._state, offset = None, end

    def _find_end(self, text: str, offset: int) -> int | None:
        """Return the offset after the end of the open construct, or None if the text has no end of it."""
        if self._state == "dollar":
            start = text.find(self._delimiter, offset)
            return None if start < 0 else start + len(self._delimiter)
        if self._state == "block":
            return self._find_comment_end(text, offset)
        end = _ENDS[self._state or ""].match(text, offset)
        return None if end is None else end.end()

    def _find_comment_end(self, text: str, offset: int) -> int | None:
        for delimiter in _COMMENT_DELIMITER.finditer(text, offset):
            self._comment_depth += 1 if delimiter[0] == "/*" else -1
            if self._comment_depth == 0:
                return delimiter.end()
        return None
