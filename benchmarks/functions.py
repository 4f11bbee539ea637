"""`python -m benchmarks.functions`: the functions of Lambda. How large their packages are, how long they take until they can
work, and how long a step takes in one that is warm.

They run in an environment in which there is nothing but the runtime client and boto3, as in Lambda, from packages built for
this machine.
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

from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.start import new_run
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.build import MEGABYTE, build
from noetl.planner.compile import compile_playbook

from benchmarks import report
from benchmarks.cost import chain, emulated
from benchmarks.runtime import Runtime, running
from tests.tool_environments import tool_environment

RUNTIME = ("awslambdaric==4.2.2", "boto3")
REPETITIONS = 21

CLIENTS = "import boto3; boto3.client('dynamodb'); boto3.client('sqs')"
STARTS: Sequence[tuple[str, str, str, str]] = (
    (
        "step",
        "imported",
        "import noetl.executor.lambda_handler as it; it.load(); import noetl.executor.actions.set",
        "import boto3",
    ),
    (
        "step",
        "ready",
        "import noetl.executor.lambda_handler as it; it.prepare(); import noetl.executor.actions.set",
        CLIENTS,
    ),
    ("api", "imported", "import noetl.api.lambda_handler as it; it.load()", "import fastapi, mangum, boto3"),
    (
        "api",
        "ready",
        "import noetl.api.lambda_handler as it; it.prepare()",
        f"import fastapi, mangum; {CLIENTS}",
    ),
)
"""Each function with what its first message or request makes it import, and with its clients made, too; beside what it cannot
do without.
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
"""A function that makes the requests of a chain, and nothing else."""

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


def packages(folder: Path) -> dict[str, float]:
    """The packages of the functions, built into a folder, and how many megabytes each has zipped."""
    version = ".".join(platform.python_version_tuple()[:2])
    architecture = "arm64" if platform.machine() == "aarch64" else "x86_64"
    built = {
        name: build(name, folder / name, python=version, architecture=architecture)
        for name in ("step", "api")
    }
    return {name: zipped / MEGABYTE for name, (zipped, _) in built.items()}


def cold(folder: Path, megabytes: dict[str, float]) -> list[report.Row]:
    """How much time of a processor each function takes, less what Python takes without it, beside what it cannot do without."""
    rows = []
    for name, what, code, baseline in STARTS:
        empties, takens, leasts = _processor_seconds(folder / name, "pass", code, baseline)
        rounds = [
            (taken - empty, least - empty)
            for empty, taken, least in zip(empties, takens, leasts, strict=True)
        ]
        rows.append(
            {
                "function": name,
                "what": what,
                "megabytes": megabytes[name],
                "seconds": statistics.median(taken for taken, _ in rounds),
                "baseline": baseline,
                "baseline_seconds": statistics.median(least for _, least in rounds),
                "ratio": statistics.median(taken / least for taken, least in rounds),
            }
        )
    return rows


def warm(folder: Path) -> list[report.Row]:
    """How long an invocation takes that walks one step, and for each step of one that walks many, beside the same requests
    made by a function that does nothing else. Both are in the runtime client, and their requests go to an emulator.
    """
    (folder / "bare").mkdir()
    (folder / "bare" / "bare.py").write_text(BARE)
    python = tool_environment(*RUNTIME) / "bin" / "python"
    with emulated() as queue:
        store = open_store()
        assert isinstance(store, DynamoStore)
        with running(python, folder / "step", "noetl.executor.lambda_handler.step") as ours:
            one, many = (_walk_seconds(ours, store, queue, steps) for steps in (1, CHAIN_STEPS))
        with running(python, folder / "bare", "bare.handle", AWS_DEFAULT_REGION="us-east-1") as bare:
            # The end of a run is a visit, too.
            least, most = (_median(bare, [{"steps": steps + 1}] * REPETITIONS) for steps in (1, CHAIN_STEPS))
    each, least_each = ((b - a) / (CHAIN_STEPS - 1) for a, b in ((one, many), (least, most)))
    found = (("a run of one step", one, least), ("a run of many, each step more", each, least_each))
    return [
        {"what": what, "seconds": taken, "baseline_seconds": base, "ratio": taken / base}
        for what, taken, base in found
    ]


def _walk_seconds(runtime: Runtime, store: DynamoStore, queue: str, steps: int) -> float:
    """The time of an invocation that walks a whole run of so many steps."""
    sqs = client("sqs", once=True)
    plan = compile_playbook(chain(steps), catalogue()).plan
    assert plan is not None
    store.save_plan(plan)
    events = []
    for _ in range(REPETITIONS):
        store.create_run(*new_run(plan.header, plan.hash, {"text": "x" * 1024}, now=time.time()))
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)["Messages"]
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        events.append({"Records": [{"messageId": "1", "body": message["Body"]}]})
    return _median(runtime, events)


def _median(runtime: Runtime, events: Sequence[Mapping[str, Any]]) -> float:
    runtime.invoke(events[0])  # and it is warm
    return statistics.median(runtime.invoke(event)[1] for event in events[1:])


def _processor_seconds(folder: Path, *codes: str) -> list[list[float]]:
    """The times of a processor that a process takes to run each of these, which take turns: another load on this machine makes
    none of them longer, or all. How it ends does not count.
    """
    python = tool_environment(*RUNTIME) / "bin" / "python"
    environ = {**os.environ, **SETTINGS}
    times: list[list[float]] = [[] for _ in codes]
    for _ in range(REPETITIONS):
        for code, taken in zip(codes, times, strict=True):
            before = _taken_by_children()
            subprocess.run(
                [python, "-c", f"{code}; import os; os._exit(0)"], cwd=folder, env=environ, check=True
            )
            taken.append(_taken_by_children() - before)
    return times


def _taken_by_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="noetl-functions-") as name:
        folder = Path(name)
        megabytes = packages(folder)
        print(
            report.table(
                "Functions, in an environment with boto3 and nothing else", COLD, cold(folder, megabytes)
            )
        )
        print(
            report.table("A warm function in the runtime client, requests to an emulator", WARM, warm(folder))
        )


if __name__ == "__main__":
    main()
