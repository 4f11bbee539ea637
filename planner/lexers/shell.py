"""The lexical context of a template inside a shell command. Standard library only.

Problem: a value in a shell command is quoted as one word. Inside other quotes, substitutions, comments or
heredocs this quoting breaks and data becomes code, so NP509 must know the context of each template.

Algorithm: a pushdown lexer for the quoting rules of the POSIX shell (IEEE Std 1003.1-2017, "Shell Command
Language", sections 2.2 to 2.7). A stack holds the open constructs, because `$( )`, `${ }` and quotes nest.
Heredocs wait in a queue until the end of their line. The caller feeds literal text, and `feed_value` for each
template between. The lexer also collects the words of the current command. `eval` and `sh -c` read a value a
second time, and no quoting protects it there (NP512).

Cost: O(length of the text), one step per character.

Limits: it does not parse commands. Every word `eval` counts as the command of that name. Each `)` closes the
last `(` or `$(`, so a pattern of `case` inside `$( )` ends the substitution too early.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEREDOC = re.compile(r"<<(?P<tabs>-?)[ \t]*(?P<word>(?:'[^'\n]*'|\"[^\"\n]*\"|\\.|[^\s'\"\\;&|<>()])+)")
_CONTEXTS = {
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
"""The words for each open construct, by the delimiter that opens it."""


SHELLS = frozenset({"ash", "bash", "dash", "ksh", "mksh", "sh", "su", "zsh"})
"""The programs whose option `-c` takes a script."""

_SCRIPT_OPTION = re.compile(r"-[A-Za-z]*c[A-Za-z]*")


def read_as_code(words: Sequence[str]) -> str | None:
    """Return the command that reads the word after these words as code, or None.

    >>> read_as_code(["sudo", "/bin/bash", "-ec"]), read_as_code(["sh", "-c", "echo $1", "name"])
    ('bash -c', None)
    """
    if "eval" in words:
        return "eval"
    if words and _SCRIPT_OPTION.fullmatch(words[-1]):
        programs = (word.rpartition("/")[2] for word in words[:-1])
        return next((f"{program} -c" for program in programs if program in SHELLS), None)
    return None


class ShellLexer:
    """The state of the lexer after the text that was fed.

    >>> lexer = ShellLexer()
    >>> lexer.feed('echo "$(cat ')
    >>> lexer.context
    '`$( )`'
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        self._is_escaped = False
        self._is_word_start = True
        self._heredocs: list[tuple[str, bool]] = []
        self._line = ""
        self._words: list[str] = []
        self._word: str | None = None

    @property
    def words(self) -> Sequence[str]:
        """The complete words of the simple command so far, without their quotes."""
        return self._words

    @property
    def context(self) -> str | None:
        """The construct that contains the next character, or None in a plain word."""
        if self._is_escaped:
            return _CONTEXTS["\\"]
        open_constructs = [delimiter for delimiter in self._open if delimiter != "(" or "$(" in self._open]
        return _CONTEXTS[open_constructs[-1]] if open_constructs else None

    def feed_value(self) -> None:
        """Move past a template: a word, or a part of one, that opens and closes nothing."""
        self._is_escaped = False
        self._is_word_start = False
        self._word = (self._word or "") + "\0"
        if self._open[-1:] == ["<<"]:
            self._line += "\0"

    def feed(self, text: str) -> None:
        """Move past literal text."""
        offset = 0
        while offset < len(text):
            start, depth, was_escaped = offset, self._depth(), self._is_escaped
            offset = self._step(text, offset)
            self._collect_word(text[start:offset], depth, was_escaped)

    def _depth(self) -> int:
        """Return the number of open constructs. A subshell contains commands, so it does not count."""
        return sum(delimiter != "(" for delimiter in self._open)

    def _collect_word(self, characters: str, depth: int, was_escaped: bool) -> None:
        """Add characters to the current word. `depth` is the number of constructs that were open before."""
        is_plain = depth == 0 and not was_escaped
        if (is_plain and characters in ";&|()") or (
            characters == "\n" and not self._depth() and not was_escaped
        ):
            self._words, self._word = [], None
        elif is_plain and characters in " \t":
            if self._word is not None:
                self._words.append(self._word)
            self._word = None
        elif self._is_escaped or self._depth() != depth:
            self._word = self._word or ""  # a quote or a backslash belongs to a word, but not to its text
        else:
            self._word = (self._word or "") + characters

    def _step(self, text: str, offset: int) -> int:
        """Read one character or delimiter; return the offset after it."""
        character = text[offset]
        top = self._open[-1] if self._open else ""
        if top == "<<":
            return self._step_in_heredoc(character, offset)
        if self._is_escaped:
            self._is_escaped = False
            self._is_word_start = False
            return offset + 1
        if top == "'":
            if character == "'":
                self._open.pop()
            return offset + 1
        if top == "#":
            if character != "\n":
                return offset + 1
            self._open.pop()
        return self._step_in_code(text, offset, self._open[-1] if self._open else "")

    def _step_in_code(self, text: str, offset: int, top: str) -> int:
        character = text[offset]
        was_word_start, self._is_word_start = self._is_word_start, character in " \t\n;&|()"
        two_characters = text[offset : offset + 2]
        if character == "\\":
            self._is_escaped = True
        elif two_characters in ("$(", "${"):
            self._open.append(two_characters)
            self._is_word_start = two_characters == "$("
            return offset + 2
        elif character in ("`", '"'):
            self._toggle(character)
        elif top == "${":
            if character == "}":
                self._open.pop()
            elif character == "'":
                self._open.append("'")
        elif top != '"':
            return self._step_outside_quotes(text, offset, top, was_word_start)
        return offset + 1

    def _step_outside_quotes(self, text: str, offset: int, top: str, is_word_start: bool) -> int:
        """Read one character where comments, heredocs and parentheses have a meaning."""
        character = text[offset]
        if character == "'":
            self._open.append("'")
        elif character == "#" and is_word_start:
            self._open.append("#")
        elif character == "(":
            self._open.append("(")
        elif character == ")" and top in ("(", "$("):
            self._open.pop()
        elif text.startswith("<<<", offset):
            return offset + 3
        elif heredoc := _HEREDOC.match(text, offset):
            self._heredocs.append((re.sub(r"['\"\\]", "", heredoc["word"]), bool(heredoc["tabs"])))
            return heredoc.end()
        elif character == "\n" and self._heredocs:
            self._open.append("<<")
            self._line = ""
        return offset + 1

    def _toggle(self, delimiter: str) -> None:
        if self._open[-1:] == [delimiter]:
            self._open.pop()
        else:
            self._open.append(delimiter)

    def _step_in_heredoc(self, character: str, offset: int) -> int:
        if character != "\n":
            self._line += character
            return offset + 1
        end_word, strips_tabs = self._heredocs[0]
        if (self._line.lstrip("\t") if strips_tabs else self._line) == end_word:
            self._heredocs.pop(0)
        self._line = ""
        if not self._heredocs:
            self._open.pop()
            self._is_word_start = True
        return offset + 1
