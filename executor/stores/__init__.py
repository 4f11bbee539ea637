"""Where runs are kept, chosen by URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from executor.errors import SettingError

if TYPE_CHECKING:
    from executor.stores.store import Store

DEFAULT_URL = "sqlite:///.noetl/noetl.db"


def open_store(url: str | None = None, *, create: bool = True) -> Store:
    """The store at `url`, or at `NOETL_STORE`, or the default one. With `create` false it must be there already.

    Raises:
        SettingError: the URL is not one of a store.
        StoreError: the store cannot be opened.
    """
    url = url or os.environ.get("NOETL_STORE") or DEFAULT_URL
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator and len(rest) > 1 and rest.startswith("/"):
        from executor.stores.sqlite import SqliteStore

        return SqliteStore(rest[1:], create=create)
    if scheme in ("postgres", "postgresql") and separator:
        from executor.stores.postgres import PostgresStore

        return PostgresStore(url)
    if scheme == "dynamodb":
        raise SettingError("Stores of the kind `dynamodb://` (NOETL_STORE, or --store) are not supported yet.")
    # What stands behind the scheme may hold a password.
    shown = repr(url) if scheme == "sqlite" else f"'{scheme}://…'" if separator else "not the URL of one"
    raise SettingError(
        f"The store (NOETL_STORE, or --store) is {shown}; it is written `sqlite:///PATH`, for example {DEFAULT_URL},"
        " or as a URI of Postgres, `postgresql://HOST/DATABASE`."
    )
