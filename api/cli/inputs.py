"""What a run is given: `-i name=value` and `--input FILE.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noetl.api.cli.display.console import RefusalError
from noetl.executor.model.json_values import read_json


def read_file(file: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RefusalError: it cannot be read, or holds something else.
    """
    try:
        value = read_json(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusalError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise RefusalError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusalError(f'{file} must hold an object of inputs by name, such as {{"user_id": 7}}')
    return value


def read_pairs(pairs: Sequence[str], types: Mapping[str, str]) -> dict[str, Any]:
    """The values of `name=value` pairs, each read as a YAML scalar of the type its name has in `types`.

    A list or mapping is written in brackets. Whether a value is of its type is for whoever starts the run to say.

    Raises:
        RefusalError: a pair has no `=`, or is not UTF-8.
    """
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RefusalError(f"-i takes name=value, not {pair!r}")
        if any("\ud800" <= character <= "\udfff" for character in pair):
            raise RefusalError(f"-i {pair!r} is not UTF-8")
        values[name] = _value(text, types.get(name, "any"))
    return values


def _value(text: str, type_: str) -> Any:
    """Text for a `string` is taken as it stands; so `-i zip=01234` keeps its zero."""
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import read_document
    from noetl.planner.syntax.scalars import resolve_scalar

    if type_ == "string":
        return text
    if text[:1] in _OPENING:
        findings = Diagnostics()
        document = read_document(text, findings)
        return text if document is None or findings.errors else document.data
    try:
        return resolve_scalar(text)
    except ValueError:
        return text


_OPENING = ("[", "{", '"', "'")
