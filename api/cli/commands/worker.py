"""The command `noetl worker`."""

from __future__ import annotations

from typing import Annotated

import typer

from noetl.api.cli.display.console import print_message
from noetl.api.cli.local.interruption import Interruption
from noetl.api.cli.store_option import StoreOption, open_command_store
from noetl.executor.runtime.file_limit import raise_file_limit
from noetl.executor.runtime.json_logs import log_as_json_lines

app = typer.Typer()

DRAIN_SECONDS = 20.0


@app.command(epilog="Example: noetl worker --store postgresql://localhost/noetl")
def worker(
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, max=1000, help="The maximum of concurrent steps. Default: NOETL_WORKERS."
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Execute the runs of the services that share this store, until SIGTERM or Ctrl-C.

    Any number of workers may share a store in Postgres, and start and stop at any time.
    A worker that stops finishes its running steps within 20 seconds; other workers repeat the rest.
    A second signal ends it immediately.
    """
    from noetl.executor.worker import Worker, read_worker_settings

    settings = read_worker_settings(threads=threads)
    with (
        Interruption() as interruption,
        open_command_store(store, threads=settings.all_threads) as opened_store,
    ):
        log_as_json_lines()
        raise_file_limit()
        worker = Worker(opened_store, settings)
        worker.start()
        print_message("working")
        interruption.wait()
        print_message("finishing the running steps")
        worker.stop(timeout_seconds=DRAIN_SECONDS)
