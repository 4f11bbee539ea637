"""The limit of child runs: how many runs a run and its child runs may start together.

Problem: a playbook that starts itself in a loop of 100 starts 100 runs, and each of them 100 more, down to
ten levels. Each may start in another process.

Algorithm: each child run knows the root of its tree, the run that no run has started. The store counts the
runs of each root in the transaction that starts one. So a start that is repeated counts once.

Cost: one more row or item in that transaction. The start of another run, and a step, cost nothing more.

Limits: local runs have no limit. A store may count in parts, and then allow up to a tenth more.
"""

from __future__ import annotations

from noetl.executor.errors import RejectedError

CHILD_RUNS_SETTING = "NOETL_MAX_CHILD_RUNS"
DEFAULT_CHILD_RUNS = 10_000


def too_many_child_runs(root: str, limit: int) -> RejectedError:
    """Return the error of a start beyond the limit."""
    message = f"run {root} and its child runs have started {limit:,} runs ({CHILD_RUNS_SETTING})"
    return RejectedError("quota_exceeded", message, limit=limit, setting=CHILD_RUNS_SETTING)
