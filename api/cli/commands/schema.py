"""The command `noetl schema`."""

from __future__ import annotations

import typer

from noetl.api.cli.display.console import write_json

app = typer.Typer()


@app.command(epilog="Example: noetl schema > noetl.schema.json")
def schema() -> None:
    """Write the JSON Schema of the playbook language to stdout, for editors."""
    from noetl.executor.actions import catalogue
    from noetl.planner.syntax.json_schema import build_json_schema

    write_json(build_json_schema(catalogue()))
