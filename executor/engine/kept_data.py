"""The data that the history keeps of the actions of a visit: their inputs, and the lines that they wrote.

Problem: to repair a run, a person must see what each action received and what it wrote. A parameter may be
ten megabytes of rows, a command may write as much, and a history has to stay small and without secrets.

Algorithm: events carry the data. `action.started` has the rendered parameters. `action.log` has a line of
the action `log`, or the output of a command. Of a longer value only the beginning is kept, and its length.
One segment of a visit keeps MAX_KEPT_CHARACTERS; later data is left out, and the last line says so.

The items of a loop have no events of their actions. A failed item has the event `loop.item_failed`, with its
error and the input of the action that failed. Until an item has ended, its call is only referred to.

Cost: one encoding of each parameter as JSON, which is not copied before. Of a long text, the beginning is
encoded. After a secret was revealed, as much more is encoded and searched as its longest form has, so that no
secret is cut in two. If this part has a secret, all is. No additional event for an action that writes
nothing. For an item that succeeds, one entry of a dictionary is set and removed.

Limits: one segment keeps MAX_ITEMS_CHARACTERS of failed items. Later ones are only counted. Of items that
succeed, the lines are kept, and not the inputs.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.errors import SettingError
from noetl.executor.model.events import Event
from noetl.executor.model.json_values import (
    escaped_length,
    measure_json_value,
    to_json_value,
    write_json,
)
from noetl.executor.model.large_json import begin_large_json, is_large
from noetl.executor.model.run import FailedItem, Visit
from noetl.executor.security.redaction import (
    MASK,
    REVEALED_SECRETS,
    head_reach,
    redact_cut_text,
    redacted_head,
)
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.frozen import frozen, replace

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

MAX_ITEMS_CHARACTERS = 64 * 1024
"""How much the history keeps of all failed items of a segment."""

MAX_ITEM_INPUT_CHARACTERS = 4096
"""How much the history keeps of the input of one failed item."""

_MAX_ERROR_CHARACTERS = 2048
"""How much the history keeps of the message of a failed item, and how much of its details."""

_MAX_TOGETHER = 1024 * 1024
"""The length of a parameter of which only the beginning is held as text. Secrets are searched in it."""

_MAX_FAILED_CALLS = 256
"""How many calls that have failed are referred to until their items have ended: some for each thread."""

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


class _KeptAllowance:
    """A number of characters that may be kept. Threads may share it."""

    def __init__(self, characters: int) -> None:
        self.free = characters
        self._lock = threading.Lock()

    def reserve(self, characters: int) -> bool:
        """Return whether so many further characters may be kept, and count them."""
        with self._lock:
            if characters > self.free:
                return False
            self.free -= characters
            return True


@frozen
class ActionCall:
    """A call of an action with rendered parameters.

    With `masks_secrets`, those that may contain a secret are masked. It is for secrets
    that are too short to be found in texts.
    """

    declaration: ActionDeclaration
    parameters: Mapping[str, Any]
    masks_secrets: bool

    def describe(self, allowance: _KeptAllowance) -> dict[str, Any]:
        """Return `input`, the values of the parameters, and `cut`, the lengths of those kept in part."""
        kept: dict[str, Any] = {}
        cut: dict[str, int] = {}
        is_saved = any(True for _ in self.declaration.saved_names(self.parameters))
        limit = MAX_SAVED_CHARACTERS if is_saved else MAX_VALUE_CHARACTERS
        for name, value in self.parameters.items():
            declared = self.declaration.parameters.get(name)
            if self.masks_secrets and declared is not None and declared.secrets:
                kept[name] = MASK
                continue
            written = _write_parameter(value, limit)
            if not allowance.reserve(min(written.length, limit)):
                cut[name] = written.length
                continue
            kept[name] = written.read(limit)
            if written.length > limit:
                cut[name] = written.length
        return {"input": kept, **({"cut": cut} if cut else {})}


@frozen
class _FailedCall:
    """A call that has failed finally, its error, and the number of its attempts."""

    error: Mapping[str, Any]
    call: ActionCall | None
    attempts: int


class KeptData:
    """The data that the history keeps of the actions of one segment of `visit`. Threads may share it."""

    def __init__(
        self, events: EventBuffer, visit: Visit, clock: Callable[[], float], *, with_inputs: bool
    ) -> None:
        self._events = events
        self._visit = visit
        self._clock = clock
        self._with_inputs = with_inputs
        self._allowance = _KeptAllowance(MAX_KEPT_CHARACTERS)
        self._items_allowance = _KeptAllowance(MAX_ITEMS_CHARACTERS)
        self._calls: dict[str, ActionCall] = {}
        self._failed_calls: dict[int, _FailedCall] = {}
        self._is_full = False
        self._lock = threading.Lock()

    def describe_input(self, call: ActionCall) -> dict[str, Any]:
        """Return what the event `action.started` says of a call: `input` and `cut`."""
        return call.describe(self._allowance) if self._with_inputs else {}

    def remember_call(self, position: str, call: ActionCall) -> None:
        """Keep the call of an item of a loop, whose action is at `position`, until it has ended."""
        if self._with_inputs:
            self._calls[position] = call

    def forget_call(self, position: str) -> None:
        """Drop the call of an item that has not failed finally."""
        self._calls.pop(position, None)

    def keep_failed_call(self, position: str, error: Mapping[str, Any], attempts: int) -> None:
        """Keep the call that has failed with an error, until its item has ended."""
        self._add_failed_call(_FailedCall(error, self._calls.pop(position, None), attempts))

    def replace_error(self, cause: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        """Move the call of an error to the error that a loop has made of it."""
        with self._lock:
            failed = self._failed_calls.pop(id(cause), None)
        if failed is not None:
            self._add_failed_call(replace(failed, error=error))

    def add_failed_item(
        self, loop: str, item: FailedItem, cause: Mapping[str, Any], error: Mapping[str, Any]
    ) -> None:
        """Add a failed item of the loop at a position to the history. `error` follows from its `cause`."""
        with self._lock:
            failed = self._failed_calls.pop(id(cause), None)
        shown = shorten_error(error)
        if not self._items_allowance.reserve(len(write_json(shown))):
            return
        payload: dict[str, Any] = {"position": loop, "item": item, "error": shown}
        if failed is not None:
            payload["attempts"] = failed.attempts
        if failed is not None and failed.call is not None:
            allowance = _KeptAllowance(min(MAX_ITEM_INPUT_CHARACTERS, self._items_allowance.free))
            before = allowance.free
            payload |= failed.call.describe(allowance)
            self._items_allowance.reserve(before - allowance.free)
        self._append("loop.item_failed", payload)

    def add_line(self, action: str, position: str, line: Mapping[str, Any]) -> None:
        """Add a line of an action to the history. `line` has its `stream` and its `text`, without secrets."""
        text = line["text"]
        payload = {"action": action, "position": position, **line}
        if len(text) > MAX_LINE_CHARACTERS:
            payload |= {"text": redacted_head(text, MAX_LINE_CHARACTERS), "cut": len(text)}
        if not self._allowance.reserve(len(payload["text"]) + len(write_json(line.get("fields", {})))):
            if self._is_full:
                return
            self._is_full = True
            payload = {"action": action, "position": position, "stream": "line", "level": "warning"}
            payload["text"] = (
                f"the history keeps {MAX_KEPT_CHARACTERS:,} characters; later lines are left out"
            )
        self._append("action.log", payload)

    def _append(self, type: str, payload: Mapping[str, Any]) -> None:
        visit = self._visit
        self._events.append(
            Event(type, self._clock(), visit.step, visit.number, visit.attempt, payload=payload)
        )

    def _add_failed_call(self, failed: _FailedCall) -> None:
        with self._lock:
            self._failed_calls[id(failed.error)] = failed
            if len(self._failed_calls) > _MAX_FAILED_CALLS:
                del self._failed_calls[next(iter(self._failed_calls))]


def shorten_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error whose message and details are not long. Of long ones the beginning is left."""
    shown = {**error, "message": redacted_head(str(error["message"]), _MAX_ERROR_CHARACTERS)}
    details = _write_parameter(error.get("details"), _MAX_ERROR_CHARACTERS)
    if details.length > _MAX_ERROR_CHARACTERS:
        shown["details"] = details.read(_MAX_ERROR_CHARACTERS)
    return shown


