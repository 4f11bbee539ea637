"""Stores of runs. A URL chooses between SQLite, Postgres, DynamoDB and the memory of the process.

`interface.py` is what the executor asks of a store. `sql/` is shared by `sqlite/` and `postgres/`; `dynamo/`
is the store in DynamoDB; `sqs/` holds the messages about due visits. `memory/` is the smallest store: it is
for tests, and to be copied.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from noetl.executor.errors import SettingError
from noetl.executor.stores.retention import read_retention_seconds

if TYPE_CHECKING:
    from noetl.executor.stores.interface import Store

DEFAULT_URL = "sqlite:///.noetl/noetl.db"


def open_store(url: str | None = None, *, create: bool = True, threads: int | None = None) -> Store:
    """Open the store at `url`, at `NOETL_STORE`, or at DEFAULT_URL.

    If `create` is false, it must exist, and opening it changes nothing. `threads` is how many threads of the
    process execute visits, which limits the connections to Postgres.

    Raises:
        SettingError: the URL is not that of a store, or another setting of the store is invalid.
        StoreError: the store cannot be opened, or the secret with its URL cannot be read.
    """
    retention_seconds = read_retention_seconds()
    url = url or os.environ.get("NOETL_STORE") or DEFAULT_URL
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator and len(rest) > 1 and rest.startswith("/"):
        from noetl.executor.stores.sqlite.store import SqliteStore

        return SqliteStore(rest[1:], create=create, retention_seconds=retention_seconds)
    if url.startswith("arn:") or (scheme in ("postgres", "postgresql") and separator):
        from noetl.executor.stores.postgres.store import PostgresStore

        return PostgresStore(
            lambda: resolve_url(url),
            queue_url=_queue_url(),
            threads=threads,
            retention_seconds=retention_seconds,
        )
    if scheme == "dynamodb" and separator:
        return _open_dynamodb(table_name(url), retention_seconds)
    if url == "memory://":
        from noetl.executor.stores.memory.store import MemoryStore

        return MemoryStore(retention_seconds=retention_seconds)
    # The rest of the URL may contain a password.
    if not separator and not any(sign in url for sign in "@:= "):
        raise SettingError(
            f"The store (NOETL_STORE, or --store) is {url!r}; it must be a URL such as `sqlite:///{url}`."
        )
    shown = repr(url) if scheme == "sqlite" else f"'{scheme}://…'" if separator else "not the URL of a store"
    raise SettingError(
        f"The store (NOETL_STORE, or --store) is {shown}; it must be `sqlite:///PATH`, for example {DEFAULT_URL},"
        " a Postgres URI `postgresql://HOST/DATABASE`, the ARN of a secret in AWS Secrets Manager that holds one,"
        " a DynamoDB table `dynamodb://TABLE`, or `memory://`, which is lost with the process."
    )


def resolve_url(url: str | None = None) -> str:
    """Return the URL of a store: `url`, `NOETL_STORE`, or DEFAULT_URL.

    If that is the ARN of a secret in AWS Secrets Manager, return the Postgres URI that the secret holds.
    The secret is the URI itself, or the JSON that Amazon RDS writes.

    Raises:
        SettingError: the secret holds neither.
        StoreError: the secret cannot be read.
    """
    url = url or os.environ.get("NOETL_STORE") or DEFAULT_URL
    if not url.startswith("arn:"):
        return url
    from noetl.executor.security.secret_sources import database_uri

    return database_uri(url)


def table_name(url: str) -> str:
    """Return the table name of a DynamoDB store.

    >>> table_name("dynamodb://noetl")
    'noetl'

    Raises:
        SettingError: the URL has no valid table name.
    """
    table = url.partition("://")[2]
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table):
        message = (
            f"The store (NOETL_STORE, or --store) names the table {table!r}; it must be `dynamodb://TABLE`, a name of"
            " 3 to 255 letters, digits, `_`, `-` and `.`."
        )
        raise SettingError(message)
    return table


def _queue_url() -> str | None:
    queue = os.environ.get("NOETL_QUEUE", "").strip() or None
    if queue is not None and not queue.startswith(("https://", "http://")):
        raise SettingError(f"NOETL_QUEUE is {queue!r}; it must be the URL of an SQS queue.")
    return queue


def _open_dynamodb(table: str, retention_seconds: float | None) -> Store:
    queue = _queue_url()
    bucket = os.environ.get("NOETL_BUCKET", "").strip() or None
    if bucket is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise SettingError(f"NOETL_BUCKET is {bucket!r}; it must be the name of an S3 bucket.")
    from noetl.executor.stores.dynamo.store import DynamoStore

    return DynamoStore(table, queue_url=queue, bucket=bucket, retention_seconds=retention_seconds)
