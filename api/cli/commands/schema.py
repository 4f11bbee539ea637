"""The command `noetl schema`."""

from __future__ import annotations

from noetl.api.cli.display.console import write_json


def schema() -> None:
    """Write the JSON Schema of the playbook language to stdout, for editors."""
    from noetl.executor.actions import catalogue
    from noetl.planner.syntax.json_schema import build_json_schema

    write_json(build_json_schema(catalogue()))
