"""The functions of Lambda: `python -m benchmarks.functions`.

Measures the size of their packages, their time until they can work, and the time of a step in a warm
function. They run in an environment with only the runtime client and boto3, as in Lambda. Their packages
are built for this machine.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cost import emulated_account
from benchmarks.playbooks import text_chain
from benchmarks.runtime import LambdaRuntime, running
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.start import new_run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.build import MEGABYTE, build
from noetl.planner.compile import compile_playbook
from tests.tool_environments import tool_environment

RUNTIME = ("awslambdaric==4.2.2", "boto3")
REPETITIONS = 21

CLIENTS = "import boto3; boto3.client('dynamodb'); boto3.client('sqs')"
STARTS: Sequence[tuple[str, str, str, str]] = (
    (
        "step",
        "imported",
        "import noetl.executor.lambda_handler as it; it.PRELOAD.load(); import noetl.executor.actions.set",
        "import boto3",
    ),
    (
        "step",
        "ready",
        "import noetl.executor.lambda_handler as it; it.PRELOAD.prepare(); import noetl.executor.actions.set",
        CLIENTS,
    ),
    (
        "api",
        "imported",
        "import noetl.api.lambda_handler as it; it.PRELOAD.load()",
        "import fastapi, mangum, boto3",
    ),
    (
        "api",
        "ready",
        "import noetl.api.lambda_handler as it; it.PRELOAD.prepare()",
        f"import fastapi, mangum; {CLIENTS}",
    ),
)
"""Function, state, code that reaches the state, and the code to compare with.

The code imports what the first message or request imports. In the state `ready` it also creates the clients.
"""

SETTINGS = {"NOETL_STORE": "dynamodb://noetl", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
CHAIN_STEPS = 50

BARE = """
import boto3, os
dynamodb, sqs = boto3.client("dynamodb"), boto3.client("sqs")
TABLE, QUEUE = os.environ["NOETL_STORE"].partition("://")[2], os.environ["NOETL_QUEUE"]
def handle(event, context):
    key = {"pk": {"S": "bare"}, "sk": {"S": "bare"}}
    for number in range(event["steps"]):
        change = {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"N": str(number)}}}
        dynamodb.update_item(TableName=TABLE, Key=key, **change)
        dynamodb.batch_get_item(RequestItems={TABLE: {"Keys": [key], "ConsistentRead": True}})
        dynamodb.update_item(TableName=TABLE, Key=key, **change)
        if number == 0:
            sqs.send_message(QueueUrl=QUEUE, MessageBody="{}")
    return {}
