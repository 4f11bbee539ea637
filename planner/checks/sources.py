"""Checks of sources that a service reads by itself: folders, queues and events (NP010, NP011 and NP813)."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import (
    BucketDeclaration,
    DocumentPath,
    EventDeclaration,
    FolderDeclaration,
    QueueDeclaration,
)
from noetl.planner.templates.template import has_template

MAX_SOURCE_LENGTH = 1000
"""How many characters a folder or a pattern may have."""

MAX_PREFIX_BYTES = 1024
"""How many bytes a key of an object may have."""

MAX_DETAIL_TYPE_LENGTH = 128
"""How many characters the type of an event may have."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_EVENT_SOURCE = re.compile(r"[A-Za-z0-9._/-]{1,256}")
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,62}(?:\.[a-z_][a-z0-9_]{0,62})?")
_QUEUE_URL = re.compile(r"https?://[^/\s?#@{]+/\d+/[A-Za-z0-9_-]{1,80}(?:\.fifo)?")


def check_sources(program: Program) -> None:
    """Report triggers whose source cannot exist."""
    for trigger in program.playbook.triggers:
        if isinstance(trigger, FolderDeclaration):
            _check_relative(program, trigger.folder, (*trigger.path, "folder"), "`orders`")
            _check_relative(program, trigger.glob, (*trigger.path, "glob"), "`*.csv`")
        elif isinstance(trigger, QueueDeclaration):
            _check_queue(program, trigger)
        elif isinstance(trigger, BucketDeclaration):
            _check_bucket(program, trigger)
        elif isinstance(trigger, EventDeclaration):
            _check_event(program, trigger)


def _check_relative(program: Program, text: str, path: DocumentPath, example: str) -> None:
    """Report a folder or a pattern that leads outside of the folder that it belongs to."""
    parts = PurePosixPath(text)
    is_legal = text and not parts.is_absolute() and ".." not in parts.parts and "\0" not in text
    if not is_legal or len(text) > MAX_SOURCE_LENGTH or has_template(text):
        message = (
            f"`{path[-1]}` must be a relative path of at most {MAX_SOURCE_LENGTH:,} characters, "
            "without `..` and without a template"
        )
        program.report("NP813", message, path, f"write a path such as {example}")


def _check_queue(program: Program, trigger: QueueDeclaration) -> None:
    """Check that a trigger has one queue with a legal name."""
    if trigger.url is not None and not _QUEUE_URL.fullmatch(trigger.url):
        hint = "write an address such as `https://sqs.eu-central-1.amazonaws.com/123456789012/orders`"
        message = "`sqs` must be the URL of a queue, without a template"
        program.report("NP813", message, (*trigger.path, "sqs"), hint)
    if trigger.table is not None and not _TABLE.fullmatch(trigger.table):
        message = "`table` must be a name of lower-case letters, digits and `_`, with or without a schema"
        program.report("NP813", message, (*trigger.path, "table"), "write a name such as `orders`")
    if trigger.url is None and trigger.table is None:
        message = f"trigger `{abbreviate(trigger.name)}` needs `sqs` or `table`"
        program.report("NP011", message, trigger.path, "write the URL of a queue, or a table")
    if trigger.url is not None:
        for key, value in (("table", trigger.table), ("max_receives", trigger.max_receives)):
            if value is not None:
                message = f"a queue of SQS has no `{key}`"
                program.report("NP010", message, (*trigger.path, key), "remove it", key=True)


def _check_bucket(program: Program, trigger: BucketDeclaration) -> None:
    if not _BUCKET.fullmatch(trigger.bucket):
        message = "`bucket` must be the name of a bucket of S3, without a template"
        program.report("NP813", message, (*trigger.path, "bucket"), "write a name such as `orders`")
    prefix = trigger.prefix or ""
    if len(prefix.encode()) > MAX_PREFIX_BYTES or has_template(prefix):
        message = f"`prefix` must have at most {MAX_PREFIX_BYTES:,} bytes, without a template"
        program.report("NP813", message, (*trigger.path, "prefix"), "write a prefix such as `orders/`")


def _check_event(program: Program, trigger: EventDeclaration) -> None:
    if not _EVENT_SOURCE.fullmatch(trigger.source):
        message = "`source` must be at most 256 letters, digits, `.`, `_`, `-` or `/`, without a template"
        program.report(
            "NP813", message, (*trigger.path, "source"), "write a source such as `com.example.shop`"
        )
    for name in trigger.detail_type or ():
        if not name or len(name) > MAX_DETAIL_TYPE_LENGTH or has_template(name):
            message = f"`detail_type` must have 1 to {MAX_DETAIL_TYPE_LENGTH} characters, without a template"
            program.report(
                "NP813", message, (*trigger.path, "detail_type"), "write a type such as `Order Paid`"
            )
