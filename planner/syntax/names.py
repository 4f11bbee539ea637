"""Rules for the names of steps, tasks and values."""

from __future__ import annotations

RESERVED_NAMES = frozenset(
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
"""Words of the language, which cannot be names of values."""

RESERVED_TRIGGER_NAMES = ("firings", "fire", "pause", "resume")
"""Names that triggers cannot have: they follow the name of a trigger in addresses of the service."""

MAX_NAME_LENGTH = 100
"""How many characters the name of a step or task may have."""

INTERNAL_PREFIX = "@"
"""The prefix of the internal steps that a run has in addition to those of its playbook."""

MAX_TASK_DEPTH = 32
"""How deep tasks may call each other."""


def find_identifier_problem(name: str) -> str | None:
    """Return why a name is not an identifier, or None.

    >>> find_identifier_problem("a1"), find_identifier_problem("1a")[:26]
    (None, '`1a` is not an identifier:')
    """
    if name.isidentifier() and not name.startswith("_"):
        return None
    return f"`{name}` is not an identifier: it must be letters, digits and `_`, and start with a letter"


def is_valid_name(name: str) -> bool:
    """Return whether a step or task may have this name.

    >>> is_valid_name("Run Import"), is_valid_name(" a"), is_valid_name("")
    (True, False, False)
    """
    return 0 < len(name) <= MAX_NAME_LENGTH and name == name.strip() and name.isprintable()
