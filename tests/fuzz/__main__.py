"""Fuzz the targets with mutated input: `make fuzz`, and `make fuzz-controls` with planted faults.

    python -m tests.fuzz [--planted] [--seconds N] [TARGET ...]

Prints the executions and the coverage of each target. An input that breaks a promise is copied to the corpus
of its target, and the exit status is 1. With `--planted`, it is 1 unless each planted fault is found.

Problem: bad input takes more forms than a person can list.

Algorithm: coverage-guided mutation (libFuzzer, driven by Atheris). An input that reaches new branches of
the code is kept and mutated further. Each target runs in a process of its own.

Cost: instrumented code is about three times as slow.

Limits: the coverage is that of Python code; libyaml is not instrumented. A minute without a finding proves
little.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).parent / "corpus"
BUILD = Path("build", "fuzz")
SECONDS = 60
CONTROL_SECONDS = 300
MAX_BYTES = 4096
MAX_MEGABYTES = 2048
MAX_SECONDS_OF_ONE_INPUT = 10
CHILD = Path(__file__).parent / "child.py"


class Campaign(NamedTuple):
    """The result of fuzzing a target: counts of libFuzzer, and the inputs that broke a promise.

    `is_complete` is false if the process ended before its time. Then there is a finding, or it was killed.
    """

    is_complete: bool
    executions: int
    branches: int
    inputs: int
    findings: tuple[Path, ...]
    log: str


def fuzz(target: str, seconds: int, planted: str | None = None) -> Campaign:
    """Run the fuzzer on a target for some seconds, or until its first finding."""
    folder = BUILD / (planted or target).replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "findings").mkdir(parents=True)
    (folder / "inputs").mkdir()
    # A fault that is planted must be found without the inputs of earlier findings.
    known = [path for path in (CORPUS / target).iterdir() if planted is None or path.name.startswith("seed-")]
    for path in known:
        shutil.copy(path, folder / "inputs")
    options = {
        "artifact_prefix": f"{folder}/findings/",
        "max_len": MAX_BYTES,
        "max_total_time": seconds,
        "print_final_stats": 1,
        "rss_limit_mb": MAX_MEGABYTES,
        "timeout": MAX_SECONDS_OF_ONE_INPUT,
        "dict": folder / "tokens",
    }
    command = [sys.executable, str(CHILD), target, planted or "", str(folder), str(folder / "inputs")]
    command += [f"-{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return read_campaign(done.stdout.decode("utf-8", "replace"), folder)


def read_campaign(log: str, folder: Path) -> Campaign:
    """Return the result that a log of libFuzzer reports."""
    executions = re.findall(r"^(?:#|stat::number_of_executed_units: )(\d+)", log, re.MULTILINE)
    branches = re.findall(r" cov: (\d+)", log)
    return Campaign(
        is_complete=re.search(r"^#\d+\s+DONE ", log, re.MULTILINE) is not None,
        executions=max(map(int, executions), default=0),
        branches=max(map(int, branches), default=0),
        inputs=len(list((folder / "inputs").iterdir())),
        findings=tuple({path.read_bytes(): path for path in (folder / "findings").iterdir()}.values()),
        log=log,
    )


def fuzz_targets(names: list[str], seconds: int) -> int:
    """Run the fuzzer on targets and print a table. Return the exit status."""
    status = 0
    print(f"{'target':<12}{'executions':>12}{'branches':>10}{'inputs':>8}{'findings':>10}")
    for name in names:
        campaign = fuzz(name, seconds)
        print(
            f"{name:<12}{campaign.executions:>12,}{campaign.branches:>10,}{campaign.inputs:>8,}"
            f"{len(campaign.findings):>10,}"
        )
        if not campaign.is_complete or campaign.findings:
            status = 1
            print(campaign.log)
        for path in campaign.findings:
            content = path.read_bytes()
            kept = CORPUS / name / f"found-{sha256(content).hexdigest()[:12]}"
            kept.write_bytes(content)
            print(f"The input is kept in {kept.relative_to(Path.cwd())}; `pytest tests/fuzz` replays it.")
    return status


def find_planted_faults(seconds: int) -> int:
    """Run the fuzzer with each planted fault, and print what was found. Return the exit status."""
    from tests.fuzz.planted import PLANTED

    missed = 0
    for name, fault in PLANTED.items():
        campaign = fuzz(fault.target, seconds, name)
        found = campaign.findings[0].read_bytes() if campaign.findings else None
        missed += found is None
        result = f"missed in {seconds} s" if found is None else f"found {found[:60]!r}"
        print(f"{name}: {result} ({campaign.executions:,} executions)")
        if found is None and not campaign.is_complete:
            print(campaign.log)
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the targets.")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--planted", action="store_true", help="plant faults, and show that they are found")
    parser.add_argument("--seconds", type=int, help="seconds for each target, or for each planted fault")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if options.planted:
        return find_planted_faults(options.seconds or CONTROL_SECONDS)
    names = options.targets or sorted(path.name for path in CORPUS.iterdir())
    return fuzz_targets(names, options.seconds or SECONDS)


if __name__ == "__main__":
    sys.exit(main())
