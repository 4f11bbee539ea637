"""Calls of actions as the executor makes them: with rendered parameters and a deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities

LOCAL = local_run_capabilities(Path.cwd())


def perform_action(
    action_type: str,
    *,
    capabilities: Capabilities = LOCAL,
    names: Mapping[str, Any] | None = None,
    seconds: float = 30,
    key: str = "key-1",
    timeout_seconds: float | None = None,
    **parameters: Any,
) -> Any:
    """Perform an action whose templates read `names`, and return its result.

    `timeout_seconds` is that of the action.
    """
    known = names or {}
    rendered = render_parameters(catalogue()[action_type], parameters, known.__getitem__)
    call = Call(rendered, key, time.monotonic() + seconds, capabilities, timeout_seconds=timeout_seconds)
    return handler(action_type)(call)
