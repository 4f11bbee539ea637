"""`noetl worker`"""

from __future__ import annotations

import os
from typing import Annotated

import typer
from noetl.api.cli.display.console import say
from noetl.api.cli.local.interruption import Interruption
from noetl.api.cli.store_option import StoreOption, opened
from noetl.executor.runtime.json_logs import log_as_json_lines

DRAIN_SECONDS = 20.0


def worker(
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1000, help="How many steps at once. Else NOETL_WORKERS."),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Walk the runs of a service that shares this store, until asked to end (SIGTERM, Ctrl-C).

    Any number of workers may share a store in Postgres, join and leave.
    One that is asked to end finishes the steps at work, for 20 seconds; what is left then, others begin anew.
    Asked again, it ends at once.
    """
    from noetl.executor.security.capabilities import for_service
    from noetl.executor.worker import Worker, lease_seconds, public_url, thread_count

    capabilities = for_service(os.environ)
    with Interruption() as interruption, opened(store) as opened_store:
        log_as_json_lines()
        walking = Worker(
            opened_store,
            capabilities=capabilities,
            threads=threads or thread_count(),
            lease=lease_seconds(),
            public_url=public_url(),
        )
        walking.start()
        say("working")
        interruption.wait()
        say("finishing the steps at work")
        walking.stop(timeout_seconds=DRAIN_SECONDS)
