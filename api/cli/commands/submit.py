"""The command `noetl submit`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from noetl.api.cli.commands.run import InputFileOption, InputPairsOption
from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message, write_json, write_stdout
from noetl.api.cli.service_requests import parse_service_url, unexpected_response
from noetl.executor.model.run import RunStatus

app = typer.Typer()

_HTTP_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.5
_UNAUTHENTICATED = 401
_RESULT_MEMBERS = ("workflow_id", "status", "result", "errors")


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
    accepted = service.request("POST", "/workflows/run", body, members=("workflow_id", "status"))
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
            print_message(f"step `{error['step']}`: {error['type']}: {error['message']}")
        print_message(f"run {result['workflow_id']} {result['status']}")
        raise typer.Exit(EXIT_FAILED)


def _wait_for_result(service: ServiceClient, workflow_id: str) -> dict[str, Any]:
    """Return the result of a run once it has ended."""
    print_message(f"run {workflow_id}")
    while True:
        result = service.request("GET", f"/workflows/result/{workflow_id}", members=_RESULT_MEMBERS)
        if RunStatus(result["status"]).is_final:
            return result
        time.sleep(_POLL_SECONDS)


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
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, members: Sequence[str]
    ) -> dict[str, Any]:
        """Send a request, and return the body of the response, which must have `members`.

        Raises:
            CommandError: the request fails, the service refuses it, or the server is not a NoETL service.
        """
        import httpx

        try:
            response = httpx.request(
                method, self._url + path, json=body, headers=self._headers, timeout=_HTTP_TIMEOUT_SECONDS
            )
            response_body = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CommandError(f"request to {self._host} failed: {error}") from error
        except ValueError:
            response_body = None
        if not response.is_success and isinstance(response_body, dict):
            lines = _problem_lines(self._host, response.status_code, response_body)
            if response.status_code == _UNAUTHENTICATED and not self._headers:
                lines[-1] += " Set NOETL_API_KEY."
            raise CommandError("\n".join(lines), EXIT_FAILED)
        if not isinstance(response_body, dict) or not response_body.keys() >= set(members):
            raise unexpected_response(response, "check --url")
        return response_body


def _problem_lines(host: str, status: int, problem: Mapping[str, Any]) -> list[str]:
    """Return the diagnostics and the detail of a problem document, or the status of another response."""
    lines = [
        f"line {found['line']}, column {found['column']}: {found['code']}: {found['message']}"
        for found in problem.get("diagnostics", ())
    ]
    detail = problem.get("detail") or problem.get("message") or status
    return [*lines, f"{host} refused the request: {detail}"]
