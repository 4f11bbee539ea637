"""`noetl submit`"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from noetl.api.cli.commands.run import GivenOption, InputOption
from noetl.api.cli.display.console import FAILED, RefusalError, say, write, write_json

_HTTP_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.5
_FINAL = ("succeeded", "completed_with_errors", "failed", "cancelled", "timed_out")


def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    url: Annotated[str, typer.Option("--url", metavar="URL", help="Where the service is.")],
    given: GivenOption = None,
    input: InputOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the run has ended, and write its result.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write what the service answers.")] = False,
) -> None:
    """Start a run of a playbook in a service, and write its id to stdout.

    NOETL_API_KEY is the API key, or the token, that the service asks for.
    """
    from noetl.api.cli.inputs import read_file, read_pairs
    from noetl.api.cli.sources import compile_source, read_source

    source = read_source(file)
    from_file = read_file(input) if input is not None else {}
    plan = compile_source(source).plan
    types = {} if plan is None else {name: declared.type for name, declared in plan.header.inputs.items()}
    body = {"playbook": source.text, "input": {**from_file, **read_pairs(given or (), types)}}
    service = _Service(url, os.environ.get("NOETL_API_KEY", "").strip())
    accepted = service.ask("POST", "/workflows/run", body)
    if not wait:
        if json:
            write_json(accepted)
        else:
            write(f"{accepted['workflow_id']}\n")
        return
    ended = _ended(service, accepted["workflow_id"])
    if json:
        write_json(ended)
    elif ended["status"] in ("succeeded", "completed_with_errors"):
        write_json(ended["result"])
    if ended["status"] != "succeeded":
        for error in ended["errors"]:
            say(f"step `{error['step']}`: {error['type']}: {error['message']}")
        say(f"run {ended['workflow_id']} {ended['status']}")
        raise typer.Exit(FAILED)


def _ended(service: _Service, workflow_id: str) -> dict[str, Any]:
    """The result of a run, once it has ended."""
    say(f"run {workflow_id}")
    while True:
        result = service.ask("GET", f"/workflows/result/{workflow_id}")
        if result["status"] in _FINAL:
            return result
        time.sleep(_LOOK_EVERY_SECONDS)


class _Service:
    """A service somewhere else."""

    def __init__(self, url: str, credentials: str) -> None:
        from noetl.api.auth.loopback import is_loopback

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RefusalError(f"--url must be an http or https URL, and is {url!r}")
        if credentials and parts.scheme == "http" and not is_loopback(parts.hostname):
            raise RefusalError("NOETL_API_KEY is not sent over http, where others can read it; use https")
        self._url = url.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._headers = {"Authorization": f"Bearer {credentials}"} if credentials else {}

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the service answers.

        Raises:
            RefusalError: it cannot be reached, or refuses.
        """
        import httpx

        try:
            answer = httpx.request(
                method, self._url + path, json=body, headers=self._headers, timeout=_HTTP_SECONDS
            )
            found = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RefusalError(f"{self._host} cannot be asked: {error}") from error
        except ValueError:
            found = None
        if not answer.is_success or not isinstance(found, dict):
            raise RefusalError("\n".join(_sentences(self._host, answer.status_code, found)), FAILED)
        return found


def _sentences(host: str, status: int, problem: Any) -> list[str]:
    """Why a service refuses, in its own words where it has any."""
    if not isinstance(problem, dict):
        return [f"{host} refuses with status {status}"]
    found = [
        f"line {one['line']}, column {one['column']}: {one['code']}: {one['message']}"
        for one in problem.get("diagnostics", ())
    ]
    return [*found, f"{host} refuses: {problem.get('detail') or problem.get('message') or status}"]
