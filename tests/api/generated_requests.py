"""Requests that schemathesis generates from `/openapi.json`: right ones, and wrong ones.

    python -m tests.api.generated_requests --max-examples 500 --seed 7

Each option is one of `st run`. The command starts a service of its own, and sends the requests to it. Its
store is a new file, or the empty one of `NOETL_STORE`. The command fails if a response has a status of 5XX,
or anything that the document does not declare. It also fails if a request that the document forbids is
accepted, or one that it allows is refused for its form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import yaml

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.connections import ConnectionTable
from noetl.api.http.parameters import MAX_WAIT_SECONDS
from noetl.executor.stores import open_store
from tests.api.test_slow_clients import serve

HOOKS = Path(__file__).with_name("generated_checks.py")
ROOT = HOOKS.parents[2]

PARTS = {
    "examples,fuzzing": ("--max-examples", "2"),
    "coverage": (),
    "stateful": ("--max-examples", "150", "--mode", "positive"),
}
"""Phases of schemathesis that run at the same time, in processes of their own, with further options.

The phase `coverage` tries each part of each schema in many ways. A playbook has so many parts that this takes
more than ten minutes for one call. So this phase has a schema of playbooks with their first level only.
The phase `stateful` follows links from what it has created, so most of its playbooks are right ones.
"""

TRIGGERED = """\
name: triggered
triggers: [{name: yearly, type: schedule, cron: "0 0 1 1 *"}]
steps: [{name: a, run: [{action: set, set: {n: 1}}]}]
"""
"""A playbook with a trigger, which is not removed by a request for another playbook."""

MAX_STEPS = 20
"""How many calls follow each other in the phase `stateful`, along the links of the document."""

TIMEOUT_SECONDS = MAX_WAIT_SECONDS + 60
"""How long a call may take. A generated `Prefer: wait=N` may ask for the longest wait of the service."""

PLAYBOOKS = {
    "ended": "name: ended\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]",
    "open": "name: open\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]",
}


def send_generated_requests(
    folder: Path, *options: str, store_url: str = "", parts: Sequence[str] = tuple(PARTS)
) -> list[subprocess.CompletedProcess[str]]:
    """Send requests to a service. Return the finished `st run` of each part.

    The store is a file in `folder` unless it has an address. `parts` are keys of PARTS.
    """
    settings = {
        "NOETL_STORE": store_url or f"sqlite:///{folder / 'noetl.db'}",
        "NOETL_WORKERS": "1",
        "NOETL_ALLOW_ACTIONS": "set,log,wait,fail,callback,workflow",
        "NOETL_RATE_FAILURES": "0",
    }
    keys = {}
    store = open_store(settings["NOETL_STORE"])
    # Each part has a tenant of its own, so that it removes nothing that another needs.
    for number, phases in enumerate(parts):
        keys[phases], record = create_api_key("generated", ["admin"], f"tenant-{number}", 1.0)
        store.keys.add(record)
    store.close()
    configuration = folder / "schemathesis.toml"
    configuration.write_text(f"[phases.stateful]\nmax-steps = {MAX_STEPS}\n")
    app = create_app(settings)
    app.state.list_stream_seconds = 0.1  # The client reads each response to its end.
    with serve(app, ConnectionTable(100)) as port:
        address = f"http://127.0.0.1:{port}"

        def run(phases: str) -> subprocess.CompletedProcess[str]:
            return run_schemathesis(configuration, address, f"Bearer {keys[phases]}", phases, options)

        with ThreadPoolExecutor(len(parts)) as pool:
            return list(pool.map(run, parts))


def run_schemathesis(
    configuration: Path, address: str, authorization: str, phases: str, options: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run `st run` with a key of PARTS, and return it when it has finished."""
    command = [
        str(Path(sys.executable).with_name("st")),
        *("--no-color", "--config-file", configuration.name),
        *("run", f"{address}/openapi.json", "--header", f"Authorization: {authorization}"),
        *("--phases", phases, "--exclude-checks", "positive_data_acceptance"),
        *("--suppress-health-check", "all", "--continue-on-failure"),
        *("--request-timeout", str(TIMEOUT_SECONDS), *options, *PARTS[phases]),
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": str(HOOKS),
        "IDENTIFIERS": json.dumps(create_resources(address, authorization)),
        "PHASES": phases,
        "PLAYBOOKS": json.dumps([yaml.safe_load(text) for text in PLAYBOOKS.values()]),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        command,
        check=False,
        cwd=configuration.parent,
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
        for text in (*PLAYBOOKS.values(), TRIGGERED):
            client.post("/playbooks", json={"playbook": text}).raise_for_status()
        years = {"playbook": "triggered", "trigger": "yearly", "from": "2000-01-01", "to": "2002-01-01"}
        backfill = client.post("/backfills", json=years).raise_for_status().json()
    return {
        "workflow_id": [run["workflow_id"] for run in runs],
        "name": list(PLAYBOOKS),
        "playbook": ["triggered"],
        "trigger": ["yearly"],
        "backfill_id": [backfill["id"]],
        "tenant": ["unknown"],
        "path": ["unknown"],
        "channel": ["unknown"],
        "limit_name": ["unknown"],
        "alias": ["live"],
        "notification": ["unknown"],
        "version": ["1"],
        "token": ["unknown"],
        "code": ["NP101"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        finished = send_generated_requests(
            Path(scratch), *sys.argv[1:], store_url=os.environ.get("NOETL_STORE", "")
        )
    print("\n".join(part.stdout for part in finished))
    sys.exit(max(part.returncode for part in finished))
