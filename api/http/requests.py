"""Strict reading of the bodies of requests, within a size limit.

Problem: a client chooses the text of a body. JSON must have the same value for every parser. So a repeated
key, a number out of range, or half a surrogate pair is an error. And no body may hold the event loop, on
which every other request waits.

Algorithm: the size is checked while a body arrives, and the depth before it is decoded: the
running sum of its brackets, outside of strings. A body of more than MAX_INLINE_BYTES is decoded on a thread.
MAX_DECODERS threads exist for that, so large bodies do not take those of other requests.

Cost: the check of the depth is linear, a third of the time of decoding at most.

Limits: MAX_BODY_BYTES and MAX_DEPTH.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import Request
from starlette.requests import ClientDisconnect

from noetl.api.http.body_memory import expect_body, release_body, settle_body, wait_for_memory
from noetl.api.http.openapi import FORM_TYPE, JSON_TYPE, YAML_TYPES
from noetl.api.http.problems import Problem
from noetl.api.service.changed_restarts import ChangedRestart
from noetl.api.service.channels import ChannelRequest
from noetl.api.service.compiler import InlinePlaybook, PlanSource, PlaybookReference
from noetl.api.service.inbox import AnswerRequest
from noetl.api.service.past_restarts import PastRestart
from noetl.api.service.runs import ResumeRequest
from noetl.api.service.switches import PlaybookChange
from noetl.api.service.triggers import FireRequest
from noetl.executor.clients.content_type import parse_content_type
from noetl.executor.engine.backfill_start import BackfillRequest
from noetl.executor.model.backfills import RetryMode
from noetl.executor.model.gates import LimitKind
from noetl.executor.model.json_values import MAX_DEPTH, nests_deeper
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_tags import TagChange
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.redaction import redact
from noetl.planner.frozen import frozen
from noetl.planner.schedules.schedule import CatchUpMode
from noetl.planner.syntax.durations import parse_interval

if TYPE_CHECKING:
    from noetl.api.http.bodies import PlaybookReferenceBody, ResumeBody

MAX_BODY_BYTES = 1024 * 1024

MAX_DISCARDED_BYTES = 16 * 1024 * 1024
"""How much of a body that is too large is read, so that its client gets the response."""
_DISCARD_SECONDS = 2.0

MAX_INLINE_BYTES = 16 * 1024
"""Largest body that is decoded on the event loop, which takes a few milliseconds at most."""

MAX_FORM_FIELDS = 1000

MAX_DECODERS = 2
"""How many larger bodies are decoded at the same time."""

_decoders = CapacityLimiter(MAX_DECODERS)
Decoded = TypeVar("Decoded")

_SHOWN_NAME_LENGTH = 100

_NAME_ALONE = re.compile(r"(?!.*\.(?:ya?ml|json)$)[A-Za-z_][\w./-]{0,99}(?:@[\w.-]{1,50})?")
"""The name of a playbook, maybe with a version, and no path of a file. YAML does not read it as a mapping."""

_NOT_PLAIN_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that may stand unescaped in JSON, and that YAML refuses or reads as line breaks."""


async def read_submission(request: Request, input_text: str | None) -> tuple[PlanSource, StartRequest]:
    """Return the playbook of a request, and with what a run of it starts.

    The playbook is sent as YAML, or as a member of a JSON object. `input_text` is the query parameter
    `input`, which belongs to YAML.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    content_type = _content_type(request, (*YAML_TYPES, JSON_TYPE))
    body = await _read_body(request)
    if content_type == JSON_TYPE:
        if input_text is not None:
            detail = (
                "The query parameter `input` is for a body of YAML. In JSON, `input` is a member of the body."
            )
            raise Problem(400, detail, slug="invalid-request")
        return await _decode(request, body, _parse_submission)
    if input_text is None:
        return InlinePlaybook(body), StartRequest()
    input = decode_json(input_text.encode("utf-8", "surrogatepass"), "The query parameter `input`")
    if not isinstance(input, dict):
        raise Problem(400, "The query parameter `input` must be a JSON object.", slug="invalid-request")
    return InlinePlaybook(body), StartRequest(redact(input))


async def read_playbook(request: Request) -> str | bytes:
    """Return the playbook of a request, sent as YAML, or as the only member of a JSON object.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import PlaybookBody, parse_body

    content_type = _content_type(request, (*YAML_TYPES, JSON_TYPE))
    body = await _read_body(request)
    if content_type != JSON_TYPE:
        return body
    return await _decode(
        request, body, lambda value: _playbook_text(parse_body(PlaybookBody, value).playbook)
    )


