r"""Regular expressions of templates, run by RE2.

Problem: patterns and texts come from untrusted authors. A backtracking engine takes exponential time for
some patterns, and memory without a limit.

Algorithm: finite automata (Thompson 1968; Cox, "Regular Expression Matching Can Be Simple And Fast", 2007) in
RE2. It has no lookaround and no backreferences. A pattern of Python is translated first: `\d`, `\w` and
`\s` mean Unicode, `\Z` is the end of the text, and `{,n}` begins at 0. For a text of ASCII the short
classes of ASCII mean the same, so each pattern has two forms.

Cost: linear in the text. RE2 builds states of its automaton while it reads. A pattern with many positions
can have too many of them. Then RE2 takes one step for each position and each byte, and copies the groups of
each. So the product of both is limited by MAX_STEPS, unless the positions are too few for this.

Limits: MAX_PATTERN characters, MAX_MEMORY bytes for each compiled form, MAX_PROGRAM instructions. A
pattern can read the rest of the text again for each match. So a replacement is stopped when its time exceeds
what so many bytes and matches need.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from noetl.planner.frozen import frozen
from noetl.planner.templates.budget import MAX_TEXT, LimitExceeded, charge, charge_text
from noetl.planner.templates.functions import describe

MAX_PATTERN = 1_000
"""How many characters a pattern may have."""
MAX_PROGRAM = 60_000
"""How many instructions of RE2 a pattern may need. One `\\w` needs about 1,450 for a text beyond ASCII."""
MAX_MEMORY = 2 * 1024 * 1024
"""How many bytes RE2 may use for one form of a pattern."""
MAX_STEPS = 8_000_000
"""How many steps a search may take: bytes of the text times positions of the pattern."""
MAX_GROUPS = 32
"""How many groups a pattern may have."""
MAX_CACHED = 8
"""How many forms of patterns are kept."""

_FEW_POSITIONS = 8
_INSTRUCTIONS_PER_POSITION = 100
_STEPS_PER_UNIT = 4
_MATCH_UNITS = 2048
_PART_UNITS = 128
"""The price of a part of a replacement: of reading it, and of inserting it for a match."""
_COMPILATION_UNITS = 40_000
_INSTRUCTION_UNITS = 400
"""The price of an instruction of a pattern that RE2 compiles, in addition to that of the compilation."""
_MATCHES_PER_CLOCK_CHECK = 4
_SECONDS = 0.04
_SECONDS_PER_MATCH = 30e-6
_SECONDS_PER_BYTE = 100e-9


class PatternProblem(ValueError):
    """A pattern that RE2 cannot run. `hint` says what to write instead, if that is known."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _Form(NamedTuple):
    """A pattern in the syntax of RE2, and a short pattern with the same positions."""

    pattern: str
    skeleton: str


