"""The command `noetl submit`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from noetl.api.cli.access.service_client import ServiceClient, UnknownResourceError
from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message, write_json, write_stdout
from noetl.executor.model.run import RunStatus
from noetl.planner.catalogue import LIVE

if TYPE_CHECKING:
    from noetl.api.cli.sources import PlaybookSource

app = typer.Typer()

_POLL_SECONDS = 0.5
_ACCEPTED: Mapping[str, type] = {"workflow_id": str, "status": str}
_REGISTERED = ("name", "version", "source")
_STATE_SIGNS = {"succeeded": "✓", "failed": "✗", "running": "▶", "waiting": "◷", "retrying": "↻"}
_RESULT: Mapping[str, type] = {**_ACCEPTED, "result": object, "errors": list}


@app.command(no_args_is_help=True, epilog="Example: noetl submit deploy.yaml --url https://noetl.example.com")
def submit(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A playbook, or - for standard input. NAME, NAME@VERSION and NAME@ALIAS are those that the"
            " service has.",
        ),
    ],
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The address of the service.")],
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended, and write its result.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the response of the service.")] = False,
) -> None:
    """Start a run of a playbook in a service, and write its id to stdout.

    A file wins over a registered playbook with the same name.

    NOETL_API_KEY is the API key or the token for the service.
    """
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file

    service = ServiceClient(url)
    file_inputs = read_input_file(input_file) if input_file is not None else {}
    playbook, types = _find_playbook(service, file)
    body = {"playbook": playbook, "input": {**file_inputs, **parse_input_pairs(inputs or (), types)}}
    accepted = _request(service, "POST", "/workflows/run", body, members=_ACCEPTED)
    if not wait:
        if json:
            write_json(accepted)
        else:
            write_stdout(f"{accepted['workflow_id']}\n")
            if isinstance(starts := accepted.get("starts"), int):
                print_message(f"{starts:,} starts share this run")
        return
    result = _wait_for_result(service, accepted["workflow_id"])
    if json:
        write_json(result)
    elif result["status"] in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS):
        write_json(result["result"])
    if result["status"] == RunStatus.SKIPPED:
        reasons = [f": {error.get('message')}" for error in result["errors"] if isinstance(error, dict)]
        print_message(f"run {result['workflow_id']} was skipped{''.join(reasons[:1])}")
    elif result["status"] != RunStatus.SUCCEEDED:
        for error in result["errors"]:
            for line in _describe_error(error):
                print_message(line)
        print_message(f"run {result['workflow_id']} {result['status']}")
        raise typer.Exit(EXIT_FAILED)


def _find_playbook(service: ServiceClient, text: str) -> tuple[Any, dict[str, str]]:
    """Return a playbook as the body of a request names it, and the declared types of its inputs.

    It is the text of a file, or the name and the version of a registered playbook. An alias, and `live` for a
    name alone, is the version that the service has for it now.

    Raises:
        CommandError: there is neither such a file nor such a playbook.
    """
    from noetl.api.cli.sources import PlaybookSource, names_file, read_source

    if names_file(text):
        source = read_source(text)
        return source.text, _input_types(source)
    name, _, version = text.rpartition("@")
    if not name or not version:
        name, version = text, LIVE
    address = f"/playbooks/{quote(name, safe='')}/versions/{quote(version, safe='')}"
    try:
        response = service.request("GET", address)
    except UnknownResourceError as error:
        raise CommandError(f"there is no file {text}, and {service.host} says: {error}") from error
    found = response.body
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in _REGISTERED):
        raise response.unexpected("check --url")
    types = _input_types(PlaybookSource(text, found["source"].encode("utf-8", "replace")))
    return {"name": name, "version": found["version"]}, types


def _input_types(source: PlaybookSource) -> dict[str, str]:
    """Return the declared types of the inputs; none if the playbook does not compile here."""
    from noetl.api.cli.sources import compile_source

    plan = compile_source(source).plan
    return {} if plan is None else {name: declared.type for name, declared in plan.header.inputs.items()}


def _wait_for_result(service: ServiceClient, workflow_id: str) -> dict[str, Any]:
    """Return the result of a run once it has ended."""
    print_message(f"run {workflow_id}")
    shown: dict[str, tuple[Any, Any]] = {}
    while True:
        report = _request(service, "GET", f"/workflows/status/{workflow_id}", members=_ACCEPTED)
        steps = report.get("steps")
        for name, step in steps.items() if isinstance(steps, dict) else ():
            state = (step.get("status"), step.get("visits"))
            if shown.get(name, ("pending", 0)) != state:
                shown[name] = state
                for line in _describe_state(name, step):
                    print_message(line)
        if RunStatus(report["status"]).is_final:
            return _request(service, "GET", f"/workflows/result/{workflow_id}", members=_RESULT)
        time.sleep(_POLL_SECONDS)


def _describe_state(name: str, step: Mapping[str, Any]) -> list[str]:
    """Return a line about the new state of a step, and lines about the items that failed in it.

    >>> _describe_state("pay", {"status": "retrying", "visits": 2})
    ['↻ pay  retrying  visit 2']
    """
    from noetl.api.cli.display.failure import failed_item_lines

    status = str(step.get("status"))
    sign = _STATE_SIGNS.get(status, "·")
    word = "" if status in ("succeeded", "failed") else f"  {status}"
    visits = step.get("visits")
    visit = f"  visit {visits}" if isinstance(visits, int) and visits > 1 else ""
    items, count = step.get("failed_items") or (), step.get("failed_item_count") or 0
    failed = f"  {count:,} item{'s' * (count != 1)} failed" if count else ""
    return [f"{sign} {name}{word}{visit}{failed}", *failed_item_lines(items, count)]


def _request(
    service: ServiceClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    members: Mapping[str, type],
) -> dict[str, Any]:
    """Send a request, and return the body of the response, which must have `members` of these types.

    Raises:
        CommandError: the request fails, the service refuses it, or the server is not a NoETL service.
    """
    response = service.request(method, path, body)
    if not _has_members(response.body, members):
        raise response.unexpected("check --url")
    found: dict[str, Any] = response.body
    return found


def _has_members(body: Any, members: Mapping[str, type]) -> bool:
    """Return whether a body is an object with these members, and has the status of a run."""
    return (
        isinstance(body, dict)
        and body.keys() >= members.keys()
        and all(isinstance(body[name], kind) for name, kind in members.items())
        and body["status"] in set(RunStatus)
    )


def _describe_error(error: Any) -> list[str]:
    """Return lines about an error in the result of a run."""
    from noetl.api.cli.display.failure import fact_lines

    if not isinstance(error, dict):
        return [str(error)]
    line = f"line {error['line']}: " if "line" in error else ""
    step = f"step `{error['step']}`" if error.get("step") else "the run"
    action = f", action {error['action']}" if error.get("action") else ""
    first = f"{line}{step}{action}: {error.get('type')}: {error.get('message')}"
    return [first, *fact_lines(error)]
