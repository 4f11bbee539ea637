"""The request to start a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.model.run import DEFAULT_TENANT, WaitKey
from noetl.planner.frozen import frozen


@frozen
class StartRequest:
    """A request to start a run: all of it except the playbook.

    `input` are the inputs by name. `variables` replace the initial values of declared variables. `trace` is
    the W3C trace of the client. The same `idempotency_key` with the same request starts one run.

    With the origin `local`, only the process that starts the run executes it. Each such run has its own queue
    unless `queue` is given. `folder` is where it was started, `source` the file of its playbook. `parent` is
    the wait that the end of the run answers, `depth` the number of runs above it, and `root` the topmost of
    them. `version` is that of a registered playbook, which may declare none. `run_id` is the id of the run if
    it follows from the request; otherwise the id is random. `trigger` has the name, the type and the time of
    the trigger that starts the run. With `is_immediate`, the run does not wait for further starts, although
    its playbook has `debounce`.
    """

    input: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] | None = None
    tags: Sequence[str] = ()
    trace: str | None = None
    idempotency_key: str | None = None
    tenant: str = DEFAULT_TENANT
    origin: str = "service"
    queue: str | None = None
    folder: str | None = None
    source: str | None = None
    parent: WaitKey | None = None
    depth: int = 0
    root: str | None = None
    version: str | None = None
    run_id: str | None = None
    trigger: Mapping[str, Any] | None = None
    is_immediate: bool = False
