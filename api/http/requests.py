"""What HTTP is asked with: bodies read within a bound and decoded strictly, headers and queries likewise."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request
from noetl.api.http.problems import Problem
from noetl.planner.diagnostics.diagnostic import suggest

MAX_BODY_BYTES = 1024 * 1024
MAX_DEPTH = 100
MAX_WAIT_SECONDS = 25

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
JSON_TYPE = "application/json"

_SUBMISSION_KEYS = ("playbook", "input", "variables", "tags")
_MAX_TAGS = 50
_MAX_TAG_LENGTH = 100

_FOLDED_BY_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON text may hold as they are, and that YAML refuses or takes for line breaks."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A playbook of the registry: a version of it, or the newest."""

    name: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A playbook, as text or by reference, and what it is to be run with."""

    playbook: str | bytes | Reference
    input: Mapping[str, Any]
    variables: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Resumption:
    """Corrected input for a run that is resumed, and the step that a new run is to go on from instead."""

    input: Mapping[str, Any] | None = None
    step: str | None = None


async def read_submission(request: Request) -> Submission:
    """The playbook that a request carries as YAML, or in an object of JSON with what belongs to it.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    content_type = _content_type(request, (*YAML_TYPES, JSON_TYPE))
    body = await _read(request)
    if content_type == JSON_TYPE:
        known_query(request, ())
        return _submission(decode_json(body, "The body"))
    known_query(request, ("input",))
    text = request.query_params.get("input")
    given = (
        {}
        if text is None
        else decode_json(text.encode("utf-8", "surrogatepass"), "The query parameter `input`")
    )
    if not isinstance(given, dict):
        raise Problem(400, "The query parameter `input` must be a JSON object.", slug="invalid-request")
    return Submission(body, given)


async def read_playbook(request: Request) -> str | bytes:
    """The playbook that a request carries as YAML, or in an object of JSON.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    content_type = _content_type(request, (*YAML_TYPES, JSON_TYPE))
    body = await _read(request)
    known_query(request, ())
    return (
        _text(_members(decode_json(body, "The body"), ("playbook",))) if content_type == JSON_TYPE else body
    )


async def read_resumption(request: Request) -> Resumption:
    """What a request to resume says, which may be nothing.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    body = await _read(request)
    if not body:
        return Resumption()
    _content_type(request, (JSON_TYPE,))
    members = _members(decode_json(body, "The body"), ("input", "from"))
    step = members.get("from")
    if step is not None and not isinstance(step, str):
        raise _invalid("`from` must be the name of a step.", "from")
    return Resumption(_object(members, "input"), step)


async def read_answer(request: Request) -> Any:
    """The JSON value that a request carries; null when its body is empty.

    Raises:
        Problem: 400, 413 or 415.
    """
    body = await _read(request)
    if not body:
        return None
    _content_type(request, (JSON_TYPE,))
    return decode_json(body, "The body")


