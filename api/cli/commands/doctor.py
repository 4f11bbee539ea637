"""`noetl doctor`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from noetl.api.cli.display.console import FAILED, say, write, write_json
from noetl.api.cli.store_option import StoreOption, opened

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Write JSON for programs.")] = False,
    store: StoreOption = None,
) -> None:
    """Check that a store holds what it must: no run is stuck, and nothing is left over. Runs may be at work meanwhile."""
    from noetl.planner.diagnostics.terminal_text import visible

    found = _examined(store)
    if json:
        findings = [{"check": one.check, "workflow_id": one.run_id, "message": one.message} for one in found]
        write_json({"healthy": not found, "findings": findings})
    else:
        write("".join(f"{visible(one.message)}\n" for one in found))
    if found:
        raise typer.Exit(FAILED)
    say("nothing is wrong")


def _examined(url: str | None) -> list[Finding]:
    from noetl.executor.errors import SchemaError
    from noetl.executor.stores.finding import Finding

    try:
        with opened(url, create=False) as store:
            return store.check_consistency()
    except SchemaError as error:
        return [Finding("schema", str(error))]