async def read_draft_request(request: Request) -> tuple[str, int | None]:
    """Return the text of a draft, and the line at which a person writes.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import DraftBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    draft = await _decode(request, body, lambda value: parse_body(DraftBody, value))
    return draft.text, draft.line


async def read_resume_request(
    request: Request, key: str | None
) -> ResumeRequest | PlaybookChange | PastRestart | ChangedRestart:
    """Return a request to resume a run with its `Idempotency-Key`. The body may be empty.

    It names another version of the playbook, an event at which a new run starts, both or neither.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import ResumeBody, parse_body

    body = await _read_body(request)
    if not body:
        return ResumeRequest(idempotency_key=key)
    _content_type(request, (JSON_TYPE,))
    resume = await _decode(request, body, lambda value: parse_body(ResumeBody, value))
    if resume.playbook is not None:
        change = _playbook_change(resume, key)
        return change if resume.step is None and resume.event is None else _changed_restart(resume, change)
    for name, value in (("set", resume.given), ("map", resume.renamed), ("wait", resume.wait)):
        if value is not None:
            raise Problem(422, f"`{name}` needs a `playbook`.", slug="conflicting-members")
    if resume.event is not None:
        return _past_restart(resume, resume.event, key)
    if resume.drop_siblings and resume.step is None:
        raise Problem(422, "`drop_siblings` needs `from`.", slug="conflicting-members")
    for name, value in (("skip", resume.skip), ("all_items", resume.all_items)):
        if value and resume.step is not None:
            detail = f"`{name}` continues the run, and `from` starts a new one."
            raise Problem(422, detail, slug="conflicting-members")
    return ResumeRequest(
        resume.input or {},
        resume.step,
        key,
        drops_siblings=resume.drop_siblings,
        skips=resume.skip or {},
        is_dry_run=resume.dry_run,
        all_items=resume.all_items,
    )


def _playbook_change(resume: ResumeBody, key: str | None) -> PlaybookChange:
    assert resume.playbook is not None
    if resume.drop_siblings and resume.step is None:
        raise Problem(422, "`drop_siblings` needs `from`.", slug="conflicting-members")
    return PlaybookChange(
        _playbook_source(resume.playbook),
        resume.renamed or {},
        {**(resume.input or {}), **(resume.given or {})},
        resume.wait or 0.0,
        idempotency_key=key,
        skips=resume.skip or {},
        is_dry_run=resume.dry_run,
        all_items=resume.all_items,
    )


def _changed_restart(resume: ResumeBody, change: PlaybookChange) -> ChangedRestart:
    place = "at" if resume.step is None else "from"
    given = (("skip", resume.skip), ("wait", resume.wait), ("all_items", resume.all_items))
    for name, value in given:
        if value:
            detail = f"`{name}` continues the run, and `{place}` starts a new one."
            raise Problem(422, detail, slug="conflicting-members")
    if resume.step is not None and resume.event is not None:
        detail = "`at` starts a new run from an event; leave out `from` or `at`."
        raise Problem(422, detail, slug="conflicting-members")
    return ChangedRestart(change, resume.step, resume.event, resume.drop_siblings)


