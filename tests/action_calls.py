"""Calls of installed action types with the capabilities of a local run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from noetl.testing.actions import ActionTester

LOCAL = local_run_capabilities(Path.cwd())


def create_call(action_type: str, parameters: Mapping[str, Any]) -> Call:
    """Return a call of an action."""
    return ActionTester(action_type, LOCAL).create_call(parameters)


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
    tester = ActionTester(action_type, capabilities, seconds=seconds, idempotency_key=key)
    return tester.perform(parameters, names)
