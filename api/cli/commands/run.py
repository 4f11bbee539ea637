"""`noetl run`"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from noetl.api.cli.display.console import RefusalError
from noetl.api.cli.store_option import StoreOption, opened

if TYPE_CHECKING:
    from noetl.executor.errors import RejectedError
    from noetl.executor.model.run import Run, Visit
    from noetl.planner.plan import Plan

GivenOption = Annotated[
    list[str] | None,
    typer.Option("-i", metavar="NAME=VALUE", help="An input; once for each, before those of a file."),
]
InputOption = Annotated[
    str | None, typer.Option("--input", metavar="FILE.json", help="Inputs, as a JSON object.")
]


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    given: GivenOption = None,
    input: InputOption = None,
    store: StoreOption = None,
    json: Annotated[bool, typer.Option("--json", help="Write id, status, result, errors and steps.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but what went wrong.")] = False,
) -> None:
    """Run a playbook here, and write its result to stdout as JSON.

    Progress goes to stderr. The run is kept in the store, so that it can be resumed after a failure, a crash or Ctrl-C.
    Playbooks that it starts are looked for beside its file, then in the registry.
    """
    from noetl.api.cli.inputs import read_file, read_pairs
    from noetl.api.cli.local.run_to_end import walk_to_the_end
    from noetl.api.cli.sources import compiled_plan, read_source
    from noetl.api.service.runs import Service
    from noetl.executor.actions import catalogue

    source = read_source(file)
    from_file = read_file(input) if input is not None else {}
    plan = compiled_plan(source, quiet=quiet)
    types = {name: declared.type for name, declared in plan.header.inputs.items()}
    new, first = _new_run(plan, {**from_file, **read_pairs(given or (), types)}, file)
    with opened(store) as opened_store:
        opened_store.save_plan(plan)
        created = opened_store.create_run(new, first)
        service = Service(opened_store, catalogue())
        walk_to_the_end(opened_store, service, created, plan, as_json=json, quiet=quiet)


def _new_run(plan: Plan, values: Mapping[str, Any], file: str) -> tuple[Run, Visit]:
    """The run as it is to be stored: made before the store is opened, so that bad input leaves no trace."""
    import time

    from noetl.executor.engine.start import new_run
    from noetl.executor.errors import RejectedError

    folder = str(Path.cwd())
    source = None if file == "-" else str(Path(file).absolute())
    try:
        return new_run(
            plan.header, plan.hash, values, origin="local", folder=folder, source=source, now=time.time()
        )
    except RejectedError as error:
        raise RefusalError("\n".join(_sentences(error, file)) or str(error)) from error


def _sentences(error: RejectedError, file: str) -> list[str]:
    return [
        f"{file}:{found['line']}: {found['message']}" if found.get("line") else str(found["message"])
        for found in error.details.get("inputs", ())
    ]