_WORD = r"\p{L}\p{M}\p{N}_"
_NO_WORD = (
    r"\p{Pd}\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Po}\p{S}\p{Z}\p{C}"
    r"\x{203f}\x{2040}\x{2054}\x{fe33}\x{fe34}\x{fe4d}-\x{fe4f}\x{ff3f}"
)
_ASCII_SPACE = r"\t-\r\x1c-\x1f "
_SPACE = _ASCII_SPACE + r"\x{85}\p{Z}"
_ASCII_NO_SPACE = r"\x00-\x08\x0e-\x1b\x21-\x7f"
_NO_SPACE = (
    r"\x00-\x08\x0e-\x1b\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff}"
)
_CLASSES = {"d": r"\p{Nd}", "D": r"\P{Nd}", "w": _WORD, "W": _NO_WORD, "s": _SPACE, "S": _NO_SPACE}
_ASCII_CLASSES = {
    "d": r"\d",
    "D": r"\D",
    "w": r"\w",
    "W": r"\W",
    "s": _ASCII_SPACE,
    "S": _ASCII_NO_SPACE,
}
_TOKEN = re.compile(
    r"\\u(?P<u>[0-9a-fA-F]{4})|\\U(?P<U>[0-9a-fA-F]{8})"
    r"|\\(?P<class>[dDwWsS])|\\(?P<property>[pP](?:\{[^}]*\}|.))|\\x(?:\{[^}]*\}|[0-9a-fA-F]{2})"
    r"|(?P<escape>\\.)|(?P<posix>\[:\^?[a-z]+:\])|(?P<open>\[\^?\]?)|(?P<upto>\{,(?P<most>[0-9]+)\})"
    r"|(?P<fuzzy>\{[^{}]*[a-z<][^{}]*\})|(?P<group>\(\?(?:P?<[A-Za-z_]\w*>|[^)\w]))|(?P<other>.)",
    re.DOTALL,
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_REASONS = (
    (r"\(\?<?[=!]", "lookaround", "capture the text around in groups, or use several filters"),
    (r"\\[1-9]|\(\?P=|\\[gk]", "a backreference", None),
    (r"\(\?(?:R|&|P>|[0-9+-])", "recursion", None),
    (r"\(\?>", "an atomic group", "write `(?:…)`: nothing is tried twice"),
    (r"[*+?}]\+", "a possessive repetition", "remove the second `+`: nothing is tried twice"),
    (r"\(\?\(", "a condition", None),
    (r"\(\?[a-zA-Z]*x", "the flag `x`", "write the pattern without blanks and comments"),
    (r"\(\?#", "a comment", "remove it"),
)


def translate(pattern: str, *, is_ascii: bool) -> _Form:
    r"""Return the form of a pattern of Python for texts of ASCII, or for all texts.

    >>> translate(r"\d+\Z", is_ascii=True).pattern
    '[\\d]+\\z'

    Raises:
        PatternProblem: the pattern matches similar texts, which RE2 would read as a literal.
    """
    classes = _ASCII_CLASSES if is_ascii else _CLASSES
    parts: list[str] = []
    skeleton: list[str] = []
    in_class = False

    def add(text: str, *, is_position: bool = True) -> None:
        parts.append(text)
        if not in_class:
            skeleton.append(_LETTERS[len(skeleton) % len(_LETTERS)] if is_position else text)

    for token in _TOKEN.finditer(pattern):
        text, kind = token[0], token.lastgroup
        if kind == "class":
            content = classes[token["class"]]
            add(content if in_class else f"[{content}]")
        elif kind in ("u", "U"):
            add(f"\\x{{{token['u'] or token['U']}}}")
        elif kind == "escape":
            is_anchor = text in (r"\A", r"\Z", r"\z", r"\b", r"\B") and not in_class
            add(r"\z" if text == r"\Z" else text, is_position=not is_anchor)
        elif in_class:
            in_class = text != "]"
            add(text)
        elif kind == "open":
            in_class = True
            parts.append(text)
            skeleton.append(_LETTERS[len(skeleton) % len(_LETTERS)])
        elif kind == "fuzzy":
            raise PatternProblem("approximate matching is not available in a regular expression")
        elif kind in ("most", "upto"):
            add(f"{{0,{token['most']}}}", is_position=False)
        else:
            is_operator = kind == "group" or text in "()|*+?^${},:" or text.isdigit()
            add(text, is_position=not is_operator)
    return _Form("".join(parts), "".join(skeleton))


Span = tuple[int, int]
"""The start and the end of a match, or of a group of it, in bytes."""


Matcher = Callable[[bytes, int], list[Span]]
"""A function that returns the spans of the first match and of its groups. They are (-1, -1) without a match.
"""


@frozen
class Pattern:
    """A compiled form of a pattern.

    `match` finds matches with their groups, `match_span` without. `positions` bounds the steps that one byte
    of a text takes.
    """

    match: Matcher
    match_span: Matcher
    groups: int
    group_names: Mapping[bytes, int]
    positions: int

    def charge_for(self, data: bytes) -> None:
        """Charge for a search of the text.

        Raises:
            LimitExceeded: the search could take more than MAX_STEPS.
        """
        if self.positions <= _FEW_POSITIONS:
            charge(len(data))
            return
        self._check(len(data), 1)
        charge(len(data) * self.positions // _STEPS_PER_UNIT)

    def find(self, data: bytes, start: int = 0) -> list[Span]:
        """Return the spans of the first match from `start` on and of its groups.

        The span of what matches nothing is (-1, -1).

        Raises:
            LimitExceeded: to find the groups of this match could take more than MAX_STEPS.
        """
        if self.groups and (len(data) - start) * self.positions * (1 + self.groups) > MAX_STEPS:
            found = self.match_span(data, start)[0]
            self._check(found[1] - found[0], 1 + self.groups)
        return self.match(data, start)

    def _check(self, length: int, copies: int) -> None:
        if length * self.positions * copies > MAX_STEPS:
            raise LimitExceeded(f"the pattern is too complex for a text of {length:,} bytes")


def _matcher(regexp: Any) -> Matcher:
    """Return the function that finds a match of a compiled pattern.

    The public method creates an object for each match, which takes most of the time of many short ones.
    """
    import re2

    match, anchor = regexp._regexp.Match, re2._Anchor.UNANCHORED
    return lambda data, start: match(anchor, data, start, len(data))


@lru_cache(maxsize=MAX_CACHED)
def compile_pattern(pattern: str, *, is_ascii: bool) -> Pattern:
    """Return the form of a pattern for texts of ASCII, or for all texts.

    Raises:
        PatternProblem: RE2 cannot run it.
        LimitExceeded: it is too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise LimitExceeded(f"the pattern is longer than {MAX_PATTERN:,} characters")
    form = translate(pattern, is_ascii=is_ascii)
    regexp = _compile(pattern, form.pattern, never_capture=False)
    if regexp.programsize > MAX_PROGRAM:
        raise LimitExceeded(_TOO_LARGE)
    if regexp.groups > MAX_GROUPS:
        raise LimitExceeded(f"the pattern has more than {MAX_GROUPS} groups; write `(?:…)`")
    spans = _compile(pattern, form.pattern, never_capture=True) if regexp.groups else regexp
    try:
        positions = _compile(pattern, form.skeleton, never_capture=True).programsize
    except PatternProblem:
        positions = regexp.programsize
    if positions > _FEW_POSITIONS:
        positions += regexp.programsize // _INSTRUCTIONS_PER_POSITION
    charge(_COMPILATION_UNITS + _INSTRUCTION_UNITS * regexp.programsize)
    return Pattern(_matcher(regexp), _matcher(spans), regexp.groups, regexp.groupindex, positions)


_TOO_LARGE = r"the pattern is too large: repeat less, or write `[a-z]` instead of `\w`"


def _compile(pattern: str, translated: str, *, never_capture: bool) -> Any:
    import re2

    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    options.never_capture = never_capture
    try:
        encoded = translated.encode()
    except UnicodeEncodeError:
        problem = "half of a surrogate pair is not available in a regular expression"
        raise PatternProblem(problem, "write the character itself") from None
    try:
        # RE2 reads bytes. Its own cache would keep up to 128 patterns.
        return re2.compile(encoded, options)
    except re2.error as error:
        reason = error.args[0]
        message = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise _explain(pattern, message) from None
    finally:
        re2.purge()


def _explain(pattern: str, message: str) -> PatternProblem | LimitExceeded:
    """Return the problem for a message of RE2."""
    if "too large" in message or "repetition size" in message:
        return LimitExceeded(_TOO_LARGE)
    bare = re.sub(r"\\\\", "", pattern)
    for found, name, hint in _REASONS:
        if re.search(found, bare):
            return PatternProblem(f"{name} is not available in a regular expression", hint)
    return PatternProblem(f"{pattern[:200]!r} is not a regular expression: {message[:200]}")


def search(text: Any, pattern: Any) -> Any:
    """Return the groups of the first match as a list, or the whole match if there are no groups."""
    data, compiled = _prepare(text, pattern)
    match = compiled.find(data)
    if match[0][0] < 0:
        return None
    texts = [None if start < 0 else data[start:end].decode() for start, end in match]
    return texts[1:] if compiled.groups else texts[0]


def replace_matches(text: Any, pattern: Any, replacement: Any = "") -> str:
    r"""Return the text with every match replaced. `\1` and `\g<name>` in the replacement are groups."""
    data, compiled = _prepare(text, pattern)
    if not isinstance(replacement, str):
        raise TypeError(f"the replacement must be a text, not {describe(replacement)}")
    parts = _split_replacement(replacement, compiled)
    parts_of_text: list[bytes] = []
    end = size = 0
    longest = MAX_TEXT if text.isascii() and replacement.isascii() else 4 * MAX_TEXT
    for match in _find_all(compiled, data):
        charge(_MATCH_UNITS * (1 + compiled.groups) + _PART_UNITS * len(parts))
        # The span (-1, -1) of a group that matches nothing is empty.
        length = sum(len(p) if isinstance(p, bytes) else match[p][1] - match[p][0] for p in parts)
        start = match[0][0]
        size += start - end + length
        charge(length)
        if size > longest:
            charge_text(MAX_TEXT + 1)
        inserted = b"".join(p if isinstance(p, bytes) else data[slice(*match[p])] for p in parts)
        parts_of_text += (data[end:start], inserted)
        end = match[0][1]
    parts_of_text.append(data[end:])
    charge_text(len(data))
    return b"".join(parts_of_text).decode()


def _prepare(text: Any, pattern: Any) -> tuple[bytes, Pattern]:
    """Return the bytes of a text, and the form of the pattern for it."""
    for value, noun in ((text, "searched value"), (pattern, "pattern")):
        if not isinstance(value, str):
            raise TypeError(f"the {noun} must be a text, not {describe(value)}")
    is_ascii = text.isascii()
    charge(len(text) if is_ascii else 4 * len(text))
    data, compiled = text.encode(), compile_pattern(str(pattern), is_ascii=is_ascii)
    compiled.charge_for(data)
    return data, compiled


def _find_all(compiled: Pattern, data: bytes) -> Iterator[list[Span]]:
    """Yield all matches that do not overlap.

    Raises:
        LimitExceeded: the matches take longer than so many bytes and matches need.
    """
    started = time.thread_time()
    start = count = 0
    while start <= len(data):
        match = compiled.find(data, start)
        first, end = match[0]
        if first < 0:
            return
        count += 1
        if count % _MATCHES_PER_CLOCK_CHECK == 0:
            allowed = _SECONDS + _SECONDS_PER_MATCH * count + _SECONDS_PER_BYTE * end
            if time.thread_time() - started > allowed:
                raise LimitExceeded("the pattern reads the text again for each match, which takes too long")
        if first < end:
            yield match
            start = end
            continue
        # An empty match must not be within a character.
        if end == len(data) or data[end] & 0xC0 != 0x80:
            yield match
        start = end + 1


_REPLACEMENT_PART = re.compile(
    r"\\(?:(?P<number>[1-9][0-9]?)|g<(?P<name>\w{1,100})>|(?P<escape>.?))", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "\\": "\\"}


def _split_replacement(replacement: str, compiled: Pattern) -> list[bytes | int]:
    """Return the literal parts of a replacement, and the numbers of the groups between them.

    Raises:
        ValueError: it names an unknown group, or has an unknown escape.
    """
    charge(len(replacement) + 3 * _PART_UNITS * replacement.count("\\"))
    parts: list[bytes | int] = []
    end = 0
    for part in _REPLACEMENT_PART.finditer(replacement):
        parts.append(replacement[end : part.start()].encode())
        end = part.end()
        if part["escape"] is not None:
            if part["escape"] not in _ESCAPES:
                raise ValueError(f"unknown escape `{part[0]}` in the replacement")
            parts.append(_ESCAPES[part["escape"]].encode())
        else:
            parts.append(_find_group(part["number"] or part["name"], compiled))
    parts.append(replacement[end:].encode())
    return [part for part in parts if part != b""]


def _find_group(name: str, compiled: Pattern) -> int:
    number = int(name) if name.isdecimal() else compiled.group_names.get(name.encode())
    if number is None or number > compiled.groups:
        raise ValueError(f"unknown group `{name}` in the replacement")
    return int(number)
