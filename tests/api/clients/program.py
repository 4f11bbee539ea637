"""A program of a client with the package that openapi-python-client has generated, `noetl_client`.

    python program.py ADDRESS KEY

It starts a run, waits for it, and prints what it reads.
"""

from __future__ import annotations

import datetime as dt
import sys
import time

from noetl_client import AuthenticatedClient
from noetl_client.api.playbooks import register_playbook
from noetl_client.api.workflows import (
    get_run_events,
    get_run_graph,
    get_run_result,
    get_run_status,
    list_runs,
    start_run,
)
from noetl_client.models import Accepted, PlaybookBody, Problem, Result, RunStatus, SubmissionBody

PLAYBOOK = {
    "name": "greet",
    "input": {"who": "string"},
    "steps": [{"name": "hello", "run": [{"action": "set", "set": {"greeting": "Hello {{ who }}"}}]}],
    "output": {"greeting": "{{ greeting }}"},
}


def main(address: str, key: str) -> None:
    """Use the service at `address`."""
    client = AuthenticatedClient(base_url=address, token=key)
    registered = register_playbook.sync(client=client, body=PlaybookBody.from_dict({"playbook": PLAYBOOK}))
    print("registered", registered.name, registered.version)
    body = SubmissionBody.from_dict({"playbook": {"name": "greet"}, "input": {"who": "you"}})
    accepted = start_run.sync(client=client, body=body, idempotency_key="one")
    assert isinstance(accepted, Accepted), accepted
    response = get_run_result.sync_detailed(accepted.workflow_id, client=client)
    while response.status_code == 202:
        time.sleep(float(response.headers["Retry-After"]) / 10)
        response = get_run_result.sync_detailed(accepted.workflow_id, client=client)
    assert isinstance(response.parsed, Result), response
    print(response.parsed.status.value, response.parsed.result)
    status = get_run_status.sync(accepted.workflow_id, client=client)
    assert isinstance(status.created_at, dt.datetime)
    print({name: step.status.value for name, step in status.steps.additional_properties.items()})
    graph = get_run_graph.sync(accepted.workflow_id, client=client)
    events = get_run_events.sync(accepted.workflow_id, client=client)
    runs = list_runs.sync(client=client, status=[RunStatus.SUCCEEDED], since=status.created_at)
    print(graph.start, events.items[0].type_, [run.playbook for run in runs.items])
    refused = start_run.sync(client=client, body=SubmissionBody.from_dict({"playbook": "name: x"}))
    assert isinstance(refused, Problem), refused
    print(refused.type_, [finding.code for finding in refused.diagnostics])


if __name__ == "__main__":
    main(*sys.argv[1:])