def _past_restart(resume: ResumeBody, event: str, key: str | None) -> PastRestart:
    for name, value in (
        ("from", resume.step),
        ("skip", resume.skip),
        ("drop_siblings", resume.drop_siblings),
        ("all_items", resume.all_items),
    ):
        if value:
            detail = f"`at` starts a new run from an event; leave out `{name}` or `at`."
            raise Problem(422, detail, slug="conflicting-members")
    return PastRestart(event, resume.input or {}, key, is_dry_run=resume.dry_run)


async def read_answer_request(request: Request) -> AnswerRequest:
    """Return an answer to a question of a step.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import AnswerBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    answer = await _decode(request, body, lambda value: parse_body(AnswerBody, value))
    return AnswerRequest(answer.step, answer.answer, answer.visit, answer.position)


async def read_tag_change(request: Request) -> TagChange:
    """Return a change of the tags of a run.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import TagsBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    change = await _decode(request, body, lambda value: parse_body(TagsBody, value))
    return TagChange(tuple(change.add), tuple(change.remove))


async def read_fire_request(request: Request, key: str | None) -> FireRequest:
    """Return a request to fire a trigger by hand with its `Idempotency-Key`. The body may be empty.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import FireBody, parse_body

    body = await _read_body(request)
    if not body:
        return FireRequest(idempotency_key=key)
    _content_type(request, (JSON_TYPE,))
    fire = await _decode(request, body, lambda value: parse_body(FireBody, value))
    instant = None if fire.instant is None else datetime.fromisoformat(fire.instant.upper()).timestamp()
    return FireRequest(instant, fire.input or {}, key, fire.data, fire.run)


async def read_limit_request(request: Request) -> tuple[int, LimitKind, float | None]:
    """Return the units, the kind and the window of a limit as a request declares them.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import LimitBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    declared = await _decode(request, body, lambda value: parse_body(LimitBody, value))
    per = None if declared.per is None else float(declared.per)
    return declared.units, LimitKind(declared.kind), per


async def read_channel_request(request: Request) -> ChannelRequest:
    """Return a channel as a request declares it.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import ChannelBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    declared = await _decode(request, body, lambda value: parse_body(ChannelBody, value))
    return ChannelRequest(declared.url, declared.type, tuple(declared.events), declared.secret)


async def read_alias_version(request: Request) -> str:
    """Return the version that an alias names, as a request declares it.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import AliasBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    return (await _decode(request, body, lambda value: parse_body(AliasBody, value))).version


async def read_catch_up(request: Request) -> CatchUpMode:
    """Return which missed firings a resumed trigger performs. The body may be empty.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import TriggerResumeBody, parse_body

    body = await _read_body(request)
    if not body:
        return "none"
    _content_type(request, (JSON_TYPE,))
    return (await _decode(request, body, lambda value: parse_body(TriggerResumeBody, value))).catch_up


async def read_backfill_start(request: Request, key: str | None) -> tuple[str, str, BackfillRequest]:
    """Return a playbook, its trigger, and a request to start a backfill with its `Idempotency-Key`.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import BackfillBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    given = await _decode(request, body, lambda value: parse_body(BackfillBody, value))
    interval = None if given.interval is None else parse_interval(given.interval)
    start = BackfillRequest(
        given.start, given.end, interval, given.partitions, given.limit, given.redo, idempotency_key=key
    )
    return given.playbook, given.trigger, start


async def read_backfill_cancellation(request: Request) -> bool:
    """Return whether a cancelled backfill cancels its open runs. The body may be empty.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import BackfillCancelBody, parse_body

    body = await _read_body(request)
    if not body:
        return False
    _content_type(request, (JSON_TYPE,))
    return (await _decode(request, body, lambda value: parse_body(BackfillCancelBody, value))).runs


async def read_backfill_retry(request: Request) -> RetryMode:
    """Return what happens to the failed runs of a backfill. The body may be empty.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import BackfillRetryBody, parse_body

    body = await _read_body(request)
    if not body:
        return "resume"
    _content_type(request, (JSON_TYPE,))
    retry = await _decode(request, body, lambda value: parse_body(BackfillRetryBody, value))
    return "fresh" if retry.fresh else "resume"


