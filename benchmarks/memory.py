"""The memory of a function: `python -m benchmarks.memory`.

Executes batches of messages in a process whose memory a cgroup limits, as Lambda does. Each batch must
end with named errors at worst. The command fails if the process is killed, a run does not end, or there are
no cgroups.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.cost import create_bucket, emulated_account
from noetl.executor.actions import catalogue
from noetl.executor.clients.aws import client
from noetl.executor.engine.start import new_run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.infra.migrations import upgrade
from noetl.planner.compile import compile_playbook

MEGABYTE = 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup")
FIRST_LIMITS = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
SECOND_LIMITS = "memory.max", "memory.swap.max"
TEMPLATE = Path(__file__).parents[1] / "template.yaml"
VALUE = "name: value\nsteps: [{name: a, run: [{action: set, set: {v: \"{{ 'x' * SIZE }}\"}}]}]\n"
OBJECT = "name: object\nsteps: [{name: a, run: [{action: s3, get: 's3://BUCKET/SIZE'}]}]\n"
NAMES = [f"v{number}" for number in range(10)]
READ = (
    "- {{name: s{0}, run: [{{action: s3, get: 's3://BUCKET/SIZE', as: v{0}}}],"
    " rule: [{{case: default, run: [s{1}]}}]}}\n"
)
VALUES = (
    "name: values\nsteps:\n"
    + "".join(READ.format(number, number + 1) for number in range(10))
    + f'- {{name: s10, run: [{{action: set, set: {{n: "{{{{ [{", ".join(NAMES)}] | length }}}}"}}}}]}}\n'
    + "output: {n: '{{ n }}'}\n"
)
CASES = (
    ("ten values of 6 MB", VALUE, 10, 6_000_000),
    ("an object of 30 MB", OBJECT, 1, 30_000_000),
    ("ten objects of 6 MB", OBJECT, 10, 6_000_000),
    ("ten objects of 15 MB", OBJECT, 10, 15_000_000),
    ("a step that reads ten values of 5 MB", VALUES, 1, 5_000_000),
    ("a step that reads ten values of 12 MB", VALUES, 1, 12_000_000),
    ("ten values of 6 MB, Postgres", VALUE, 10, 6_000_000),
    ("a step that reads ten values of 5 MB, Postgres", VALUES, 1, 5_000_000),
    ("a step that reads ten values of 12 MB, Postgres", VALUES, 1, 12_000_000),
)
COLUMNS: Sequence[report.Column] = (
    ("batch", lambda row: row["batch"]),
    ("succeeded", lambda row: f"{row['succeeded']:,}"),
    ("errors", lambda row: ", ".join(f"{count} {name}" for name, count in row["errors"].items()) or "none"),
    ("not ended", lambda row: f"{row['open']:,}"),
    ("most memory", lambda row: f"{row['megabytes']:,.0f} MB"),
    ("end of the process", lambda row: "killed" if row["status"] else "returned"),
)

CHILD = """
import json, sys, time
from noetl.executor import lambda_handler
class Context:
    aws_request_id, function_name = "memory", "step"
    ends_at = time.monotonic() + 120
    def get_remaining_time_in_millis(self):
        return int((self.ends_at - time.monotonic()) * 1000)
