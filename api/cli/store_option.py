"""The store that a command works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from noetl.executor.stores.interface import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where runs are kept. Else NOETL_STORE, or .noetl/noetl.db in this folder.",
    ),
]


@contextmanager
def opened(url: str | None, *, create: bool = True) -> Iterator[Store]:
    """The store at the URL, or that of the environment, for the time of a command."""
    from noetl.executor.stores import open_store

    store = open_store(url, create=create)
    try:
        yield store
    finally:
        store.close()
