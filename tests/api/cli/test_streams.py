"""Commands with closed standard streams, as a scheduler may start them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.api.cli.test_cli_check import GOOD


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_stream(folder: Path, closed: str) -> None:
    (folder / "good.yaml").write_text(GOOD)
    script = f'exec "$0" -c "from noetl.api.cli import main; main()" run good.yaml {closed}'
    done = subprocess.run(
        ["/bin/sh", "-c", script, sys.executable], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    store = open_store(f"sqlite:///{folder}/.noetl/noetl.db", create=False)
    (run,) = store.runs.find(RunFilter())[0]
    store.close()
    assert run.status == "succeeded"
