"""The option `--store`, and the store that it names."""

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
        help="The store of the runs. Default: NOETL_STORE, or .noetl/noetl.db in this folder.",
    ),
]


@contextmanager
def open_command_store(url: str | None, *, create: bool = True) -> Iterator[Store]:
    """Open the store at `url`, or the one that the environment names, and close it at the end."""
    from noetl.executor.stores import open_store

    store = open_store(url, create=create)
    try:
        yield store
    finally:
        store.close()
