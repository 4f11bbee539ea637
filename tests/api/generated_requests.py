"""Requests that schemathesis generates from `/openapi.json`: right ones, and wrong ones.

    python -m tests.api.generated_requests --max-examples 500 --seed 7

Each option is one of `st run`. The command starts a service of its own, and sends the requests to it. It
fails if a response has a status of 5XX, or anything that the document does not declare. It also fails if a
request that the document forbids is accepted, or one that it allows is refused for its form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.connections import ConnectionTable
from noetl.executor.stores import open_store
from tests.api.test_slow_clients import serve

HOOKS = Path(__file__).with_name("generated_checks.py")
ROOT = HOOKS.parents[2]

WITH_PLAYBOOK = ("startRun", "describePlan", "registerPlaybook")
"""The calls with a playbook, whose schema has too many parts to try each (the phase `coverage`)."""

PLAYBOOKS = {
    "ended": "name: ended\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]",
    "open": "name: open\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]",
}


def send_generated_requests(
    folder: Path, *options: str, phases: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Send requests to a service with a store in `folder`. Return the finished `st run`."""
    settings = {
        "NOETL_STORE": f"sqlite:///{folder / 'noetl.db'}",
        "NOETL_WORKERS": "1",
        "NOETL_ALLOW_ACTIONS": "set,log,wait,fail,callback,workflow",
        "NOETL_RATE_FAILURES": "0",
    }
    key, record = create_api_key("generated", ["admin"], "default", 1.0)
    store = open_store(settings["NOETL_STORE"])
    store.keys.add(record)
    store.close()
    authorization = f"Bearer {key}"
    disabled = "\n".join(
        f'[[operations]]\ninclude-operation-id = "{name}"\nphases.coverage.enabled = false'
        for name in WITH_PLAYBOOK
    )
    (folder / "schemathesis.toml").write_text(disabled)
    with serve(create_app(settings), ConnectionTable(100)) as port:
        address = f"http://127.0.0.1:{port}"
        identifiers = create_resources(address, authorization)
        command = [
            *(str(Path(sys.executable).with_name("st")), "--no-color", "--config-file", "schemathesis.toml"),
            *("run", f"{address}/openapi.json", "--header", f"Authorization: {authorization}"),
            *("--phases", ",".join(phases), "--exclude-checks", "positive_data_acceptance"),
            *("--suppress-health-check", "all", "--continue-on-failure", *options),
        ]
        environment = {
            **os.environ,
            "SCHEMATHESIS_HOOKS": str(HOOKS),
            "IDENTIFIERS": json.dumps(identifiers),
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            command,
            check=False,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def create_resources(address: str, authorization: str) -> dict[str, list[str]]:
    """Return identifiers of runs and playbooks that are created, for each parameter of a path."""
    with httpx.Client(base_url=address, headers={"Authorization": authorization}, timeout=60) as client:
        runs = [
            client.post("/workflows/run", json={"playbook": text}, headers={"Prefer": "wait=1"}).json()
            for text in PLAYBOOKS.values()
        ]
        for text in PLAYBOOKS.values():
            client.post("/playbooks", json={"playbook": text}).raise_for_status()
    return {
        "workflow_id": [run["workflow_id"] for run in runs],
        "name": list(PLAYBOOKS),
        "version": ["1"],
        "token": ["unknown"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        done = send_generated_requests(
            Path(scratch), *sys.argv[1:], phases=("examples", "coverage", "fuzzing")
        )
    print(done.stdout)
    sys.exit(done.returncode)
