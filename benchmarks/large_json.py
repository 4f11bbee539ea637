"""JSON of megabytes, in one piece and in parts: `python -m benchmarks.large_json`.

Measured are the processor time, and how long another thread of the process waits at most meanwhile. Threads
give way as in `noetl serve`. The objects of the benchmark itself are not collected as garbage.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import report
from benchmarks.waits import measure_wait
from noetl.api.cli.commands.serve import SWITCH_SECONDS
from noetl.executor.model.large_json import read_large_json, write_large_json

VALUES: Mapping[str, Callable[[], Any]] = {
    "a million numbers": lambda: list(range(1_000_000)),
    "120,000 rows": lambda: [{"id": n, "name": f"name {n}", "value": n * 1.5} for n in range(120_000)],
    "120,000 rows with lists of objects": lambda: {
        str(n): {"name": "a,b", "rows": [{"n": n}, {"m": [{}]}]} for n in range(120_000)
    },
    "700,000 lists": lambda: [[n] for n in range(700_000)],
    "500,000 strings": lambda: ["abc def ghi"] * 500_000,
}

encode = json.JSONEncoder(separators=(",", ":")).encode


def main() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    rows = [measure(name, make) for name, make in VALUES.items()]
    columns: list[report.Column] = [
        ("value", lambda row: row["value"]),
        ("MB", lambda row: f"{row['bytes'] / 1e6:.1f}"),
    ]
    for key in ("read", "read in parts", "written", "written in parts"):
        columns += [(f"wait, {key}", milliseconds(key, 1)), ("processor", milliseconds(key, 0))]
    print(report.table("JSON of megabytes, and how long another thread waits", columns, rows))


def milliseconds(key: str, index: int) -> Callable[[report.Row], str]:
    """Return a function that shows one of the times of a way."""
    return lambda row: f"{row[key][index] * 1e3:.0f} ms"


def measure(name: str, make: Callable[[], Any]) -> report.Row:
    """Return the processor time and the longest wait of each way to read and to write a value, in seconds."""
    value = make()
    text = encode(value)
    gc.collect()
    gc.freeze()
    works: Mapping[str, Callable[[], object]] = {
        "written": lambda: encode(value),
        "written in parts": lambda: write_large_json(value, encode),
        "read": lambda: json.loads(text),
        "read in parts": lambda: read_large_json(text),
    }
    return {"value": name, "bytes": len(text)} | {key: measure_wait(work) for key, work in works.items()}


if __name__ == "__main__":
    main()
