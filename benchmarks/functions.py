"""`python -m benchmarks.functions`: the functions of Lambda. How large their packages are, and how long they take until they
can work.

They run in an environment in which there is nothing but the runtime client and boto3, as in Lambda, from packages built for
this machine.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.measure import seconds
from infra.build import MEGABYTE, build
from tests.tools import environment

RUNTIME = ("awslambdaric==4.2.2", "boto3")
REPETITIONS = 9

STEP = "import executor.lambda_handler, executor.keeping, executor.stores.dynamo.store, executor.actions.set, botocore.session"
"""The function that walks, with what its first message makes it import."""

API = "import api.lambda_handler, executor.stores.dynamo.store, botocore.session; api.lambda_handler._app()"
"""The function that answers, with its app made."""

COLD: Sequence[report.Column] = (
    ("function", lambda row: row["function"]),
    ("zipped", lambda row: f"{row['megabytes']:.1f} MB"),
    ("to import", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("compared with", lambda row: row["baseline"]),
    ("that", lambda row: f"{row['baseline_seconds'] * 1e3:,.0f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
)


def packages(folder: Path) -> dict[str, float]:
    """The packages of the functions, built into a folder, and how many megabytes each has zipped."""
    version = ".".join(platform.python_version_tuple()[:2])
    architecture = "arm64" if platform.machine() == "aarch64" else "x86_64"
    built = {name: build(name, folder / name, python=version, architecture=architecture) for name in ("step", "api")}
    return {name: zipped / MEGABYTE for name, (zipped, _) in built.items()}


def cold(folder: Path, megabytes: dict[str, float]) -> list[report.Row]:
    """How long each function takes to import, less what Python takes without it, beside what it cannot do without."""
    empty = _import_seconds(folder / "step", "pass")
    rows = []
    for name, code, baseline in (("step", STEP, "import boto3"), ("api", API, "import fastapi, mangum, boto3")):
        taken, least = (_import_seconds(folder / name, one) - empty for one in (code, baseline))
        rows.append(
            {
                "function": name,
                "megabytes": megabytes[name],
                "seconds": taken,
                "baseline": baseline,
                "baseline_seconds": least,
                "ratio": taken / least,
            }
        )
    return rows


def _import_seconds(folder: Path, code: str) -> float:
    python = environment(*RUNTIME) / "bin" / "python"
    return seconds(lambda: subprocess.run([python, "-c", code], cwd=folder, check=True), REPETITIONS)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="noetl-functions-") as name:
        folder = Path(name)
        megabytes = packages(folder)
        print(report.table("Functions, in an environment with boto3 and nothing else", COLD, cold(folder, megabytes)))


if __name__ == "__main__":
    main()
