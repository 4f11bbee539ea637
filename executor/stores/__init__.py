"""Where runs are kept, chosen by URL."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from noetl.executor.errors import SettingError
from noetl.executor.stores.retention import read_retention_seconds

if TYPE_CHECKING:
    from noetl.executor.stores.interface import Store

DEFAULT_URL = "sqlite:///.noetl/noetl.db"


def open_store(url: str | None = None, *, create: bool = True) -> Store:
    """The store at `url`, or at `NOETL_STORE`, or the default one. With `create` false it must be there already.

    Raises:
        SettingError: the URL is not one of a store, or another setting of stores cannot be used.
        StoreError: the store cannot be opened, or its address not be read.
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
            lambda: resolve_url(url), queue_url=_queue_url(), retention_seconds=retention_seconds
        )
    if scheme == "dynamodb" and separator:
        return _in_dynamodb(table_name(url), retention_seconds)
    # What stands behind the scheme may hold a password.
    shown = repr(url) if scheme == "sqlite" else f"'{scheme}://…'" if separator else "not the URL of one"
    raise SettingError(
        f"The store (NOETL_STORE, or --store) is {shown}; it is written `sqlite:///PATH`, for example {DEFAULT_URL},"
        " or as a URI of Postgres, `postgresql://HOST/DATABASE`, or the ARN under which AWS Secrets"
        " Manager keeps one, or as a table of DynamoDB, `dynamodb://TABLE`."
    )


def import_store() -> None:
    """Import what the store consists of that the environment names for functions, so that opening it takes less."""
    url = os.environ.get("NOETL_STORE", "")
    if url.startswith(("arn:", "postgres://", "postgresql://")):
        import noetl.executor.stores.postgres.store
        import psycopg_pool  # noqa: F401
    else:
        import noetl.executor.stores.dynamo.store  # noqa: F401
    import botocore.session  # noqa: F401


def create_clients() -> None:
    """Make the clients of AWS that it speaks with.

    Raises:
        ActionError: a setting is missing, such as the region.
    """
    from noetl.executor.clients.aws import client, region_of

    url = os.environ.get("NOETL_STORE", "")
    if url.startswith("arn:"):
        client("secretsmanager", region_of(url))
    elif url.startswith("dynamodb:"):
        client("dynamodb", once=True)
    client("sqs", once=True)


def resolve_url(url: str | None = None) -> str:
    """The URL of a store: the one given, or `NOETL_STORE`, or the default one. Where that is the ARN of a secret in AWS Secrets
    Manager, it is what the secret says: a URI of Postgres, or the JSON that Amazon RDS keeps there.

    Raises:
        SettingError: the secret says neither.
        StoreError: the secret cannot be read.
    """
    url = url or os.environ.get("NOETL_STORE") or DEFAULT_URL
    if not url.startswith("arn:"):
        return url
    from noetl.executor.security.secret_sources import database_uri

    return database_uri(url)


def table_name(url: str) -> str:
    """The name of the table of a store in DynamoDB.

    Raises:
        SettingError: the URL names none.
    """
    table = url.partition("://")[2]
    if not re.fullmatch(r"[A-Za-z0-9_.-]{3,255}", table):
        message = (
            f"The store (NOETL_STORE, or --store) names the table {table!r}; it is written `dynamodb://TABLE`, a name of 3 to"
            " 255 letters, digits, `_`, `-` and `.`."
        )
        raise SettingError(message)
    return table


def _queue_url() -> str | None:
    queue = os.environ.get("NOETL_QUEUE", "").strip() or None
    if queue is not None and not queue.startswith(("https://", "http://")):
        raise SettingError(f"NOETL_QUEUE is {queue!r}; it must be the URL of a queue of SQS.")
    return queue


def _in_dynamodb(table: str, retention_seconds: float | None) -> Store:
    queue = _queue_url()
    bucket = os.environ.get("NOETL_BUCKET", "").strip() or None
    if bucket is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket):
        raise SettingError(f"NOETL_BUCKET is {bucket!r}; it must be the name of a bucket of S3.")
    from noetl.executor.stores.dynamo.store import DynamoStore

    return DynamoStore(table, queue_url=queue, bucket=bucket, retention_seconds=retention_seconds)
