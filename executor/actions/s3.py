"""`s3`: objects of a bucket, in the formats of `file`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from noetl.executor.actions._formats import FORMATS, FormatError, decode, encode
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

MAX_BYTES = 256 * 1024 * 1024
MAX_OBJECTS = 100_000

_URI = re.compile(r"s3://(?P<bucket>[^/\s]+)(?:/(?P<key>.*))?", re.DOTALL)


def _is_no_object(uri: str) -> str | None:
    found = _URI.fullmatch(uri)
    return None if found and found["key"] else "write `s3://BUCKET/KEY`"


def _is_no_prefix(uri: str) -> str | None:
    return None if _URI.fullmatch(uri) else "write `s3://BUCKET/PREFIX`"


DECLARATION = ActionDeclaration(
    type="s3",
    description="Reads, writes, lists or deletes objects of a bucket.",
    parameters={
        "get": Parameter(
            (Kind.STRING,),
            "The object to read, as `s3://BUCKET/KEY`. Its content is the result.",
            refuses=_is_no_object,
        ),
        "put": Parameter(
            (Kind.STRING,),
            "The object to write, as `s3://BUCKET/KEY`. Its result is `{uri, bytes, etag}`.",
            requires=("content",),
            refuses=_is_no_object,
        ),
        "list": Parameter(
            (Kind.STRING,),
            "What the objects begin with, as `s3://BUCKET/PREFIX`. The result is a list of"
            " `{uri, key, bytes, etag, modified_at}`, in the order of their keys.",
            refuses=_is_no_prefix,
        ),
        "delete": Parameter(
            (Kind.STRING,),
            "The object to delete; one that is not there is no failure. Its result is `{uri}`.",
            refuses=_is_no_object,
        ),
        "content": Parameter((Kind.ANY,), "What to write."),
        "format": Parameter(
            (Kind.STRING,),
            "How the object is written: `text` unless given. A CSV header may say types, as with `file`.",
            choices=FORMATS,
        ),
    },
    one_of=("get", "put", "list", "delete"),
)

_CHUNK_BYTES = 1024 * 1024
_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
}


def perform(call: Call) -> Any:
    from noetl.executor.clients import aws

    verb = next(verb for verb in _VERBS if verb in call.parameters)
    uri = call.parameters[verb]
    bucket, key = _place(uri)
    try:
        return aws.in_time(
            call.remaining_seconds(), f"`{uri}`", lambda: _VERBS[verb](aws.client("s3"), bucket, key, call)
        )
    except FormatError as error:
        raise ActionError("FileError", f"`{uri}`: {error}", retryable=False) from None


def _place(uri: str) -> tuple[str, str]:
    found = _URI.fullmatch(uri)
    assert found is not None
    if found["bucket"] == os.environ.get("NOETL_BUCKET"):
        raise ActionError(
            "AccessDenied",
            f"the bucket {found['bucket']!r} holds the state of runs (NOETL_BUCKET)",
            retryable=False,
        )
    return found["bucket"], found["key"] or ""


def _get(s3: Any, bucket: str, key: str, call: Call) -> Any:
    raw = bytearray()
    with closing(s3.get_object(Bucket=bucket, Key=key)["Body"]) as body:
        for chunk in body.iter_chunks(_CHUNK_BYTES):
            call.remaining_seconds()
            raw += chunk
            if len(raw) > MAX_BYTES:
                message = f"`s3://{bucket}/{key}` is longer than {MAX_BYTES:,} bytes"
                raise ActionError("LimitExceeded", message, retryable=False)
    try:
        return decode(raw.decode("utf-8-sig"), call.parameters.get("format", "text"))
    except UnicodeDecodeError:
        raise FormatError("it is not UTF-8") from None


def _put(s3: Any, bucket: str, key: str, call: Call) -> dict[str, Any]:
    format = call.parameters.get("format", "text")
    try:
        raw = encode(call.parameters["content"], format).encode()
    except UnicodeEncodeError:
        raise FormatError("it has half of a surrogate pair in it") from None
    answer = s3.put_object(Bucket=bucket, Key=key, Body=raw, ContentType=_MEDIA_TYPES[format])
    return {"uri": f"s3://{bucket}/{key}", "bytes": len(raw), "etag": _etag(answer)}


def _list(s3: Any, bucket: str, prefix: str, call: Call) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        call.remaining_seconds()
        found += [
            {
                "uri": f"s3://{bucket}/{entry['Key']}",
                "key": entry["Key"],
                "bytes": entry["Size"],
                "etag": _etag(entry),
                "modified_at": entry["LastModified"].isoformat(),
            }
            for entry in page.get("Contents", ())
        ]
        if len(found) > MAX_OBJECTS:
            message = f"more than {MAX_OBJECTS:,} objects begin with `s3://{bucket}/{prefix}`"
            raise ActionError("LimitExceeded", message, retryable=False)
    return found


def _delete(s3: Any, bucket: str, key: str, call: Call) -> dict[str, Any]:
    s3.delete_object(Bucket=bucket, Key=key)
    return {"uri": f"s3://{bucket}/{key}"}


_VERBS: dict[str, Callable[[Any, str, str, Call], Any]] = {
    "get": _get,
    "put": _put,
    "list": _list,
    "delete": _delete,
}


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
