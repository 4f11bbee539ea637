"""Named SQL statements in files, with named parameters.

Problem: a statement with thirty values is hard to read inside of Python code. A value that is bound by
position may reach the wrong column. SQLite and Postgres differ in a few expressions and in how they write
parameters.

Algorithm: a file holds statements under headers `-- name: NAME`. Source: yesql (Kris Jenkins, 2013). The
statement `keys.add` is `add` in `keys.sql`. `{NAME}` stands for the text of that name in `fragments.sql`, so
that a condition is written once. A line that ends in `-- optional` is left out if its parameter has no value.
Parameters are `:name`. A dialect adds a folder of its own. Each text is translated once into the form of its
driver.

Cost: a file is read when one of its statements is used first. After that, a use is a dictionary look-up.
psycopg parses a text of more than 4,096 bytes at each use, so lines lose their indentation.

Limits: a comment has a line of its own. A statement must not hold `{word}` or `--` inside of quotes.
Parameters and values are compared when a statement is used first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from noetl.planner.frozen import frozen

SHARED_FOLDER = Path(__file__).parent / "queries"
"""Folder of the statements that SQLite and Postgres share."""

_HEADER = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)
_FRAGMENT = re.compile(r"\{(\w+)\}")
_OPTIONAL = "-- optional"
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|::|:(?P<name>[a-z]\w*)""")

Text = TypeVar("Text")


@frozen
class Statement:
    """A statement as lines, each with the parameters without which it is left out."""

    lines: tuple[tuple[str, frozenset[str]], ...]

    @classmethod
    def parse(cls, text: str) -> Statement:
        """Return the statement of a text without headers and fragments."""
        lines = []
        for line in text.splitlines():
            code, _, _ = line.partition("--")
            if code.strip():
                is_optional = line.rstrip().endswith(_OPTIONAL)
                lines.append((code.strip(), find_parameters(code) if is_optional else frozenset[str]()))
        return cls(tuple(lines))

    @property
    def parameters(self) -> frozenset[str]:
        """All parameters, including those of optional lines."""
        return find_parameters("\n".join(line for line, _ in self.lines))

    @property
    def optional(self) -> frozenset[str]:
        """Parameters of optional lines."""
        return frozenset[str]().union(*(names for _, names in self.lines))

    def text_without(self, missing: frozenset[str]) -> str:
        """Return the text without the optional lines that need a missing parameter."""
        return "\n".join(line for line, names in self.lines if names.isdisjoint(missing))


class Statements(Generic[Text]):
    """The statements of a dialect: the shared ones and those in its folder.

    `translate` writes the text of a statement in the form of the driver.
    """

    def __init__(self, folder: Path, translate: Callable[[str], Text]) -> None:
        self._folders = (SHARED_FOLDER, folder)
        self._translate: Callable[[str], Text] = translate
        self._files: dict[str, Mapping[str, str]] = {}
        self._texts: dict[str, Text] = {}
        self._variants: dict[tuple[str, frozenset[str]], Text] = {}

    def text(self, query: str, values: Mapping[str, Any]) -> Text:
        """Return the translated text of a statement for some values.

        `query` is its name, or SQL with blanks, which may have fragments.

        Raises:
            ValueError: the values are not those of its parameters.
        """
        text = self._texts.get(query)
        return self._text_for(query, frozenset(values)) if text is None else text

    def _text_for(self, query: str, given: frozenset[str]) -> Text:
        variant = self._variants.get((query, given))
        if variant is None:
            statement = self.find(query)
            missing = statement.parameters - given
            if not missing <= statement.optional or not given <= statement.parameters:
                wrong = sorted(statement.parameters ^ given)
                raise ValueError(f"the statement {query!r} has other parameters than values: {wrong}")
            variant = self._variants[query, given] = self._translate(statement.text_without(missing))
            if not statement.optional:
                self._texts[query] = variant
        return variant

    def find(self, query: str) -> Statement:
        """Return a statement by its name, or the statement of a text with blanks.

        Raises:
            KeyError: no file has a statement with this name.
        """
        if " " in query:
            return Statement.parse(self._replace_fragments(query))
        file, _, name = query.partition(".")
        return Statement.parse(self._replace_fragments(self._read(file)[name]))

    def names(self) -> frozenset[str]:
        """Return the names of all statements."""
        files = {path.stem for folder in self._folders for path in folder.glob("*.sql")} - {"fragments"}
        return frozenset(f"{file}.{name}" for file in files for name in self._read(file))

    def fragment(self, name: str) -> str:
        """Return the text that `{NAME}` stands for."""
        return self._replace_fragments(self._read("fragments")[name])

    def _replace_fragments(self, text: str) -> str:
        return _FRAGMENT.sub(lambda match: self.fragment(match[1]), text)

    def _read(self, file: str) -> Mapping[str, str]:
        if file not in self._files:
            texts: dict[str, str] = {}
            for folder in self._folders:
                path = folder / f"{file}.sql"
                if path.exists():
                    texts |= parse_file(path.read_text("utf-8"))
            self._files[file] = texts
        return self._files[file]


def parse_file(text: str) -> dict[str, str]:
    r"""Return the texts of a file by name.

    >>> parse_file("-- Plans.\n-- name: a\nselect 1\n\n-- Why.\n-- name: b\nselect :n\n")
    {'a': 'select 1', 'b': 'select :n'}
    """
    _, *parts = _HEADER.split(text)
    texts = zip(parts[::2], parts[1::2], strict=True)
    return {name: _COMMENT.sub("", body).strip() for name, body in texts}


def find_parameters(text: str) -> frozenset[str]:
    """Return the names of the parameters of a text.

    >>> find_parameters("select ':no', :a::text")
    frozenset({'a'})
    """
    return frozenset(match["name"] for match in _TOKEN.finditer(text) if match["name"])


class NumberedText(NamedTuple):
    """A text with numbered parameters, which SQLite binds faster than names; and their values in order."""

    text: str
    values_of: Callable[[Mapping[str, Any]], Sequence[Any]]


def to_numbered(text: str) -> NumberedText:
    """Return a text with the parameters of SQLite.

    >>> numbered = to_numbered("select :a, :b, :a")
    >>> numbered.text, numbered.values_of({"b": 2, "a": 1})
    ('select ?1, ?2, ?1', (1, 2))
    """
    numbers: dict[str, int] = {}

    def write(match: re.Match[str]) -> str:
        name = match["name"]
        return f"?{numbers.setdefault(name, len(numbers) + 1)}" if name else match[0]

    numbered = _TOKEN.sub(write, text)
    names = tuple(numbers)
    # `itemgetter` returns a tuple only for several names.
    if len(names) > 1:
        return NumberedText(numbered, itemgetter(*names))
    return NumberedText(numbered, lambda values: [values[name] for name in names])


def to_psycopg(text: str) -> bytes:
    """Return a text with the parameters of psycopg.

    >>> to_psycopg("select :a::text, ':b', 5 % 2")
    b"select %(a)s::text, ':b', 5 %% 2"
    """
    escaped = text.replace("%", "%%")
    return _TOKEN.sub(lambda match: f"%({match['name']})s" if match["name"] else match[0], escaped).encode()
