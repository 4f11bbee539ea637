"""The options `--store` and `--url`, of which a command takes one, and the access that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.store_option import check_is_kept, open_command_services

if TYPE_CHECKING:
    from noetl.api.cli.access.backfill_access import BackfillAccess
    from noetl.api.cli.access.channel_access import ChannelAccess
    from noetl.api.cli.access.limit_access import LimitAccess
    from noetl.api.cli.access.playbook_access import PlaybookAccess
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.api.cli.access.service_client import ServiceClient
    from noetl.api.cli.access.trigger_access import TriggerAccess
    from noetl.api.service.services import TenantServices

A = TypeVar("A")

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The address of a service instead of a store. NOETL_API_KEY is its key."
    ),
]


def open_runs(store: str | None, url: str | None) -> AbstractContextManager[RunAccess]:
    """Open the runs of a store, or those of the service at `url`.

    Raises:
        CommandError: both are named; the run or the step is unknown; the service cannot be reached, or
            refuses a request.
    """
    from noetl.api.cli.access.service_runs import ServiceRuns
    from noetl.api.cli.access.store_runs import StoreRuns

    return _open(store, url, StoreRuns, ServiceRuns)


def open_triggers(store: str | None, url: str | None) -> AbstractContextManager[TriggerAccess]:
    """Open the triggers of a store, or those of the service at `url`.

    Raises:
        CommandError: as `open_runs`; the trigger is unknown.
    """
    from noetl.api.cli.access.service_triggers import ServiceTriggers
    from noetl.api.cli.access.store_triggers import StoreTriggers

    return _open(store, url, StoreTriggers, ServiceTriggers)


def open_backfills(store: str | None, url: str | None) -> AbstractContextManager[BackfillAccess]:
    """Open the backfills of a store, or those of the service at `url`.

    Raises:
        CommandError: as `open_runs`; the backfill or the trigger is unknown.
    """
    from noetl.api.cli.access.service_backfills import ServiceBackfills
    from noetl.api.cli.access.store_backfills import StoreBackfills

    return _open(store, url, StoreBackfills, ServiceBackfills)


def open_channels(
    store: str | None, url: str | None, *, create: bool = False
) -> AbstractContextManager[ChannelAccess]:
    """Open the channels and notifications of a store, or those of the service at `url`.

    With `create`, a store that does not exist is created.

    Raises:
        CommandError: as `open_runs`; the channel or the notification is unknown; the store is in memory.
    """
    from noetl.api.cli.access.service_channels import ServiceChannels
    from noetl.api.cli.access.store_channels import StoreChannels

    if url is None and create:
        check_is_kept(store)
    return _open(store, url, StoreChannels, ServiceChannels, create=create)


def open_limits(
    store: str | None, url: str | None, *, create: bool = False
) -> AbstractContextManager[LimitAccess]:
    """Open the limits of a store, or those of the service at `url`.

    With `create`, a store that does not exist is created.

    Raises:
        CommandError: as `open_runs`; the limit is unknown; the store is in memory.
    """
    from noetl.api.cli.access.service_limits import ServiceLimits
    from noetl.api.cli.access.store_limits import StoreLimits

    if url is None and create:
        check_is_kept(store)
    return _open(store, url, StoreLimits, ServiceLimits, create=create)


def open_playbooks(
    store: str | None, url: str | None, *, create: bool = False
) -> AbstractContextManager[PlaybookAccess]:
    """Open the registered playbooks of a store, or those of the service at `url`.

    With `create`, a store that does not exist is created.

    Raises:
        CommandError: as `open_runs`; the playbook is unknown; the store is in memory.
    """
    from noetl.api.cli.access.service_playbooks import ServicePlaybooks
    from noetl.api.cli.access.store_playbooks import StorePlaybooks

    if url is None:
        check_is_kept(store)
    return _open(store, url, StorePlaybooks, ServicePlaybooks, create=create)


@contextmanager
def _open(
    store: str | None,
    url: str | None,
    of_store: Callable[[TenantServices], A],
    of_service: Callable[[ServiceClient], A],
    *,
    create: bool = False,
) -> Iterator[A]:
    from noetl.api.cli.access.service_client import ServiceClient
    from noetl.api.service.errors import NotFoundError

    if url is None:
        with open_command_services(store, create=create) as services:
            yield of_store(services)
        return
    if store is not None:
        raise CommandError("--store contradicts --url; name a store or a service")
    try:
        yield of_service(ServiceClient(url))
    except NotFoundError as error:
        raise CommandError(str(error)) from error