@frozen
class _WrittenParameter:
    """A rendered parameter as text, and the length of its compact JSON.

    The text is the parameter itself, or with `is_json` its JSON. If it lacks the ends of long texts, `uncut`
    is the parameter. With `is_beginning`, it is the beginning of a very large one.
    """

    text: str
    length: int
    is_json: bool = True
    uncut: Any = None
    is_beginning: bool = False

    def read(self, limit: int) -> Any:
        """Return the data of the parameter, or the beginning of a longer one, which is not parsed."""
        if self.length <= limit:
            return json.loads(self.text) if self.is_json else self.text
        if self.is_beginning:
            return redact_cut_text(self.text)[:limit]
        is_clean = self.uncut is None or REVEALED_SECRETS.find_clean_head(self.text, limit) is not None
        return redacted_head(self.text if is_clean else _encode(self.uncut), limit)


def _write_parameter(value: Any, limit: int) -> _WrittenParameter:
    """Return a parameter as text. What is not JSON is its `repr`.

    Of long texts, it has what `redacted_head` reads to return the first `limit` characters.
    """
    if isinstance(value, str):
        return _WrittenParameter(value, escaped_length(value) + 2, is_json=False)
    value = _read_statements(value)
    shortened, left_out = _cut_texts(value, limit + head_reach())
    try:
        if is_large(shortened, _MAX_TOGETHER):
            length = measure_json_value(value, _to_plain_data)
            return _WrittenParameter(
                begin_large_json(value, _encode, _MAX_TOGETHER), length, is_beginning=True
            )
        text = _encode(shortened)
    except (TypeError, ValueError, RecursionError):
        text, left_out = _encode(to_json_value(_to_plain_data(value))), 0
    if text.startswith('"'):
        return _write_parameter(json.loads(text), limit)
    return _WrittenParameter(text, len(text) + left_out, uncut=value if left_out else None)


