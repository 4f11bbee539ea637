"""The command `noetl submit`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message, write_json, write_stdout
from noetl.api.cli.service_requests import parse_service_url, send_request
from noetl.executor.model.run import RunStatus

app = typer.Typer()

_HTTP_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.5
_UNAUTHENTICATED = 401
_ACCEPTED: Mapping[str, type] = {"workflow_id": str, "status": str}
_STATE_SIGNS = {"succeeded": "✓", "failed": "✗", "running": "▶", "waiting": "◷", "retrying": "↻"}
_RESULT: Mapping[str, type] = {**_ACCEPTED, "result": object, "errors": list}


@app.command(no_args_is_help=True, epilog="Example: noetl submit deploy.yaml --url https://noetl.example.com")
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    url: Annotated[str, typer.Option("--url", metavar="URL", help="The address of the service.")],
    inputs: InputPairsOption = None,
    input_file: InputFileOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended, and write its result.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write the response of the service.")] = False,
) -> None:
    """Start a run of a playbook in a service, and write its id to stdout.

    NOETL_API_KEY is the API key or the token for the service.
    """
    from noetl.api.cli.inputs import parse_input_pairs, read_input_file
    from noetl.api.cli.sources import compile_source, read_source

    source = read_source(file)
    file_inputs = read_input_file(input_file) if input_file is not None else {}
    plan = compile_source(source).plan
    types = {} if plan is None else {name: declared.type for name, declared in plan.header.inputs.items()}
    values = {**file_inputs, **parse_input_pairs(inputs or (), types)}
    body = {"playbook": source.text, "input": values}
    service = ServiceClient(url, os.environ.get("NOETL_API_KEY", "").strip())
    accepted = service.request("POST", "/workflows/run", body, members=_ACCEPTED)
    if not wait:
        if json:
            write_json(accepted)
        else:
            write_stdout(f"{accepted['workflow_id']}\n")
        return
    result = _wait_for_result(service, accepted["workflow_id"])
    if json:
        write_json(result)
    elif result["status"] in (RunStatus.SUCCEEDED, RunStatus.COMPLETED_WITH_ERRORS):
        write_json(result["result"])
    if result["status"] != RunStatus.SUCCEEDED:
        for error in result["errors"]:
            for line in _describe_error(error):
                print_message(line)
        print_message(f"run {result['workflow_id']} {result['status']}")
        raise typer.Exit(EXIT_FAILED)


def _wait_for_result(service: ServiceClient, workflow_id: str) -> dict[str, Any]:
    """Return the result of a run once it has ended."""
    print_message(f"run {workflow_id}")
    shown: dict[str, tuple[Any, Any]] = {}
    while True:
        report = service.request("GET", f"/workflows/status/{workflow_id}", members=_ACCEPTED)
        steps = report.get("steps")
        for name, step in steps.items() if isinstance(steps, dict) else ():
            state = (step.get("status"), step.get("visits"))
            if shown.get(name, ("pending", 0)) != state:
                shown[name] = state
                print_message(_describe_state(name, step))
        if RunStatus(report["status"]).is_final:
            return service.request("GET", f"/workflows/result/{workflow_id}", members=_RESULT)
        time.sleep(_POLL_SECONDS)


def _describe_state(name: str, step: Mapping[str, Any]) -> str:
    """Return a line about the new state of a step.

    >>> _describe_state("pay", {"status": "retrying", "visits": 2})
    '↻ pay  retrying  visit 2'
    """
    status = str(step.get("status"))
    sign = _STATE_SIGNS.get(status, "·")
    word = "" if status in ("succeeded", "failed") else f"  {status}"
    visits = step.get("visits")
    return f"{sign} {name}{word}{f'  visit {visits}' if isinstance(visits, int) and visits > 1 else ''}"


class ServiceClient:
    """A client of a remote service."""

    def __init__(self, url: str, credentials: str) -> None:
        from noetl.api.auth.loopback import is_loopback

        parts = parse_service_url(url, "--url")
        if credentials and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise CommandError("NOETL_API_KEY is not sent over http, where others can read it; use https")
        self._url = url.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, members: Mapping[str, type]
    ) -> dict[str, Any]:
        """Send a request, and return the body of the response, which must have `members` of these types.

        Raises:
            CommandError: the request fails, the service refuses it, or the server is not a NoETL service.
        """
        response = send_request(
            method, self._url + path, self._host, _HTTP_TIMEOUT_SECONDS, json=body, headers=self._headers
        )
        if not response.is_success and isinstance(response.body, dict):
            lines = _problem_lines(self._host, response.status, response.body)
            if response.status == _UNAUTHENTICATED and not self._headers:
                lines[-1] += " Set NOETL_API_KEY."
            raise CommandError("\n".join(lines), EXIT_FAILED)
        if not response.is_success or not _has_members(response.body, members):
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
    first = f"{line}step `{error.get('step')}`: {error.get('type')}: {error.get('message')}"
    return [first, *fact_lines(error)]


def _problem_lines(host: str, status: int, problem: Mapping[str, Any]) -> list[str]:
    """Return the diagnostics and the detail of a problem document, or the status of another response."""
    diagnostics = problem.get("diagnostics")
    lines = map(_describe_diagnostic, diagnostics if isinstance(diagnostics, list) else ())
    detail = problem.get("detail") or problem.get("message") or status
    return [*filter(None, lines), f"{host} refused the request: {detail}"]


def _describe_diagnostic(found: Any) -> str | None:
    """Return a line about a diagnostic, or None if it has another form."""
    try:
        return f"line {found['line']}, column {found['column']}: {found['code']}: {found['message']}"
    except (LookupError, TypeError):
        return None
