"""Calls of actions as the executor makes them: with rendered parameters and a deadline."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities

LOCAL = local_run_capabilities(Path.cwd())


def create_call(
    action_type: str,
    parameters: Mapping[str, Any],
    names: Mapping[str, Any] | None = None,
    seconds: float = 30,
) -> Call:
    """Return a call of an action whose templates read `names`. Its deadline is in `seconds`."""
    known = names or {}
    rendered = render_parameters(catalogue()[action_type], parameters, known.__getitem__)
    return Call(rendered, "key-1", time.monotonic() + seconds, LOCAL)


def perform_action(
    action_type: str,
    *,
    capabilities: Capabilities = LOCAL,
    names: Mapping[str, Any] | None = None,
    seconds: float = 30,
    key: str = "key-1",
    **parameters: Any,
) -> Any:
    """Perform an action whose templates read `names`, and return its result."""
    call = create_call(action_type, parameters, names, seconds)
    return handler(action_type)(replace(call, capabilities=capabilities, idempotency_key=key))