def _read_statements(value: Any) -> Any:
    """Return a parameter with its statements as data: itself, or those in a short object or a list.

    A statement may have large values, and is no value whose size is known.
    """
    if hasattr(value, "parts"):
        return _to_plain_data(value)
    if type(value) is list and value and hasattr(value[0], "parts"):
        return [_read_statements(item) for item in value]
    if type(value) is dict and any(hasattr(item, "parts") for item in islice(value.values(), 8)):
        return {name: _read_statements(item) for name, item in value.items()}
    return value


def _cut_texts(value: Any, limit: int) -> tuple[Any, int]:
    """Return an object whose texts are not longer than a limit, and how much JSON was left out.

    Texts deeper in the object stay: to find them costs more than to write them.
    """
    if type(value) is not dict:
        return value, 0
    ends = {name: text[limit:] for name, text in value.items() if type(text) is str and len(text) > limit}
    if not ends:
        return value, 0
    beginnings = {name: value[name][:limit] for name in ends}
    return value | beginnings, sum(map(escaped_length, ends.values()))


def _to_plain_data(value: Any) -> Any:
    """Return a rendered parameter as data, with the texts of statements."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain_data(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if callable(value):
        return _COMPUTED
    from noetl.executor.model.sql import Sql

    return _describe_statement(value) if isinstance(value, Sql) else repr(value)


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


_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_to_plain_data
).encode
"""Writes a parameter. What is not JSON, such as a statement, is converted where it is found."""
