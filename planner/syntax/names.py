"""Rules for the names of steps, tasks and values."""

from __future__ import annotations

import re

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


MAX_WEBHOOK_PATH_LENGTH = 200
"""How many characters the path of a webhook may have."""

_WEBHOOK_PATH = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


def is_webhook_path(path: str) -> bool:
    """Return whether a webhook may have this path.

    >>> is_webhook_path("stripe/paid"), is_webhook_path("a/../b"), is_webhook_path("a/")
    (True, False, False)
    """
    is_dotted = any(segment in (".", "..") for segment in path.split("/"))
    return len(path) <= MAX_WEBHOOK_PATH_LENGTH and bool(_WEBHOOK_PATH.fullmatch(path)) and not is_dotted


_SECRET_READ = re.compile(r"\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def find_secret_name(text: str) -> str | None:
    """Return the name of the secret that a text is, or None if it is anything else.

    >>> find_secret_name("{{ secrets.STRIPE }}"), find_secret_name("a{{ secrets.STRIPE }}")
    ('STRIPE', None)
    """
    match = _SECRET_READ.fullmatch(text.strip())
    return match[1] if match else None


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
