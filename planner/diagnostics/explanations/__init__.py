"""The explanation pages of the diagnostic codes.

Each page has the meaning, the reason, the fix, a failing and a passing example. The tests compile the
examples.
"""

from __future__ import annotations

from importlib.resources import files


def explanation(code: str) -> str:
    """Return the page of a code of `CODES`, in Markdown."""
    return files(__name__).joinpath(f"{code}.md").read_text(encoding="utf-8")
