"""The option `--store`, and the store that it names with the services for its runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import CommandError

if TYPE_CHECKING:
    from noetl.api.service.services import TenantServices
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


@contextmanager
def open_command_services(url: str | None, *, create: bool = False) -> Iterator[TenantServices]:
    """Open a store as `open_command_store` does, with services that also control local runs.

    Raises:
        CommandError: the store has no run of an id.
    """
    from noetl.api.service.errors import NotFoundError
    from noetl.api.service.services import create_services
    from noetl.executor.actions import catalogue

    with open_command_store(url, create=create) as store:
        try:
            yield create_services(store, catalogue(), controls_local_runs=True)
        except NotFoundError as error:
            raise CommandError(str(error)) from error
