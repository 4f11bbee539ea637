"""The bytes that the playbook of a run may log and write to files, over all visits and processes.

Problem: a loop of `log` actions writes gigabytes, which fill a disk or cost money. The visits of a run are
executed by many processes, and in functions by another one each time. A count in each of them limits nothing.
A count in the store would cost a write for each line.

Algorithm: a counter for each run in the process, which adds to that of the store a portion at a time. The
answer of the store is the sum of all processes, and the process continues from it. A portion is a PORTIONS-th
of the limit. Compare the leases of `noetl.api.auth.rate_limits`.

A line of the log counts as it is written: with its labels and the escapes of JSON (`line_size`). Otherwise
empty messages would cost nothing, and control characters a sixth of their length.

Cost: an addition for each file, and the encoding of each line. A write for each portion, so a run that uses
less than one causes no write. A run over its limit causes none either.

Limits: each process may exceed the limit by a portion. It forgets the run that has used bytes least recently.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from noetl.executor.errors import ActionError
from noetl.executor.model.byte_kind import ByteKind

PORTIONS = 256
MAX_RUNS = 10_000
"""How many runs a process counts."""

LINE_BYTES = 192
"""The bytes of a line without message, fields and labels: names, signs, time, level, and the request's id."""

Log: TypeAlias = Callable[[str, str, Mapping[str, Any]], None]
"""A function that writes a line: (level, message, fields)."""

AddToStore: TypeAlias = Callable[[str, ByteKind, int], int]
"""A function that adds to the bytes of a run in the store, and returns their sum: (run id, kind, bytes)."""


class ByteCounter:
    """The bytes of one kind by run. Safe to share between threads."""

    def __init__(self, kind: ByteKind, max_runs: int = MAX_RUNS) -> None:
        self._kind: ByteKind = kind
        self._max_runs = max_runs
        self._runs: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """By run: the bytes of all processes as far as known, and those of this one that the store lacks."""
        self._lock = threading.Lock()

    def add(self, run_id: str, size: int, limit: int, add_to_store: AddToStore) -> tuple[int, int]:
        """Add to the bytes of a run, and return their number before and after.

        Beyond the limit nothing is stored any more.

        Raises:
            StoreError: the store cannot count. The bytes are added with the next portion.
        """
        portion = max(limit // PORTIONS, 1)
        with self._lock:
            before, missing = self._runs.pop(run_id, (0, 0))
            after, missing = before + size, missing + size
            is_due = before <= limit and missing >= portion
            self._keep(run_id, after, 0 if is_due else missing)
        if not is_due:
            return before, after
        try:
            total = add_to_store(run_id, self._kind, missing)
        except BaseException:  # also the exception by which the watchdog stops this thread
            with self._lock:
                known, later = self._runs.pop(run_id, (0, 0))
                self._keep(run_id, known, later + missing)
            raise
        with self._lock:
            known, later = self._runs.pop(run_id, (0, 0))
            known = max(known, total + later)
            self._keep(run_id, known, later)
        return before, known

    def _keep(self, run_id: str, known: int, missing: int) -> None:
        self._runs[run_id] = known, missing
        if len(self._runs) > self._max_runs:
            self._runs.popitem(last=False)


LOGGED_BYTES = ByteCounter("logged")
WRITTEN_BYTES = ByteCounter("written")


def ignore_bytes(_run_id: str, _kind: ByteKind, _size: int) -> int:
    """Return 0: the bytes of this process are all that there are."""
    return 0


def line_size(message: str, fields: Mapping[str, Any], labels: Mapping[str, Any]) -> int:
    r"""Return how many bytes `noetl.executor.runtime.json_logs` writes for a line, or a few more.

    >>> line_size("\0", {}, {}) - line_size("x", {}, {})
    5
    """
    return LINE_BYTES + len(json.dumps((message, fields, labels), default=str))


def limit_log(
    labels: Mapping[str, Any],
    limit: int | None,
    log: Log,
    *,
    counter: ByteCounter = LOGGED_BYTES,
    add_to_store: AddToStore = ignore_bytes,
) -> Log:
    """Return the log function of a run that logs up to `limit` bytes, or any number if it is None.

    `labels` are those of each line, with the id of the run.
    The line that would exceed the limit is replaced by one that says so, and later lines are dropped.
    """
    if limit is None:
        return log

    def write(level: str, message: str, fields: Mapping[str, Any]) -> None:
        size = line_size(message, fields, labels)
        before, after = counter.add(labels["run"], size, limit, add_to_store)
        if after <= limit:
            log(level, message, fields)
        elif before <= limit:
            text = f"the run has logged {limit:,} bytes (NOETL_LOG_BYTES); its later lines are dropped"
            log("warning", text, {})

    return write


def limit_files(
    run_id: str,
    limit: int | None,
    *,
    counter: ByteCounter = WRITTEN_BYTES,
    add_to_store: AddToStore = ignore_bytes,
) -> Callable[[int], None]:
    """Return the function that counts the bytes that a run is about to write, up to `limit`.

    It raises ActionError `LimitExceeded` beyond the limit. Nothing is given back for deleted files.
    """

    def count(size: int) -> None:
        if limit is not None and counter.add(run_id, size, limit, add_to_store)[1] > limit:
            message = f"the run writes more than {limit:,} bytes to files (NOETL_FILE_BYTES)"
            raise ActionError("LimitExceeded", message, retryable=False)

    return count