async def read_run_selection(request: Request, run_filter: RunFilter | None) -> Sequence[str] | RunFilter:
    """Return the ids of runs in the body of a request, or the filter of its query.

    Raises:
        Problem: 400, 413, 415 or 422; also if there are both, or neither.
    """
    from noetl.api.http.bodies import BulkBody, parse_body

    body = await _read_body(request)
    if body and run_filter is None:
        _content_type(request, (JSON_TYPE,))
        return (await _decode(request, body, lambda value: parse_body(BulkBody, value))).ids
    if body or run_filter is None:
        problem = "has both" if body else "has neither"
        detail = f"The request names runs by `ids` in the body, or by a filter in the query; it {problem}."
        raise Problem(400, detail, slug="ambiguous-selection")
    return run_filter


@frozen
class Migration:
    """A request to let many runs continue in another version: which runs, and how.

    Without a `change`, they return to the versions that they had before.
    """

    selection: Sequence[str] | RunFilter
    change: PlaybookChange | None
    is_dry_run: bool


async def read_migration(request: Request, run_filter: RunFilter | None) -> Migration:
    """Return a request to let many runs continue in another version. The body or the query names the runs.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    from noetl.api.http.bodies import MigrationBody, parse_body

    body = await _read_body(request)
    _content_type(request, (JSON_TYPE,))
    migration = await _decode(request, body, lambda value: parse_body(MigrationBody, value))
    selection = migration.ids if run_filter is None else run_filter
    if selection is None or (migration.ids is not None and run_filter is not None):
        problem = "has neither" if selection is None else "has both"
        detail = f"The request names runs by `ids` in the body, or by a filter in the query; it {problem}."
        raise Problem(400, detail, slug="ambiguous-selection")
    if migration.undo:
        for name in ("playbook", "renamed", "given"):
            if getattr(migration, name) is not None:
                member = {"renamed": "map", "given": "set"}.get(name, name)
                detail = f"`undo` returns to the version before; leave out `{member}` or `undo`."
                raise Problem(422, detail, slug="conflicting-members")
        return Migration(selection, None, migration.dry_run)
    if migration.playbook is None:
        raise Problem(422, "A migration needs a `playbook`, or `undo`.", slug="conflicting-members")
    change = PlaybookChange(
        _playbook_source(migration.playbook), migration.renamed or {}, migration.given or {}
    )
    return Migration(selection, change, migration.dry_run)


@frozen
class FormBody:
    """The texts of a form that a browser has sent, by the names of its fields."""

    texts: Mapping[str, str]


async def read_callback_answer(request: Request) -> Any:
    """Return the JSON value in the body of a request, or None if the body is empty; of a form a FormBody.

    Raises:
        Problem: 400, 413 or 415.
    """
    body = await _read_body(request)
    if not body:
        return None
    if _content_type(request, (JSON_TYPE, FORM_TYPE)) == FORM_TYPE:
        return FormBody(_parse_form(body))
    return await _decode(request, body, lambda value: value)


def _parse_form(body: bytes) -> dict[str, str]:
    """Return the texts of a form.

    Raises:
        Problem: 400.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:
        detail = f"The body is not a form of at most {MAX_FORM_FIELDS:,} fields in UTF-8."
        raise Problem(400, detail, slug="malformed-form") from None
    texts = dict(pairs)
    if len(texts) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        name = next(name for name, count in counts.items() if count > 1)
        detail = f"The form has the field `{name[:_SHOWN_NAME_LENGTH]}` twice."
        raise Problem(400, detail, slug="malformed-form")
    return texts