def decode_json(body: bytes, subject: str) -> Any:
    """The value of JSON text, where every reader would find the same one.

    Raises:
        Problem: 400, when it is not UTF-8 or not JSON, has a key twice, a number that JSON has no word for, half a
            surrogate pair, or more than 100 levels.
    """

    def refuse(reason: str) -> NoReturn:
        raise Problem(400, f"{subject} {reason}.", slug="malformed-json", title="Malformed JSON")

    def constant(name: str) -> NoReturn:
        refuse(f"holds `{name}`, which is not JSON")

    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            refuse(f"holds a number out of range, {text[:40]}")
        return value

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            refuse(f"has the key `{repeated[:100]}` twice in one object")
        return result

    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=constant, parse_float=number, object_pairs_hook=mapping
        )
    except UnicodeDecodeError as error:
        refuse(f"is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        refuse(f"is not JSON: {error.msg}, line {error.lineno}, column {error.colno}")
    except RecursionError:
        refuse(f"is nested more than {MAX_DEPTH} levels deep")
    except ValueError:
        refuse("holds an integer with too many digits")
    if _depth_exceeds(value, MAX_DEPTH):
        refuse(f"is nested more than {MAX_DEPTH} levels deep")
    if b"\\u" in body and not _is_unicode(value):
        refuse("holds half of a surrogate pair")
    return value


def known_query(request: Request, known: Iterable[str]) -> None:
    """Nothing happens if the query has only these parameters, each once.

    Raises:
        Problem: 400 otherwise.
    """
    known = tuple(known)
    for name in request.query_params:
        if name not in known:
            hint = suggest(name, known)
            raise Problem(
                400,
                f"There is no query parameter `{name[:100]}` here" + (f"; {hint}" if hint else "."),
                slug="invalid-request",
            )
        if len(request.query_params.getlist(name)) > 1:
            raise Problem(400, f"The query parameter `{name}` is given twice.", slug="invalid-request")


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` of a request, if it has one.

    Raises:
        Problem: 400, when it is not 1 to 255 printable ASCII characters, or there are two.
    """
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(r"[\x20-\x7e]{1,255}", given[0]):
        raise Problem(
            400,
            "An Idempotency-Key is given once, as 1 to 255 printable ASCII characters.",
            slug="invalid-request",
        )
    return given[0]


def preferred_wait_seconds(request: Request) -> int | None:
    """The N of `Prefer: wait=N` (RFC 7240), at most `MAX_WAIT_SECONDS`; None without one, or when it makes no sense."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and re.fullmatch(r"\d{1,9}", value, re.ASCII):
            return min(int(value), MAX_WAIT_SECONDS)
    return None


def accepts(request: Request, media_type: str) -> bool:
    """Whether a request names this media type in its `Accept`."""
    return any(
        offered.partition(";")[0].strip().lower() == media_type
        for offered in ",".join(request.headers.getlist("accept")).split(",")
    )


async def _read(request: Request) -> bytes:
    too_large = Problem(
        413,
        f"A body may have {MAX_BODY_BYTES:,} bytes at most.",
        slug="too-large",
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise too_large
    return bytes(body)


def _content_type(request: Request, supported: tuple[str, ...]) -> str:
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    # `get_content_type` would take an absent or broken type for text/plain, which is not supported either.
    content_type = header.get_content_type()
    charset = str(header.get_param("charset", "utf-8")).lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if content_type in supported and charset in ("utf-8", "utf8") and encoding == "identity":
        return content_type
    raise Problem(
        415,
        f"The body must be {' or '.join(supported)}, in UTF-8 and not compressed.",
        slug="unsupported-media-type",
        headers={"Accept-Post": ", ".join(supported)},
    )


def _submission(body: Any) -> Submission:
    members = _members(body, _SUBMISSION_KEYS)
    playbook = _reference(members.get("playbook")) or _text(members)
    tags = members.get("tags") or []
    if (
        not isinstance(tags, list)
        or len(tags) > _MAX_TAGS
        or not all(isinstance(tag, str) and 0 < len(tag) <= _MAX_TAG_LENGTH for tag in tags)
    ):
        raise _invalid(
            f"`tags` must be at most {_MAX_TAGS} texts of 1 to {_MAX_TAG_LENGTH} characters.", "tags"
        )
    return Submission(playbook, _object(members, "input") or {}, _object(members, "variables"), tuple(tags))


def _reference(playbook: Any) -> Reference | None:
    """The reference that an object is which says nothing but a name and perhaps a version."""
    if not isinstance(playbook, dict) or "name" not in playbook or not playbook.keys() <= {"name", "version"}:
        return None
    name, version = playbook["name"], playbook.get("version")
    if not isinstance(name, str) or not isinstance(version, str | None):
        raise _invalid("A playbook of the registry is named by `name` and `version`, both text.", "playbook")
    return Reference(name, version)


def _text(members: Mapping[str, Any]) -> str:
    """The text of the member `playbook`."""
    if "playbook" not in members:
        raise _invalid("The body has no `playbook`.", "playbook")
    playbook = members["playbook"]
    if isinstance(playbook, dict):
        return _as_yaml(playbook)
    if not isinstance(playbook, str):
        raise _invalid("`playbook` must be the text of a playbook or an object.", "playbook")
    return playbook


def _members(body: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _invalid("The body must be a JSON object.", None)
    for key in body:
        if key not in known:
            hint = suggest(key, known) or f"the keys are {', '.join(f'`{name}`' for name in known)}"
            raise _invalid(f"The body has an unknown key, `{key[:100]}`; {hint}", key)
    return body


def _object(members: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = members.get(key)
    if value is not None and not isinstance(value, dict):
        raise _invalid(f"`{key}` must be an object.", key)
    return value


def _invalid(detail: str, key: str | None) -> Problem:
    return Problem(422, detail, slug="invalid-body", key=key)


def _as_yaml(playbook: dict[str, Any]) -> str:
    text = json.dumps(playbook, ensure_ascii=False, indent=2)
    return _FOLDED_BY_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
