"""`s3`: read, write, list and delete objects of a bucket, in the formats of `file`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from noetl.executor.actions._formats import ESCAPE_FORMULAS, FORMATS, FormatError, decode, encode_content
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import row_weight
from noetl.executor.security.allowed_sources import SOURCES_SETTING
from noetl.executor.security.service_resources import find_resource_setting
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.diagnostics.wording import quote_text, shorten

MAX_BYTES = 256 * 1024 * 1024
MAX_OBJECTS = 100_000

_BUCKET = re.compile(r"[\w.-]+", re.ASCII)
_ALIAS_ENDINGS = ("-s3alias", "--ol-s3", "--xa-s3", ".mrap")
"""The endings of the names of access points. No bucket may have one."""

_URI = re.compile(r"s3://(?P<bucket>[^/\s]+)(?:/(?P<key>.*))?", re.DOTALL)


def _check_object_uri(uri: str) -> str | None:
    match = _URI.fullmatch(uri)
    return None if match and match["key"] else "write `s3://BUCKET/KEY`"


def _check_prefix_uri(uri: str) -> str | None:
    return None if _URI.fullmatch(uri) else "write `s3://BUCKET/PREFIX`"


DECLARATION = ActionDeclaration(
    type="s3",
    extra=("aws", "boto3"),
    description="Reads, writes, lists or deletes objects of a bucket.",
    parameters={
        "get": Parameter(
            (Kind.STRING,),
            "The object to read, as `s3://BUCKET/KEY`. The result is its content.",
            rejection_reason=_check_object_uri,
        ),
        "put": Parameter(
            (Kind.STRING,),
            "The object to write, as `s3://BUCKET/KEY`. The result is `{uri, bytes, etag}`.",
            requires=("content",),
            rejection_reason=_check_object_uri,
        ),
        "list": Parameter(
            (Kind.STRING,),
            "The prefix of the objects, as `s3://BUCKET/PREFIX`. The result is a list of"
            " `{uri, key, bytes, etag, modified_at}`, sorted by key.",
            rejection_reason=_check_prefix_uri,
        ),
        "delete": Parameter(
            (Kind.STRING,),
            "The object to delete. A missing object is not an error. The result is `{uri}`.",
            rejection_reason=_check_object_uri,
        ),
        "content": Parameter((Kind.ANY,), "The content to write."),
        "format": Parameter(
            (Kind.STRING,),
            "The format of the object. Default: `text`. A CSV header may contain types, as with `file`.",
            choices=FORMATS,
        ),
        "escape_formulas": ESCAPE_FORMULAS,
    },
    one_of=("get", "put", "list", "delete"),
    reads_only_when=lambda parameters: "get" in parameters or "list" in parameters,
)

_MAX_URI = 4_096
"""Limit of the characters of an address. S3 limits a key to 1,024 bytes."""
_MAX_SHOWN_URI = 1_000
_CHUNK_BYTES = 1024 * 1024
_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
}


def perform(call: Call) -> Any:
    from noetl.executor.clients import aws

    operation = next(name for name in _OPERATIONS if name in call.parameters)
    uri = call.parameters[operation]
    bucket, key = _parse_uri(uri)
    _refuse_bucket_of_others(call, bucket)
    try:
        return aws.call_with_timeout(
            call.remaining_seconds(),
            _show(uri),
            lambda: _OPERATIONS[operation](aws.client("s3"), bucket, key, call),
            call.cancelled,
        )
    except FormatError as error:
        raise ActionError("FileError", f"{_show(uri)}: {error}", retryable=False) from None


def _show(uri: str) -> str:
    """Return an address as messages show it."""
    return f"`{shorten(uri, _MAX_SHOWN_URI)}`"


def _parse_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key.

    Some servers of S3 resolve dot segments and drop trailing dots, so that a name could mean another bucket.

    Raises:
        ActionError: `AccessDenied` for the bucket with the state of runs; `ParameterError`.
    """
    match, shown = _URI.fullmatch(uri), _show(uri)
    assert match is not None
    if len(uri) > _MAX_URI:
        message = f"{shown} is longer than {_MAX_URI:,} characters"
        raise ActionError("ParameterError", message, retryable=False)
    bucket_parts, key_parts = match["bucket"].split("."), re.split(r"[/\\]", match["key"] or "")
    if "" in bucket_parts or "\\" in match["bucket"] or {".", ".."} & {*key_parts}:
        message = f"{shown} must have no empty part of the bucket's name, and no `.` or `..` in its key"
        raise ActionError("ParameterError", message, retryable=False)
    if not _BUCKET.fullmatch(match["bucket"]) or match["bucket"].lower().endswith(_ALIAS_ENDINGS):
        message = f"{shown} must name a bucket, not an access point, which may lead to any bucket"
        raise ActionError("ParameterError", message, retryable=False)
    if find_resource_setting("bucket", match["bucket"]) is not None:
        bucket = quote_text(match["bucket"])
        message = f"the bucket {bucket} is reserved for the state of runs (NOETL_BUCKET)"
        raise ActionError("AccessDenied", message, retryable=False)
    return match["bucket"], match["key"] or ""


