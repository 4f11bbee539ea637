"""The options `--store` and `--url`, of which a command takes one, and the access that they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.store_option import open_command_services

if TYPE_CHECKING:
    from noetl.api.cli.access.run_access import RunAccess
    from noetl.api.cli.access.trigger_access import TriggerAccess

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The address of a service instead of a store. NOETL_API_KEY is its key."
    ),
]


@contextmanager
def open_runs(store: str | None, url: str | None) -> Iterator[RunAccess]:
    """Open the runs of a store, or those of the service at `url`.

    Raises:
        CommandError: both are named; the run or the step is unknown; the service cannot be reached, or
            refuses a request.
    """
    from noetl.api.cli.access.service_client import ServiceClient
    from noetl.api.cli.access.service_runs import ServiceRuns
    from noetl.api.cli.access.store_runs import StoreRuns
    from noetl.api.service.errors import NotFoundError

    if url is None:
        with open_command_services(store) as services:
            yield StoreRuns(services)
        return
    if store is not None:
        raise CommandError("--store contradicts --url; name a store or a service")
    try:
        yield ServiceRuns(ServiceClient(url))
    except NotFoundError as error:
        raise CommandError(str(error)) from error


@contextmanager
def open_triggers(store: str | None, url: str | None) -> Iterator[TriggerAccess]:
    """Open the triggers of a store, or those of the service at `url`, as `open_runs` does.

    Raises:
        CommandError: both are named; the trigger is unknown; the service cannot be reached, or refuses a
            request.
    """
    from noetl.api.cli.access.service_client import ServiceClient
    from noetl.api.cli.access.service_triggers import ServiceTriggers
    from noetl.api.cli.access.store_triggers import StoreTriggers
    from noetl.api.service.errors import NotFoundError

    if url is None:
        with open_command_services(store) as services:
            yield StoreTriggers(services)
        return
    if store is not None:
        raise CommandError("--store contradicts --url; name a store or a service")
    try:
        yield ServiceTriggers(ServiceClient(url))
    except NotFoundError as error:
        raise CommandError(str(error)) from error
