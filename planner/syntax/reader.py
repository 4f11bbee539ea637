"""Text to plain data, with the place of every value.

YAML and JSON are read alike, through libyaml's event stream: nothing is built before the limits have let it pass, and
no recursion follows the nesting of the text. Every explicit tag is refused, the core ones (`!!str`) included: quotes
say the same, and more people can read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from noetl.planner.diagnostics.diagnostic import START, Diagnostics, Label, Span
from noetl.planner.diagnostics.wording import abbreviate, describe_value
from noetl.planner.gc_control import gc_paused
from noetl.planner.syntax.document import Collection, Document, position, span_of
from noetl.planner.syntax.scalars import (
    NUMERIC_STARTS,
    WORDS,
    Scalar,
    describe_yaml_1_1_value,
    resolve_scalar,
)
from noetl.planner.syntax.yaml_errors import report_syntax

__all__ = ["Document", "read_document"]

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_ALIASED_NODES = 100_000

# The loaders are used for their event streams only: neither composes nor constructs anything.
_EventStream: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

# U+0085, U+2028 and U+2029 are line breaks to libyaml and plain characters to YAML 1.2 and JSON.
_ILLEGAL = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_BREAKS = "\x85\u2028\u2029"

_TAG = re.compile(r"!(?:<[^>]*>|[^\s,\[\]{}]*)")

# JSON escapes a character beyond U+FFFF as a surrogate pair, which libyaml refuses. The halves are moved into the
# private-use area, which keeps the length of the text and thereby all positions, and are joined in the values.
_ESCAPED_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)
_MOVED_ESCAPES = re.compile(r"\\u(e[0-3][0-9a-f]{2})\\u(e[4-7][0-9a-f]{2})")
_MOVED_PAIR = re.compile("([\ue000-\ue3ff])([\ue400-\ue7ff])")
_MOVED_BY = 0x800


def read_document(text: str | bytes, diagnostics: Diagnostics) -> Document | None:
    """The document in `text`, or None where there is none that could be checked further.

    Adds NP001 to NP006, and NP012 for what JSON cannot hold. Never raises on bad text; takes time and memory
    proportional to the length of what is within the limits.
    """
    characters = _decode(text, diagnostics)
    if characters is None:
        return None
    with gc_paused():
        try:
            return _Reader(characters, diagnostics).document()
        except _StopError:
            return None


def _decode(text: str | bytes, diagnostics: Diagnostics) -> str | None:
    if len(text) > MAX_BYTES or (isinstance(text, str) and len(text.encode("utf-8", "replace")) > MAX_BYTES):
        diagnostics.add(
            "NP004", "a playbook has at most 1 MiB of text", START, "move parts of it to other playbooks"
        )
        return None
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode().removeprefix("\ufeff")
            line, column = position(before, len(before))
            message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
            diagnostics.add("NP001", message, Span(line, column, line, column + 1), "save the file as UTF-8")
            return None
    text = text.removeprefix("\ufeff")
    if illegal := _ILLEGAL.search(text):
        line, column = position(text, illegal.start())
        hint = (
            "in double quotes it can be written as an escape, such as `\\u2028`"
            if illegal[0] in _BREAKS
            else None
        )
        message = f"the character U+{ord(illegal[0]):04X} is not allowed"
        diagnostics.add("NP001", message, Span(line, column, line, column + 1), hint)
        return None
    return text


class _StopError(Exception):
    """What was read cannot be checked further, and a diagnostic says why."""


_DROPPED: Any = object()


class _Reader:
    def __init__(self, text: str, diagnostics: Diagnostics) -> None:
        self._text = text
        self._diagnostics = diagnostics
        moved = _ESCAPED_PAIR.sub(_move_pair, text) if "\\u" in text else text
        self._has_moved_pairs = moved != text
        self._next_event: Callable[[], Any] = _EventStream(moved).get_event

    def document(self) -> Document:
        try:
            return self._document()
        except yaml.MarkedYAMLError as error:
            report_syntax(error, self._text, self._diagnostics)
        raise _StopError

    def _document(self) -> Document:
        self._next_event()
        event = self._next_event()
        if type(event) is yaml.StreamEndEvent:
            return Document(self._text, None, None)
        data, place = self._root()
        self._next_event()
        event = self._next_event()
        if type(event) is not yaml.StreamEndEvent:
            self._report("NP003", "a second document begins here", event, "keep one playbook a file")
        return Document(self._text, data, place)

    def _root(self) -> tuple[Any, Any]:
        """The data of the one node that follows, and its place.

        One loop over the events, with the open collections on a stack, because the nesting is the text's to choose.
        In a mapping `key` is what the next value belongs to, and None while a key is expected.
        """
        # These names are looked up some hundred thousand times.
        next_event = self._next_event
        scalar_event, alias_event = yaml.ScalarEvent, yaml.AliasEvent
        mapping_start, sequence_start = yaml.MappingStartEvent, yaml.SequenceStartEvent
        words, numeric_starts = WORDS, NUMERIC_STARTS
        has_moved_pairs = self._has_moved_pairs

        stack: list[tuple[Collection | None, Any, Any]] = []
        anchors: dict[str, tuple[Any, Any, int, int] | None] = {}
        nodes = aliased = 0
        collection: Collection | None = None
        key: Any = None
        key_event: Any = None

        while True:
            event = next_event()
            kind = type(event)
            nodes += 1
            place = event
            if kind is scalar_event:
                data = event.value
                if event.implicit[0] and (data in words or data[0] in numeric_starts):
                    data = self._scalar(event)
                if has_moved_pairs and type(data) is str:
                    data = event.value = _restore_pairs(data, event, self._text)
                if event.tag is not None:
                    self._refuse_tag(event)
                if event.anchor is not None:
                    anchors[event.anchor] = (data, place, 1, 0)
            elif kind is mapping_start or kind is sequence_start:
                stack.append((collection, key, key_event))
                if len(stack) > MAX_DEPTH:
                    self._report("NP004", f"nested more than {MAX_DEPTH} levels deep", event)
                    raise _StopError
                if event.tag is not None:
                    self._refuse_tag(event)
                if event.anchor is not None:
                    anchors[event.anchor] = None
                empty: Any = {} if kind is mapping_start else []
                collection = Collection(event, empty, type(empty)(), nodes)
                key = key_event = None
                continue
            elif kind is alias_event:
                data, place, size, height = self._alias(event, anchors)
                nodes += size
                aliased += size
                if aliased > MAX_ALIASED_NODES:
                    message = f"aliases expand to more than {MAX_ALIASED_NODES:,} nodes"
                    self._report("NP005", message, event)
                    raise _StopError
                if len(stack) + height > MAX_DEPTH:
                    self._report("NP004", f"nested more than {MAX_DEPTH} levels deep", event)
                    raise _StopError
                if collection is not None and collection.height <= height:
                    collection.height = height + 1
            else:
                assert collection is not None
                closed = collection
                collection, key, key_event = stack.pop()
                if closed.start.flow_style:
                    closed.end = event.end_mark
                if closed.start.anchor is not None:
                    size = nodes - closed.first_node
                    anchors[closed.start.anchor] = (closed.data, closed, size, closed.height)
                if collection is not None and collection.height <= closed.height:
                    collection.height = closed.height + 1
                data, place = closed.data, closed
                if closed.start.flow_style and type(data) is dict and self._is_bare_template(closed):
                    data, place = self._bare_template(closed)

            if collection is None:
                return data, place
            if type(collection.data) is list:
                collection.data.append(data)
                collection.children.append(place)
            elif key is not None:
                if key is not _DROPPED:
                    collection.data[key] = data
                    collection.children[key] = (key_event, place)
                key = None
            else:
                key_event = place
                if type(data) is str and data not in collection.data and data != "<<":
                    key = data
                else:
                    key = self._questionable_key(data, place, collection)

    def _scalar(self, event: Any) -> Scalar:
        text: str = event.value
        try:
            value = resolve_scalar(text)
        except ValueError as error:
            self._report("NP012", str(error), event, "write it in quotes if it is text")
            return None
        if reading := describe_yaml_1_1_value(text):
            message = f"`{abbreviate(text)}` is {describe_value(value)} here, and {reading} in YAML 1.1"
            truth = f", or `{reading}`" if reading in ("true", "false") else ""
            self._report("NP006", message, event, f'write "{abbreviate(text)}" if it is text{truth}')
        return value

    def _questionable_key(self, data: Any, place: Any, collection: Collection) -> Any:
        """The key to use for data that cannot simply be one; `_DROPPED` leaves its value out."""
        if isinstance(place, Collection):
            if not self._is_bare_template(collection):
                self._report("NP012", "a key is text, not a list or mapping", place)
            return _DROPPED
        if data == "<<" and place.implicit[0]:
            self._report("NP003", "merge keys are not read", place, "write the keys out")
            return _DROPPED
        if not isinstance(data, str):
            kind, data = describe_value(data), place.value
            hint = f'write "{abbreviate(data)}"' if data else "write a name before the `:`"
            self._report("NP012", f"a key is text, not {kind}", place, hint)
        if data in collection.data:
            first = collection.children[data][0]
            self._report(
                "NP002", f"the key `{abbreviate(data)}` is here twice", place, labels=[(first, "first here")]
            )
            return _DROPPED
        return data

    def _alias(self, event: Any, anchors: dict[str, Any]) -> tuple[Any, Any, int, int]:
        name = event.anchor
        if name not in anchors:
            hint = f"name a value with `&{abbreviate(name)}` before it is used, or write the text in quotes"
            self._report("NP001", f"no value is named `&{abbreviate(name)}` above", event, hint)
            raise _StopError
        if anchors[name] is None:
            self._report("NP005", f"`*{abbreviate(name)}` stands inside the value that it names", event)
            raise _StopError
        found: tuple[Any, Any, int, int] = anchors[name]
        return found

    def _refuse_tag(self, event: Any) -> None:
        mark = event.start_mark
        tag = _TAG.search(self._text, mark.index)
        start, end = tag.span() if tag else (mark.index, mark.index)
        span = Span(*position(self._text, start, mark), *position(self._text, end, mark))
        self._diagnostics.add("NP003", "tags are not read", span, "leave it out; quotes make a value text")

    def _is_bare_template(self, mapping: Collection) -> bool:
        return self._text.startswith("{{", mapping.start.start_mark.index)

    def _bare_template(self, mapping: Collection) -> tuple[str, Any]:
        """To YAML a template without quotes is a mapping in a mapping; what was meant is the text."""
        start = mapping.start.start_mark
        source = self._text[start.index : mapping.end.index]
        place = yaml.ScalarEvent(None, None, (True, False), source, start, mapping.end)
        self._report("NP012", "a template stands in quotes", place, _in_quotes(source))
        return source, place

    def _report(
        self,
        code: str,
        message: str,
        place: Any,
        hint: str | None = None,
        labels: Sequence[tuple[Any, str]] = (),
    ) -> None:
        found = [Label(span_of(self._text, at), words) for at, words in labels]
        self._diagnostics.add(code, message, span_of(self._text, place), hint, labels=found)


def _in_quotes(source: str) -> str:
    return f"write '{abbreviate(source)}'" if '"' in source else f'write "{abbreviate(source)}"'


def _move_pair(match: re.Match[str]) -> str:
    return match[1] + "".join(f"\\u{int(half, 16) + _MOVED_BY:04x}" for half in match.group(2, 3))


def _restore_pairs(value: str, event: Any, text: str) -> str:
    originals = _ESCAPED_PAIR.finditer(text, event.start_mark.index, event.end_mark.index)
    if event.style == '"':
        return _MOVED_PAIR.sub(_join_pair, value) if next(originals, None) else value
    return _MOVED_ESCAPES.sub(lambda moved: next(originals, moved)[0][-12:], value)


def _join_pair(match: re.Match[str]) -> str:
    return (
        "".join(chr(ord(half) - _MOVED_BY) for half in match.groups())
        .encode("utf-16", "surrogatepass")
        .decode("utf-16")
    )
