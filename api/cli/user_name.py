"""The name of the person who uses a command."""

from __future__ import annotations


def user_name() -> str | None:
    """Return the name of the user of this process, or None if it has none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
