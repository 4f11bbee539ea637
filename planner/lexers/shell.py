"""A lexer for `/bin/sh`: the kind of text that a template would be written into."""

from __future__ import annotations

import re

_HEREDOC = re.compile(r"<<(?P<tabs>-?)[ \t]*(?P<word>(?:'[^'\n]*'|\"[^\"\n]*\"|\\.|[^\s'\"\\;&|<>()])+)")
_SHELL_PLACES = {
    "'": "quotes",
    '"': "quotes",
    "`": "backticks",
    "$(": "`$( )`",
    "(": "`$( )`",
    "${": "`${ }`",
    "#": "a comment",
    "<<": "a heredoc",
    "\\": "an escape",
}


class ShellLexer:
    """Reads text for `/bin/sh`; `context` names what the next piece would stand in, or is None in a plain word."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._is_escaped = False
        self._is_word_start = True
        self._heredocs: list[tuple[str, bool]] = []
        self._line = ""

    @property
    def context(self) -> str | None:
        if self._is_escaped:
            return _SHELL_PLACES["\\"]
        opened = [mark for mark in self._open if mark != "(" or "$(" in self._open]
        return _SHELL_PLACES[opened[-1]] if opened else None

    def feed_value(self) -> None:
        """Move past a template: a word, or a part of one, that closes and opens nothing."""
        self._is_escaped = False
        self._is_word_start = False
        if self._open[-1:] == ["<<"]:
            self._line += "\0"

    def feed(self, text: str) -> None:
        """Move past literal text."""
        at = 0
        while at < len(text):
            at = self._step(text, at)

    def _step(self, text: str, at: int) -> int:
        character = text[at]
        top = self._open[-1] if self._open else ""
        if top == "<<":
            return self._heredoc_character(character, at)
        if self._is_escaped:
            self._is_escaped = False
            self._is_word_start = False
            return at + 1
        if top == "'":
            if character == "'":
                self._open.pop()
            return at + 1
        if top == "#":
            if character != "\n":
                return at + 1
            self._open.pop()
        return self._code(text, at, self._open[-1] if self._open else "")

    def _code(self, text: str, at: int, top: str) -> int:
        character = text[at]
        was_word_start, self._is_word_start = self._is_word_start, character in " \t\n;&|()"
        two = text[at : at + 2]
        if character == "\\":
            self._is_escaped = True
        elif two in ("$(", "${"):
            self._open.append(two)
            self._is_word_start = two == "$("
            return at + 2
        elif character == "`":
            self._toggle("`")
        elif character == '"':
            self._toggle('"')
        elif top == "${":
            if character == "}":
                self._open.pop()
            elif character == "'":
                self._open.append("'")
        elif top != '"':
            return self._plain(text, at, top, was_word_start)
        return at + 1

    def _plain(self, text: str, at: int, top: str, is_word_start: bool) -> int:
        """A character outside double quotes and `${ }`, where comments, heredocs and parentheses mean something."""
        character = text[at]
        if character == "'":
            self._open.append("'")
        elif character == "#" and is_word_start:
            self._open.append("#")
        elif character == "(":
            self._open.append("(")
        elif character == ")" and top in ("(", "$("):
            self._open.pop()
        elif text.startswith("<<<", at):
            return at + 3
        elif found := _HEREDOC.match(text, at):
            self._heredocs.append((re.sub(r"['\"\\]", "", found["word"]), bool(found["tabs"])))
            return found.end()
        elif character == "\n" and self._heredocs:
            self._open.append("<<")
            self._line = ""
        return at + 1

    def _toggle(self, mark: str) -> None:
        if self._open[-1:] == [mark]:
            self._open.pop()
        else:
            self._open.append(mark)

    def _heredoc_character(self, character: str, at: int) -> int:
        if character != "\n":
            self._line += character
            return at + 1
        word, strips_tabs = self._heredocs[0]
        if (self._line.lstrip("\t") if strips_tabs else self._line) == word:
            self._heredocs.pop(0)
        self._line = ""
        if not self._heredocs:
            self._open.pop()
            self._is_word_start = True
        return at + 1