async def _decode(
    request: Request, body: bytes, read: Callable[[Any], Decoded], tenant: str | None = None
) -> Decoded:
    """Return what `read` makes of the JSON value in a body, which counts for `tenant` if it is known.

    Raises:
        Problem: 400, or what `read` raises.
    """

    def decode() -> Decoded:
        return read(decode_json(body, "The body"))

    await wait_for_memory(request, body, tenant)
    if len(body) <= MAX_INLINE_BYTES:
        return decode()
    return await to_thread.run_sync(decode, limiter=_decoders)


def decode_json(body: bytes, subject: str) -> Any:
    """Decode JSON strictly. `subject` names the text in the message of a problem.

    Raises:
        Problem: 400, if the text is not UTF-8 or not JSON, repeats a key, has a number out of range, half a
            surrogate pair, or more than 100 levels.
    """
    try:
        return _decode_strictly(body)
    except _MalformedJsonError as error:
        detail = f"{subject} {error}."
        raise Problem(400, detail, slug="malformed-json") from None


async def parse_webhook_body(request: Request, body: bytes, tenant: str | None) -> Any:
    """Return what the body of a request to a webhook means: JSON, the texts of a form, or text.

    An empty body is None. The values count for `tenant`, or without one for the address of the sender.

    Raises:
        Problem: 400 or 415.
    """
    if not body:
        return None
    is_plain = request.headers.get("content-encoding", "identity").lower() == "identity"
    content_type = parse_content_type(request.headers.get("content-type", "")).media_type
    if is_plain and (content_type == JSON_TYPE or content_type.endswith("+json")):
        return await _decode(request, body, lambda value: value, tenant)
    if is_plain and content_type == FORM_TYPE:
        return _parse_form(body)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or not is_plain:
        detail = "The body must be JSON, a form or text, in UTF-8 and not compressed."
        types = {"Accept-Post": f"{JSON_TYPE}, {FORM_TYPE}, text/plain"}
        raise Problem(415, detail, slug="unsupported-media-type", headers=types)
    return text


async def _read_body(request: Request) -> bytes:
    return await read_limited_body(request, MAX_BODY_BYTES)


def has_large_body(request: Request) -> bool:
    """Return whether the body of a request may take long to use, as far as its length is declared."""
    length = request.headers.get("content-length", "")
    return not length.isdecimal() or int(length[:20]) > MAX_INLINE_BYTES


async def read_limited_body(request: Request, max_bytes: int) -> bytes:
    """Return the bytes of the body of a request.

    Raises:
        Problem: 413, if there are more than `max_bytes`.
    """
    too_large = Problem(
        413,
        f"The body must have at most {max_bytes:,} bytes.",
        slug="too-large",
        headers={"Connection": "close"},
    )
    declared_length = request.headers.get("content-length", "")
    is_number = declared_length.isascii() and declared_length.isdigit()
    length = int(declared_length[:20]) if is_number else 0
    chunks = request.stream()
    if length > max_bytes:
        if length <= MAX_DISCARDED_BYTES and "expect" not in request.headers:
            await _discard(chunks)
        raise too_large
    expect_body(request, length if is_number else max_bytes)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            body.clear()
            release_body(request)
            await _discard(chunks)
            raise too_large
    settle_body(request, len(body))
    return bytes(body)


async def _discard(chunks: AsyncIterator[bytes]) -> None:
    """Read the rest of a body that is refused, within limits.

    Many clients write all of a body before they read. If the connection is closed before, they report that,
    and not the response.
    """
    size = 0
    with move_on_after(_DISCARD_SECONDS), suppress(ClientDisconnect, Problem):
        async for chunk in chunks:
            size += len(chunk)
            if size > MAX_DISCARDED_BYTES:
                return


