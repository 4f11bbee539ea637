"""The option `--store`, and the store that it names with the services for its runs."""

from __future__ import annotations

import os
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


def read_environment(url: str | None) -> dict[str, str]:
    """Return the settings of a command whose option `--store` is `url`. All that run steps check the same."""
    return {**os.environ, **({"NOETL_STORE": url} if url else {})}


@contextmanager
def open_command_store(
    url: str | None, *, create: bool = True, threads: int | None = None
) -> Iterator[Store]:
    """Open the store at `url`, or the one that the environment names, and close it at the end.

    `threads` is how many threads execute visits.

    Raises:
        CommandError: the store is in memory, so it has nothing for this command.
    """
    check_is_kept(url)
    with _open(url, create, threads) as store:
        yield store


def check_is_kept(url: str | None) -> None:
    """Check that the store at `url`, or the one that the environment names, outlasts this process.

    Raises:
        CommandError: it is in memory.
    """
    if is_in_memory(url):
        raise CommandError(
            "the store memory:// is lost with its process, so no other command can read it:"
            " name a store with --store or NOETL_STORE"
        )


NO_QUEUE = (
    "no queue is configured: if Lambda functions execute the runs, set NOETL_QUEUE as they have it. Otherwise"
    " this command sends them no message, and their sweep finds a run later"
)


def is_without_queue(store: Store) -> bool:
    """Return whether the store is a table without a queue, so that functions get no messages about it."""
    return getattr(store.queue, "message_queue", store) is None and not store.queue.counts_active


@contextmanager
def _open(url: str | None, create: bool, threads: int | None = None) -> Iterator[Store]:
    from noetl.executor.stores import open_store

    store = open_store(url, create=create, threads=threads)
    try:
        yield store
    finally:
        store.close()


def is_in_memory(url: str | None) -> bool:
    """Return whether the store at `url`, or the one that the environment names, is lost with its process."""
    return (url or os.environ.get("NOETL_STORE")) == "memory://"


@contextmanager
def open_command_services(url: str | None, *, create: bool = False) -> Iterator[TenantServices]:
    """Open a store as `open_command_store` does, with services that also control local runs.

    With `create`, the command starts its runs itself, so the store may be in memory.

    Raises:
        CommandError: the store has no run of an id, or has nothing for this command.
    """
    from noetl.api.service.errors import NotFoundError
    from noetl.api.service.services import create_services
    from noetl.executor.actions import catalogue
    from noetl.executor.security.allowed_sources import SOURCES_SETTING, read_allowed_sources

    with _open(url, create) if create else open_command_store(url, create=False) as store:
        try:
            sources = read_allowed_sources(os.environ) if os.environ.get(SOURCES_SETTING) else None
            yield create_services(store, catalogue(), controls_local_runs=True, sources=sources)
        except NotFoundError as error:
            raise CommandError(str(error)) from error