def _refuse_bucket_of_others(call: Call, bucket: str) -> None:
    """Raise `AccessDenied` for a bucket whose events start runs of other tenants only."""
    if call.capabilities.trigger_sources.belongs_to_others(call.tenant, "s3", bucket):
        shown = quote_text(bucket)
        message = f"the bucket {shown} is that of another tenant's triggers ({SOURCES_SETTING})"
        raise ActionError("AccessDenied", message, retryable=False)


def _get(s3: Any, bucket: str, key: str, call: Call) -> Any:
    data = bytearray()
    answer = s3.get_object(Bucket=bucket, Key=key)
    with call.receive() as arriving, closing(answer["Body"]) as body:
        # The object and its text exist at the same time.
        arriving.expect(2 * min(answer["ContentLength"], MAX_BYTES))
        for chunk in body.iter_chunks(_CHUNK_BYTES):
            call.remaining_seconds()
            arriving.hold(2 * (len(data) + len(chunk)))
            data += chunk
            if len(data) > MAX_BYTES:
                message = f"{_show(f's3://{bucket}/{key}')} is longer than {MAX_BYTES:,} bytes"
                raise ActionError("LimitExceeded", message, retryable=False)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise FormatError("not UTF-8") from None
        format = call.parameters.get("format", "text")
        return decode(
            text, format, lambda weight: arriving.hold(2 * len(data) + weight), call.remaining_seconds
        )


def _put(s3: Any, bucket: str, key: str, call: Call) -> dict[str, Any]:
    format = call.parameters.get("format", "text")
    data = encode_content(call.parameters)
    answer = s3.put_object(Bucket=bucket, Key=key, Body=data, ContentType=_MEDIA_TYPES[format])
    return {"uri": f"s3://{bucket}/{key}", "bytes": len(data), "etag": _etag(answer)}


def _list(s3: Any, bucket: str, prefix: str, call: Call) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = []
    with call.receive() as arriving:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            call.remaining_seconds()
            found = [_describe(bucket, entry) for entry in page.get("Contents", ())]
            arriving.keep(sum(map(row_weight, found)))
            objects += found
            if len(objects) > MAX_OBJECTS:
                message = f"more than {MAX_OBJECTS:,} objects start with {_show(f's3://{bucket}/{prefix}')}"
                raise ActionError("LimitExceeded", message, retryable=False)
    return objects


def _describe(bucket: str, entry: Any) -> dict[str, Any]:
    """Return an object of a list of S3 as the result shows it."""
    return {
        "uri": f"s3://{bucket}/{entry['Key']}",
        "key": entry["Key"],
        "bytes": entry["Size"],
        "etag": _etag(entry),
        "modified_at": entry["LastModified"].isoformat(),
    }


def _delete(s3: Any, bucket: str, key: str, call: Call) -> dict[str, Any]:
    s3.delete_object(Bucket=bucket, Key=key)
    return {"uri": f"s3://{bucket}/{key}"}


_OPERATIONS: dict[str, Callable[[Any, str, str, Call], Any]] = {
    "get": _get,
    "put": _put,
    "list": _list,
    "delete": _delete,
}


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
