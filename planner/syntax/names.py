"""Names in a playbook: which are legal, which are reserved, and how long they may be."""

from __future__ import annotations

RESERVED = frozenset(
    [
        "input",
        "environment",
        "variables",
        "args",
        "steps",
        "run",
        "step",
        "item",
        "loop",
        "result",
        "error",
        "secrets",
        "callback",
        "default",
        "now",
        "uuid",
        "none",
        "true",
        "false",
    ]
)
MAX_NAME = 100
OURS = "@"
"""What the names of the steps begin with that a run has besides those of its playbook."""
MAX_TASK_DEPTH = 32


def is_name(name: str) -> bool:
    """Whether a step or task may be called so."""
    return 0 < len(name) <= MAX_NAME and name == name.strip() and name.isprintable()
