"""Read YAML or JSON text into plain data with the position of every value.

Problem: the text may be hostile. It may be deeply nested, expand aliases exponentially, or contain tags that
create objects. All errors must be reported with exact positions.

Algorithm: a pushdown automaton over the event stream of libyaml (YAML 1.2.2, 2021, section 3.1). One loop
handles the events and keeps the open collections on an explicit stack, so the nesting of the text never uses
the Python stack. Aliases share the data of their anchor, and their expanded size is added up. JSON is read as
YAML.

Cost: O(length of the text) in time and memory, because aliases are not expanded.

Limits: MAX_BYTES of text, MAX_DEPTH levels, MAX_DIRECTIVES directives, and MAX_ALIASED_NODES nodes and
MAX_ALIASED_CHARACTERS characters that aliases add. Explicit tags are refused, including core tags such as
`!!str`, because quotes express the same. Merge keys and further documents are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import yaml

from noetl.planner.diagnostics.diagnostic import START, Diagnostics, Label, Span
from noetl.planner.diagnostics.wording import abbreviate, describe_value
from noetl.planner.gc_control import gc_paused
from noetl.planner.syntax.document import Collection, Document, position, span_of
from noetl.planner.syntax.scalars import (
    NUMERIC_STARTS,
    RESOLVED_WORDS,
    Scalar,
    describe_yaml_1_1_value,
    resolve_scalar,
)
from noetl.planner.syntax.yaml_errors import report_yaml_error

__all__ = ["Document", "read_document"]

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_ALIASED_NODES = 100_000
MAX_ALIASED_CHARACTERS = MAX_BYTES
"""How many characters of the text aliases may repeat. What uses a plan reads each of them."""
MAX_DIRECTIVES = 100
"""How many lines may begin as a directive does. libyaml compares each `%TAG` with all before it."""

# The loaders provide the event stream only. They neither compose nor construct values.
_EventStream: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

# U+0085, U+2028 and U+2029 are line breaks to libyaml and plain characters to YAML 1.2 and JSON.
_ILLEGAL = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_UNICODE_BREAKS = "\x85\u2028\u2029"

_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_DIRECTIVE = re.compile(r"(?:\A|(?<=[\n\r]))%")
_TAG = re.compile(r"!(?:<[^>]*>|[^\s,\[\]{}]*)")

# JSON escapes a character beyond U+FFFF as a surrogate pair, which libyaml refuses. Both halves are moved
# into the private-use area. This keeps the length of the text and therefore all positions. Values get the
# character back.
_ESCAPED_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
)
_MOVED_ESCAPES = re.compile(r"\\u(e[0-3][0-9a-f]{2})\\u(e[4-7][0-9a-f]{2})")
_MOVED_PAIR = re.compile("([\ue000-\ue3ff])([\ue400-\ue7ff])")
_SURROGATE_OFFSET = 0x800

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def read_document(text: str | bytes, diagnostics: Diagnostics) -> Document | None:
    """Return the document in `text`, or None if no document can be checked.

    Adds NP001 to NP006, and NP012 for values that JSON cannot hold. Never raises an exception for any text.
    """
    characters = _decode(text, diagnostics)
    if characters is None:
        return None
    with gc_paused():
        try:
            return _DocumentReader(characters, diagnostics).read()
        except _ReadingStopped:
            return None


def _decode(text: str | bytes, diagnostics: Diagnostics) -> str | None:
    if isinstance(text, bytes) and b"\0" in text and not text.startswith(_UTF_16_MARKS):
        advice = "check the name of the file; a playbook is text in UTF-8"
        diagnostics.add("NP001", "the file is binary, not text", START, advice)
        return None
    if len(text) > MAX_BYTES or (isinstance(text, str) and len(text.encode("utf-8", "replace")) > MAX_BYTES):
        diagnostics.add(
            "NP004", "the playbook is larger than 1 MiB", START, "move parts of it to other playbooks"
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
        is_break = illegal[0] in _UNICODE_BREAKS
        hint = "write it as an escape such as `\\u2028` in double quotes" if is_break else None
        message = f"the character U+{ord(illegal[0]):04X} is not allowed"
        diagnostics.add("NP001", message, Span(line, column, line, column + 1), hint)
        return None
    return text


class _ReadingStopped(Exception):
    """The rest of the text cannot be read. A diagnostic explains why."""


_IGNORED_KEY: Any = object()
"""The key of a value that is not part of the data."""


class _AnchoredValue(NamedTuple):
    """A value with an anchor: data and node, its size in nodes and in characters, and its height in levels.

    The characters are those of its text, with those that aliases in it repeat.
    """

    data: Any
    node: Any
    size: int
    height: int
    characters: int


class _DocumentReader:
    """The reader of one text. `read` returns its document."""

    def __init__(self, text: str, diagnostics: Diagnostics) -> None:
        self._text = text
        self._diagnostics = diagnostics
        moved = _ESCAPED_PAIR.sub(_move_pair, text) if "\\u" in text else text
        self._has_moved_pairs = moved != text
        self._next_event: Callable[[], Any] = _EventStream(moved).get_event
        self._anchors: dict[str, _AnchoredValue | None] = {}
        self._aliased_count = 0
        self._aliased_characters = 0

    def read(self) -> Document:
        self._check_directives()
        try:
            return self._read_stream()
        except yaml.MarkedYAMLError as error:
            report_yaml_error(error, self._text, self._diagnostics)
        raise _ReadingStopped

    def _check_directives(self) -> None:
        for number, match in enumerate(_DIRECTIVE.finditer(self._text), 1):
            if number > MAX_DIRECTIVES:
                line, column = position(self._text, match.start())
                message = f"more than {MAX_DIRECTIVES} lines begin with `%`, as directives do"
                self._diagnostics.add("NP003", message, Span(line, column, line, column + 1))
                raise _ReadingStopped

    def _read_stream(self) -> Document:
        self._next_event()
        event = self._next_event()
        if type(event) is yaml.StreamEndEvent:
            return Document(self._text, None, None)
        data, root = self._read_root()
        self._next_event()
        event = self._next_event()
        if type(event) is not yaml.StreamEndEvent:
            self._report("NP003", "a second document is not allowed", event, "keep one playbook per file")
        return Document(self._text, data, root)

    def _read_root(self) -> tuple[Any, Any]:
        """Return the data of the root node and the node itself.

        The stack holds the open collections. In a mapping, `key` is the key of the next value, or None if the
        next node is a key. An anchor of an open collection has the value None.
        """
        # Local names are faster than attributes in this loop.
        next_event, start_collection = self._next_event, self._start_collection
        scalar_event, alias_event = yaml.ScalarEvent, yaml.AliasEvent
        mapping_start, sequence_start = yaml.MappingStartEvent, yaml.SequenceStartEvent
        resolved_words, numeric_starts = RESOLVED_WORDS, NUMERIC_STARTS
        has_moved_pairs = self._has_moved_pairs

        stack: list[tuple[Collection | None, Any, Any]] = []
        node_count = 0
        collection: Collection | None = None
        key: Any = None
        key_node: Any = None

        while True:
            event = next_event()
            kind = type(event)
            node_count += 1
            node = event
            if kind is scalar_event:
                data = event.value
                if event.implicit[0] and (data in resolved_words or data[0] in numeric_starts):
                    data = self._resolve_plain(event)
                if has_moved_pairs or event.tag is not None or event.anchor is not None:
                    data = self._finish_scalar(event, data)
            elif kind is mapping_start or kind is sequence_start:
                stack.append((collection, key, key_node))
                collection = start_collection(event, kind is mapping_start, len(stack), node_count)
                key = key_node = None
                continue
            elif kind is alias_event:
                data, node, size = self._expand_alias(event, collection, len(stack))
                node_count += size
            else:
                closed = collection
                collection, key, key_node = stack.pop()
                data, node = self._end_collection(closed, event, collection, node_count)

            if collection is None:
                return data, node
            if type(collection.data) is list:
                collection.data.append(data)
                collection.children.append(node)
            elif key is not None:
                if key is not _IGNORED_KEY:
                    collection.data[key] = data
                    collection.children[key] = (key_node, node)
                key = None
            else:
                key_node = node
                if type(data) is str and data not in collection.data and data != "<<":
                    key = data
                else:
                    key = self._check_unusual_key(data, node, collection)

    def _finish_scalar(self, event: Any, data: Any) -> Any:
        """Return the data with its surrogate pairs. Refuse a tag, and define an anchor."""
        if self._has_moved_pairs and type(data) is str:
            data = event.value = _restore_pairs(data, event, self._text)
        if event.tag is not None:
            self._refuse_tag(event)
        if event.anchor is not None:
            characters = event.end_mark.index - event.start_mark.index
            self._anchors[event.anchor] = _AnchoredValue(data, event, 1, 0, characters)
        return data

    def _start_collection(self, event: Any, is_mapping: bool, depth: int, number: int) -> Collection:
        if depth > MAX_DEPTH:
            self._stop("NP004", _TOO_DEEP, event)
        if event.tag is not None:
            self._refuse_tag(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        empty = dict[Any, Any] if is_mapping else list[Any]
        return Collection(event, empty(), empty(), number, self._aliased_characters)

    def _end_collection(
        self, closed: Any, event: Any, parent: Collection | None, node_count: int
    ) -> tuple[Any, Any]:
        """Return the data and the node of a collection that is complete."""
        start = closed.start
        if start.anchor is not None:
            size = node_count - closed.first_node
            characters = event.end_mark.index - start.start_mark.index
            characters += self._aliased_characters - closed.aliased_before
            self._anchors[start.anchor] = _AnchoredValue(closed.data, closed, size, closed.height, characters)
        if parent is not None and parent.height <= closed.height:
            parent.height = closed.height + 1
        if start.flow_style:
            closed.end = event.end_mark
            if type(closed.data) is dict and self._is_unquoted_template(closed):
                return self._read_unquoted_template(closed)
        return closed.data, closed

    def _resolve_plain(self, event: Any) -> Scalar:
        text: str = event.value
        try:
            value = resolve_scalar(text)
        except ValueError as error:
            self._report("NP012", str(error), event, "quote it if it is text")
            return None
        if old_value := describe_yaml_1_1_value(text):
            message = (
                f"`{abbreviate(text)}` is {describe_value(value)} in YAML 1.2, but {old_value} in YAML 1.1"
            )
            boolean = f", or `{old_value}`" if old_value in ("true", "false") else ""
            self._report("NP006", message, event, f'write "{abbreviate(text)}" if it is text{boolean}')
        return value

    def _check_unusual_key(self, data: Any, node: Any, collection: Collection) -> Any:
        """Return the key for data that is not a new text, or `_IGNORED_KEY` if its value must be ignored."""
        if isinstance(node, Collection):
            if not self._is_unquoted_template(collection):
                self._report("NP012", "a key must be text, not a list or mapping", node)
            return _IGNORED_KEY
        if data == "<<" and node.implicit[0]:
            self._report("NP003", "merge keys are not supported", node, "write the keys out")
            return _IGNORED_KEY
        if not isinstance(data, str):
            kind, data = describe_value(data), node.value
            hint = f'write "{abbreviate(data)}"' if data else "write a name before the `:`"
            self._report("NP012", f"a key must be text, not {kind}", node, hint)
        if data in collection.data:
            first = collection.children[data][0]
            labels = [(first, "first occurrence")]
            self._report("NP002", f"duplicate key `{abbreviate(data)}`", node, labels=labels)
            return _IGNORED_KEY
        return data

    def _expand_alias(self, event: Any, parent: Collection | None, depth: int) -> tuple[Any, Any, int]:
        """Return data, node and size in nodes of the value that an alias stands for."""
        name = event.anchor
        if name not in self._anchors:
            hint = f"define `&{abbreviate(name)}` before its use, or quote the text"
            self._stop("NP001", f"unknown alias `*{abbreviate(name)}`", event, hint)
        target = self._anchors[name]
        if target is None:
            self._stop("NP005", f"alias `*{abbreviate(name)}` contains itself", event)
        self._aliased_count += target.size
        if self._aliased_count > MAX_ALIASED_NODES:
            self._stop("NP005", f"aliases expand to more than {MAX_ALIASED_NODES:,} nodes", event)
        self._aliased_characters += target.characters
        if self._aliased_characters > MAX_ALIASED_CHARACTERS:
            message = f"aliases expand to more than {MAX_ALIASED_CHARACTERS:,} characters"
            self._stop("NP005", message, event)
        if depth + target.height > MAX_DEPTH:
            self._stop("NP004", _TOO_DEEP, event)
        if parent is not None and parent.height <= target.height:
            parent.height = target.height + 1
        return target.data, target.node, target.size

    def _refuse_tag(self, event: Any) -> None:
        mark = event.start_mark
        tag = _TAG.search(self._text, mark.index)
        start, end = tag.span() if tag else (mark.index, mark.index)
        span = Span(*position(self._text, start, mark), *position(self._text, end, mark))
        self._diagnostics.add(
            "NP003", "tags are not supported", span, "remove the tag; quotes make a value text"
        )

    def _is_unquoted_template(self, mapping: Collection) -> bool:
        return self._text.startswith("{{", mapping.start.start_mark.index)

    def _read_unquoted_template(self, mapping: Collection) -> tuple[str, Any]:
        """Report an unquoted template, a mapping in a mapping to YAML; return its text and node."""
        start = mapping.start.start_mark
        source = self._text[start.index : mapping.end.index]
        node = yaml.ScalarEvent(None, None, (True, False), source, start, mapping.end)
        self._report("NP012", "a template must be quoted", node, _quoting_hint(source))
        return source, node

    def _stop(self, code: str, message: str, node: Any, hint: str | None = None) -> NoReturn:
        self._report(code, message, node, hint)
        raise _ReadingStopped

    def _report(
        self,
        code: str,
        message: str,
        node: Any,
        hint: str | None = None,
        labels: Sequence[tuple[Any, str]] = (),
    ) -> None:
        spans = [Label(span_of(self._text, labelled_node), text) for labelled_node, text in labels]
        self._diagnostics.add(code, message, span_of(self._text, node), hint, labels=spans)


def _quoting_hint(source: str) -> str:
    return f"write '{abbreviate(source)}'" if '"' in source else f'write "{abbreviate(source)}"'


def _move_pair(match: re.Match[str]) -> str:
    return match[1] + "".join(f"\\u{int(half, 16) + _SURROGATE_OFFSET:04x}" for half in match.group(2, 3))


def _restore_pairs(value: str, event: Any, text: str) -> str:
    originals = _ESCAPED_PAIR.finditer(text, event.start_mark.index, event.end_mark.index)
    if event.style == '"':
        return _MOVED_PAIR.sub(_join_pair, value) if next(originals, None) else value
    return _MOVED_ESCAPES.sub(lambda moved: next(originals, moved)[0][-12:], value)


def _join_pair(match: re.Match[str]) -> str:
    return (
        "".join(chr(ord(half) - _SURROGATE_OFFSET) for half in match.groups())
        .encode("utf-16", "surrogatepass")
        .decode("utf-16")
    )
