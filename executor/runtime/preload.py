"""The preload of a Lambda function, which imports what the first request needs.

The initialization of a function has more processor time than its invocations, so imports take less time then.
Nothing here needs a setting or makes a network call. A missing setting is reported when it is first used.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noetl.executor.errors import ActionError
from noetl.planner.frozen import frozen

PROCESSOR_FILE = Path(__file__).parents[2] / "processor.txt"
"""The file in which `infra/build.py` says for which processor a package is built."""


@frozen
class Preload:
    """The preload of one function: `import_code` imports what its first request needs, without the store."""

    import_code: Callable[[], object]

    def load(self) -> None:
        """Import the code of the function, and the store that `NOETL_STORE` names."""
        with _gc_frozen():
            self.import_code()
            _import_store()

    def prepare(self) -> None:
        """Load, and create the clients that the store uses if the settings suffice."""
        self.load()
        with _gc_frozen(), suppress(ActionError):
            _create_clients()

    def prepare_in_lambda(self) -> None:
        """Prepare if this process is a Lambda function.

        Raises:
            RuntimeError: the package is built for another processor.
        """
        if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
            check_processor(PROCESSOR_FILE)
            self.prepare()


def check_processor(file: Path) -> None:
    """Compare the processor in a file with that of this machine. A checkout has no such file.

    Raises:
        RuntimeError: they differ, so compiled modules cannot be imported.
    """
    processor = os.uname().machine
    built_for = file.read_text("utf-8") if file.exists() else processor
    if built_for != processor:
        architecture = {"aarch64": "arm64"}.get(processor, processor)
        raise RuntimeError(
            f"this package is built for {built_for}, and the function runs on {processor}: build it again"
            f" with NOETL_ARCHITECTURE={architecture}, or deploy it with another Architecture"
        )


@contextmanager
def _gc_frozen() -> Iterator[None]:
    """Exclude all objects that exist at the end of this block from garbage collection.

    They live as long as the process.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def _import_store() -> None:
    if _store_url().startswith(("arn:", "postgres://", "postgresql://")):
        import psycopg_pool  # noqa: F401

        import noetl.executor.stores.postgres.store
    else:
        import noetl.executor.stores.dynamo.store  # noqa: F401
    import botocore.session  # noqa: F401


def _create_clients() -> None:
    """Create the AWS clients that the store uses.

    Raises:
        ActionError: a setting is missing, such as the region.
    """
    from noetl.executor.clients.aws import client, region_of_arn

    url = _store_url()
    if url.startswith("arn:"):
        client("secretsmanager", region_of_arn(url))
    elif url.startswith("dynamodb:"):
        client("dynamodb", without_retries=True)
    client("sqs", without_retries=True)


def _store_url() -> str:
    return os.environ.get("NOETL_STORE", "")