"""
"""A function that sends the requests of a chain, and does nothing else."""

WARM: Sequence[report.Column] = (
    ("an invocation of", lambda row: row["what"]),
    ("takes", lambda row: f"{row['seconds'] * 1e3:,.1f} ms"),
    ("the same requests", lambda row: f"{row['baseline_seconds'] * 1e3:,.1f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
)

COLD: Sequence[report.Column] = (
    ("function", lambda row: row["function"]),
    ("zipped", lambda row: f"{row['megabytes']:.1f} MB"),
    ("", lambda row: row["what"]),
    ("after", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("compared with", lambda row: row["baseline"]),
    ("that", lambda row: f"{row['baseline_seconds'] * 1e3:,.0f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
)


def build_packages(folder: Path) -> dict[str, float]:
    """Build the packages of the functions. Return the zipped size of each in megabytes."""
    version = ".".join(platform.python_version_tuple()[:2])
    architecture = "arm64" if platform.machine() == "aarch64" else "x86_64"
    built = {
        name: build(name, folder / name, python=version, architecture=architecture)
        for name in ("step", "api")
    }
    return {name: zipped / MEGABYTE for name, (zipped, _) in built.items()}


def measure_cold_starts(folder: Path, megabytes: dict[str, float]) -> list[report.Row]:
    """Return the processor time of each state and its baseline, without the start of Python."""
    rows = []
    for name, state, code, baseline in STARTS:
        empty_times, function_times, baseline_times = _processor_seconds(
            folder / name, "pass", code, baseline
        )
        rounds = [
            (taken - empty, least - empty)
            for empty, taken, least in zip(empty_times, function_times, baseline_times, strict=True)
        ]
        rows.append(
            {
                "function": name,
                "what": state,
                "megabytes": megabytes[name],
                "seconds": statistics.median(taken for taken, _ in rounds),
                "baseline": baseline,
                "baseline_seconds": statistics.median(least for _, least in rounds),
                "ratio": statistics.median(taken / least for taken, least in rounds),
            }
        )
    return rows


def measure_warm_invocations(folder: Path) -> list[report.Row]:
    """Return rows of an invocation with one step, and of each step of a longer one.

    The baseline is a function that only sends the same requests. Both run in the runtime client, and their
    requests go to an emulator.
    """
    (folder / "bare").mkdir()
    (folder / "bare" / "bare.py").write_text(BARE)
    python = tool_environment(*RUNTIME) / "bin" / "python"
    with emulated_account() as queue:
        store = open_store()
        assert isinstance(store, DynamoStore)
        with running(python, folder / "step", "noetl.executor.lambda_handler.step") as ours:
            short_run, long_run = (_run_seconds(ours, store, queue, steps) for steps in (1, CHAIN_STEPS))
        with running(python, folder / "bare", "bare.handle", AWS_DEFAULT_REGION="us-east-1") as bare:
            # The end of a run is a visit as well.
            short_baseline, long_baseline = (
                _median(bare, [{"steps": steps + 1}] * REPETITIONS) for steps in (1, CHAIN_STEPS)
            )
    step = (long_run - short_run) / (CHAIN_STEPS - 1)
    baseline_step = (long_baseline - short_baseline) / (CHAIN_STEPS - 1)
    measurements = (
        ("a run of one step", short_run, short_baseline),
        ("each further step of a longer run", step, baseline_step),
    )
    return [
        {"what": name, "seconds": seconds, "baseline_seconds": baseline, "ratio": seconds / baseline}
        for name, seconds, baseline in measurements
    ]


def _run_seconds(runtime: LambdaRuntime, store: DynamoStore, queue: str, steps: int) -> float:
    """Return the median time of an invocation that executes a run with this number of steps."""
    sqs = client("sqs", without_retries=True)
    plan = compile_playbook(text_chain(steps), catalogue()).plan
    assert plan is not None
    store.plans.save(plan)
    events = []
    for _ in range(REPETITIONS):
        store.runs.create(
            *new_run(plan.header, plan.hash, StartRequest({"text": "x" * 1024}), now=time.time())
        )
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"]
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        events.append({"Records": [{"messageId": "1", "body": message["Body"]}]})
    return _median(runtime, events)


def _median(runtime: LambdaRuntime, events: Sequence[Mapping[str, Any]]) -> float:
    runtime.invoke(events[0])  # warms the function up
    return statistics.median(runtime.invoke(event)[1] for event in events[1:])


def _processor_seconds(folder: Path, *codes: str) -> list[list[float]]:
    """Return the processor times of each code, run in a new process.

    The codes alternate, so that another load on this machine affects all of them. The end of the process is
    not measured.
    """
    python = tool_environment(*RUNTIME) / "bin" / "python"
    environ = {**os.environ, **SETTINGS}
    times: list[list[float]] = [[] for _ in codes]
    for _ in range(REPETITIONS):
        for code, taken in zip(codes, times, strict=True):
            before = _children_seconds()
            subprocess.run(
                [python, "-c", f"{code}; import os; os._exit(0)"], cwd=folder, env=environ, check=True
            )
            taken.append(_children_seconds() - before)
    return times


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="noetl-functions-") as name:
        folder = Path(name)
        megabytes = build_packages(folder)
        cold_rows = measure_cold_starts(folder, megabytes)
        print(report.table("Functions, in an environment with only boto3", COLD, cold_rows))
        warm_rows = measure_warm_invocations(folder)
        print(report.table("A warm function in the runtime client, requests to an emulator", WARM, warm_rows))


if __name__ == "__main__":
    main()