def _content_type(request: Request, supported_types: tuple[str, ...]) -> str:
    declared = parse_content_type(request.headers.get("content-type", ""))
    encoding = request.headers.get("content-encoding", "identity").lower()
    is_plain = declared.charset in ("", "utf-8", "utf8") and encoding == "identity"
    if declared.media_type in supported_types and is_plain:
        return declared.media_type
    raise Problem(
        415,
        f"The body must be {' or '.join(supported_types)}, in UTF-8 and not compressed.",
        slug="unsupported-media-type",
        headers={"Accept-Post": ", ".join(supported_types)},
    )


class _MalformedJsonError(Exception):
    """A defect of JSON text. The message continues a sentence about the text."""


def _decode_strictly(body: bytes) -> Any:
    if not body.strip():
        raise _MalformedJsonError("is empty; it must be JSON")
    too_deep = f"is nested more than {MAX_DEPTH} levels deep"
    if nests_deeper(body, MAX_DEPTH):
        raise _MalformedJsonError(too_deep)
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            object_pairs_hook=_parse_object,
        )
    except UnicodeDecodeError as error:
        raise _MalformedJsonError(f"is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise _MalformedJsonError(f"is not JSON: {error.msg}, {position}") from error
    except RecursionError as error:
        raise _MalformedJsonError(too_deep) from error
    except ValueError as error:
        raise _MalformedJsonError("has an integer with too many digits") from error
    if _depth_exceeds(value, MAX_DEPTH):
        raise _MalformedJsonError(too_deep)
    if b"\\u" in body and not _is_unicode(value):
        raise _MalformedJsonError("has half of a surrogate pair")
    return value


def _refuse_constant(name: str) -> Any:
    raise _MalformedJsonError(f"has `{name}`, which is not JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _MalformedJsonError(f"has a number out of range, {text[:40]}")
    return value


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated_key = next(key for key, count in counts.items() if count > 1)
        raise _MalformedJsonError(f"has the key `{repeated_key[:_SHOWN_NAME_LENGTH]}` twice in one object")
    return members


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


def _parse_submission(value: Any) -> tuple[PlanSource, StartRequest]:
    from noetl.api.http.bodies import SubmissionBody, parse_body

    body = parse_body(SubmissionBody, value)
    start = StartRequest(body.input or {}, body.variables, tuple(body.tags or ()))
    return _playbook_source(body.playbook), start


def _playbook_source(playbook: str | PlaybookReferenceBody | dict[str, Any]) -> PlanSource:
    if isinstance(playbook, str) and _NAME_ALONE.fullmatch(playbook):
        raise Problem(422, _describe_name(playbook), slug="invalid-body", key="playbook")
    if isinstance(playbook, str | dict):
        return InlinePlaybook(_playbook_text(playbook))
    return PlaybookReference(playbook.name, playbook.version)


def _describe_name(text: str) -> str:
    """Return what is wrong with a body that has the name of a playbook instead of its text.

    >>> _describe_name("shop/orders@2")  # doctest: +ELLIPSIS
    '`playbook` is a name, not the text ... one is written as {"name": "shop/orders", "version": "2"}.'
    """
    name, _, version = text.strip().partition("@")
    reference = {"name": name} | ({"version": version} if version else {})
    shown = json.dumps(reference, ensure_ascii=False)
    return f"`playbook` is a name, not the text of a playbook; a registered one is written as {shown}."


def _playbook_text(playbook: str | dict[str, Any]) -> str:
    return playbook if isinstance(playbook, str) else _to_yaml(playbook)


def _to_yaml(playbook: dict[str, Any]) -> str:
    """Return JSON text of a playbook that YAML reads as the same value.

    It has lines, for the positions of findings, unless their indentation makes it too long for a playbook.
    """
    lines = json.JSONEncoder(ensure_ascii=False, indent=2).iterencode(playbook)
    parts, size = [], 0
    for part in lines:
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            parts = [json.dumps(playbook, ensure_ascii=False, separators=(",", ":"))]
            break
    text = "".join(parts)
    return _NOT_PLAIN_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
