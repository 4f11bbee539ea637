"""The data that the history keeps of the actions of a visit: their inputs, and the lines that they wrote.

Problem: to repair a run, a person must see what each action received and what it wrote. A parameter may be
ten megabytes of rows, a command may write as much, and a history has to stay small and without secrets.

Algorithm: events carry the data. `action.started` has the rendered parameters. `action.log` has a line of
the action `log`, or the output of a command. Of a longer value only the beginning is kept, and its length.
One segment of a visit keeps MAX_KEPT_CHARACTERS; later data is left out, and the last line says so.

Cost: one encoding of each parameter as JSON. No additional event for an action that writes nothing.

Limits: the items of a loop keep their lines, and not their inputs. The error of a failed item has its values.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.errors import SettingError
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import to_json_value, write_json
from noetl.executor.model.run import Visit
from noetl.executor.security.redaction import MASK, redacted_head
from noetl.planner.catalogue import ActionDeclaration

if TYPE_CHECKING:
    from noetl.executor.model.sql import Sql

SETTING = "NOETL_KEEP_INPUTS"

MAX_VALUE_CHARACTERS = 2048
"""How much the history keeps of a parameter, in characters of JSON."""

MAX_SAVED_CHARACTERS = 128
"""The same of a parameter that the step saves anyway, such as those of `set`."""

MAX_LINE_CHARACTERS = 8192
"""How much the history keeps of a line, or of the output of a command."""

MAX_KEPT_CHARACTERS = 64 * 1024
"""How much the history keeps of all actions of a segment."""

_COMPUTED = "(computed for each item)"
"""Stands for a parameter that the action itself evaluates."""


def keeps_inputs(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the history keeps the inputs of actions: `NOETL_KEEP_INPUTS` is not `off`.

    Raises:
        SettingError: the setting is neither `on` nor `off`.
    """
    text = environ.get(SETTING, "").strip().lower() or "on"
    if text not in ("on", "off"):
        raise SettingError(f"{SETTING} is {text!r}; it must be on or off.")
    return text == "on"


class KeptData:
    """The data that the history keeps of the actions of one segment of `visit`. Threads may share it."""

    def __init__(
        self, events: EventBuffer, visit: Visit, clock: Callable[[], float], *, with_inputs: bool
    ) -> None:
        self._events = events
        self._visit = visit
        self._clock = clock
        self._with_inputs = with_inputs
        self._free = MAX_KEPT_CHARACTERS
        self._is_full = False
        self._lock = threading.Lock()

    def describe_input(
        self, declaration: ActionDeclaration, parameters: Mapping[str, Any], *, masks_secrets: bool
    ) -> dict[str, Any]:
        """Return what the event `action.started` says of rendered parameters.

        `input` has the values, and `cut` the lengths of those of which only a part is kept. With
        `masks_secrets`, a parameter that may contain a secret is a mask. It is for secrets that are too short
        to be found in texts.
        """
        if not self._with_inputs:
            return {}
        kept: dict[str, Any] = {}
        cut: dict[str, int] = {}
        is_saved = any(True for _ in declaration.saved_names(parameters))
        limit = MAX_SAVED_CHARACTERS if is_saved else MAX_VALUE_CHARACTERS
        for name, value in parameters.items():
            declared = declaration.parameters.get(name)
            if masks_secrets and declared is not None and declared.secrets:
                kept[name] = MASK
                continue
            shown = to_json_value(_to_plain_data(value))
            text = write_json(shown)
            if not self._reserve(min(len(text), limit)):
                cut[name] = len(text)
            elif len(text) > limit:
                beginning = shown if isinstance(shown, str) else text
                kept[name], cut[name] = redacted_head(beginning, limit), len(text)
            else:
                kept[name] = shown
        return {"input": kept, **({"cut": cut} if cut else {})}

    def add_line(self, action: str, position: str, line: Mapping[str, Any]) -> None:
        """Add a line of an action to the history. `line` has its `stream` and its `text`, without secrets."""
        text = line["text"]
        payload = {"action": action, "position": position, **line}
        if len(text) > MAX_LINE_CHARACTERS:
            payload |= {"text": redacted_head(text, MAX_LINE_CHARACTERS), "cut": len(text)}
        if not self._reserve(len(payload["text"]) + len(write_json(line.get("fields", {})))):
            if self._is_full:
                return
            self._is_full = True
            payload = {"action": action, "position": position, "stream": "line", "level": "warning"}
            payload["text"] = (
                f"the history keeps {MAX_KEPT_CHARACTERS:,} characters; later lines are left out"
            )
        visit = self._visit
        self._events.append(
            Event("action.log", self._clock(), visit.step, visit.number, visit.attempt, payload=payload)
        )

    def _reserve(self, characters: int) -> bool:
        """Return whether so many further characters may be kept, and count them."""
        with self._lock:
            if characters > self._free:
                return False
            self._free -= characters
            return True


def _to_plain_data(value: Any) -> Any:
    """Return a rendered parameter as data, with the texts of statements."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain_data(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _COMPUTED if callable(value) else _describe_statement(value)


def _describe_statement(statement: Sql) -> Any:
    """Return the text of a statement, in which `$1` stands for the first of its values.

    >>> from noetl.executor.model.sql import Bind, Sql
    >>> _describe_statement(Sql(("select ", Bind(7), " + 1")))
    {'text': 'select $1 + 1', 'values': [7]}
    """
    from noetl.executor.model.sql import Bind

    text = ""
    values: list[Any] = []
    for part in statement.parts:
        if isinstance(part, Bind):
            values.append(part.value)
            text += f"${len(values)}"
        else:
            text += part if isinstance(part, str) else part.quoted
    return {"text": text, "values": values} if values else text
