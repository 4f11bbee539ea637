"""The command `noetl worker`."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import print_message
from noetl.api.cli.local.interruption import Interruption
from noetl.api.cli.store_option import StoreOption, open_command_store, read_environment
from noetl.executor.runtime.file_limit import raise_file_limit
from noetl.executor.runtime.json_logs import log_as_json_lines

if TYPE_CHECKING:
    from noetl.executor.stores.interface import Store

app = typer.Typer()

DRAIN_SECONDS = 20.0
RETRY_SECONDS = 1.0


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
    A second signal ends it immediately. While the store is away at the start, the worker waits for it.
    """
    from noetl.executor.security.process_privacy import hide_process
    from noetl.executor.worker import Worker, read_worker_settings

    hide_process()
    settings = read_worker_settings(read_environment(store), threads=threads)
    with Interruption() as interruption, ExitStack() as stack:
        opened_store = _wait_for_store(stack, store, settings.all_threads, interruption)
        log_as_json_lines()
        raise_file_limit()
        worker = Worker(opened_store, settings)
        worker.start()
        print_message("working")
        interruption.wait()
        print_message("finishing the running steps")
        worker.stop(timeout_seconds=DRAIN_SECONDS)


def _wait_for_store(stack: ExitStack, url: str | None, threads: int, interruption: Interruption) -> Store:
    """Open a store when it can be reached, and close it with `stack`.

    Raises:
        KeyboardInterrupt: a signal has arrived.
        StoreError: the store cannot be opened for another reason.
    """
    from noetl.executor.errors import StoreAwayError

    is_waiting = False
    while True:
        try:
            return stack.enter_context(open_command_store(url, threads=threads))
        except StoreAwayError as error:
            if not is_waiting:
                print_message(f"waiting for the store: {error} Set the store with NOETL_STORE or --store.")
            is_waiting = True
        interruption.raise_if_requested()
        time.sleep(RETRY_SECONDS)
