"""Inputs of a run on the command line: `-i name=value` and `--input FILE.json`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noetl.api.cli.display.console import CommandError
from noetl.executor.model.json_values import read_json

STDIN = "-"
"""The name of a file that stands for standard input."""

_FIRST_CHARACTERS_OF_YAML = ("[", "{", '"', "'")


def read_input_file(file: str, content: str = 'of inputs by name, such as {"user_id": 7}') -> dict[str, Any]:
    """Return the object in a JSON file, or in standard input for `-`. `content` describes it.

    Raises:
        CommandError: the file cannot be read, or is not an object in JSON.
    """
    text = read_text_file(file)
    try:
        value = read_json(text)
    except ValueError as error:
        raise CommandError(f"{name_of_file(file)} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(f"{name_of_file(file)} must hold an object {content}")
    return value


def read_text_file(file: str) -> str:
    """Return the text of a file, or of standard input for `-`.

    Raises:
        CommandError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        return content.decode()
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{name_of_file(file)} is not UTF-8; save it as UTF-8") from error


def name_of_file(file: str) -> str:
    """Return how messages name a file.

    >>> name_of_file("-"), name_of_file("list.yaml")
    ('standard input', 'list.yaml')
    """
    return "standard input" if file == STDIN else file


def parse_input_pairs(pairs: Sequence[str], types: Mapping[str, str], option: str = "-i") -> dict[str, Any]:
    """Parse the `name=value` pairs of an option. Each value is a YAML scalar of the type that `types` names.

    A list or mapping is written in brackets. The types of the values are checked when the run is created.

    Raises:
        CommandError: a pair has no `=`, or is not UTF-8.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise CommandError(f"{option} must be name=value, not {pair!r}")
        if any("\ud800" <= character <= "\udfff" for character in pair):
            raise CommandError(f"{option} {pair!r} is not UTF-8")
        values[name] = _parse_value(text, types.get(name, "any"))
    return values


def _parse_value(text: str, type_: str) -> Any:
    """Parse a value. A `string` is not parsed: `-i zip=01234` keeps its zero."""
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import read_document
    from noetl.planner.syntax.scalars import resolve_scalar

    if type_ == "string":
        return text
    if text[:1] in _FIRST_CHARACTERS_OF_YAML:
        findings = Diagnostics()
        document = read_document(text, findings)
        return text if document is None or findings.error_count else document.data
    try:
        return resolve_scalar(text)
    except ValueError:
        return text