lambda_handler.step(json.load(sys.stdin), Context())
"""


def find_second_version() -> Path | None:
    """Return where cgroups of version 2 with the controller of memory are mounted, or None.

    On a hybrid system, the controllers of version 1 are next to `unified`, and each belongs to one version.
    """
    for root in (CGROUPS, CGROUPS / "unified"):
        controllers = root / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text().split():
            return root
    return None


@contextmanager
def limited_group(size: int) -> Iterator[Path]:
    """Yield a cgroup of version 1 or 2 whose processes have `size` bytes of memory, and no other in a swap.

    Raises:
        RuntimeError: neither is mounted, or this process may not create a group.
    """
    second = find_second_version()
    parent = second or CGROUPS / "memory"
    group = parent / f"noetl-{os.getpid()}"
    try:
        if second is not None and "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            (parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        limit, swap = SECOND_LIMITS if second is not None else FIRST_LIMITS
        (group / limit).write_text(str(size))
        if (group / swap).exists():
            # Version 1 limits memory and swap together, version 2 the swap alone.
            (group / swap).write_text("0" if second is not None else str(size))
    except OSError as error:
        raise RuntimeError(f"the memory of a process cannot be limited by a cgroup: {error}") from error
    try:
        yield group
    finally:
        group.rmdir()


def read_allocator_settings() -> dict[str, str]:
    """Return the variables of the C allocator that the template gives the functions."""
    return dict(re.findall(r'(MALLOC_\w+): "(\d+)"', TEMPLATE.read_text("utf-8")))


def execute(group: Path, megabytes: int, event: object) -> int:
    """Execute a batch in a process of a cgroup, and return its exit status.

    The process enters the group before it starts to execute Python.
    """
    enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    process = subprocess.Popen(
        [*enter, sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(megabytes),
            "AWS_LAMBDA_FUNCTION_NAME": "step",
            **read_allocator_settings(),
        },
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(event).encode())
    process.stdin.close()
    return process.wait()


def read_peak(group: Path) -> int:
    """Return the most bytes that the processes of a cgroup took, or 0 if the kernel does not count them."""
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        if (group / name).exists():
            return int((group / name).read_text())
    return 0


def receive_records(sqs: Any, queue: str) -> list[dict[str, str]]:
    """Return the available messages in Lambda's form. None of them arrives again."""
    answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1)
    records = []
    for message in answer.get("Messages", ()):
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        records.append({"messageId": message["MessageId"], "body": message["Body"]})
    return records


@contextmanager
def postgres_database() -> Iterator[None]:
    """Let the functions use a new store in Postgres."""
    from tests.postgres import running_server

    with running_server() as server, pytest.MonkeyPatch.context() as patch:
        upgrade(server.dsn)
        patch.setenv("NOETL_STORE", server.dsn)
        yield


def measure(batch: str, playbook: str, count: int, size: int, megabytes: int) -> report.Row:
    """Return how a batch of `count` runs of a playbook with values of `size` bytes ends.

    A batch with `Postgres` in its name has its store there.
    """
    with ExitStack() as stack:
        queue = stack.enter_context(emulated_account())
        if "Postgres" in batch:
            stack.enter_context(postgres_database())
        group = stack.enter_context(limited_group(megabytes * MEGABYTE))
        s3, sqs = client("s3"), client("sqs", without_retries=True)
        bucket = create_bucket()
        text = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=size))
        s3.put_object(Bucket=bucket, Key=str(size), Body=text.encode())
        os.environ["NOETL_BUCKET"] = create_bucket()
        compilation = compile_playbook(
            playbook.replace("SIZE", str(size)).replace("BUCKET", bucket), catalogue()
        )
        assert compilation.plan is not None, compilation.diagnostics
        plan = compilation.plan
        with closing(open_store()) as store:
            store.plans.save(plan)
            request = StartRequest({}, origin="service")
            runs = [
                store.runs.create(*new_run(plan.header, plan.hash, request, now=time.time()))
                for _ in range(count)
            ]
            status = 0
            while not status and (records := receive_records(sqs, queue)):
                status = execute(group, megabytes, {"Records": records})
            peak = read_peak(group)
            ended = [run for run in (store.runs.get(run.tenant, run.id) for run in runs) if run is not None]
    return {
        "batch": batch,
        "succeeded": sum(run.status == "succeeded" for run in ended),
        "errors": dict(Counter(error["type"] for run in ended for error in run.errors)),
        "open": sum(not run.status.is_final for run in ended),
        "megabytes": peak / MEGABYTE,
        "status": status,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256, help="memory of the function")
    megabytes = parser.parse_args().megabytes
    rows = [measure(*case, megabytes) for case in CASES]
    print(report.table(f"Batches in a function with {megabytes} MB", COLUMNS, rows))
    if any(row["status"] or row["open"] for row in rows):
        sys.exit("a function was killed, or a run did not end")


if __name__ == "__main__":
    main()
