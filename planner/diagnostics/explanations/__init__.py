"""A page for every code: what it means, why it matters, how to mend it, an example that fails and one that passes.

The pages are the examples' only copy: the tests read them from here and compile them.
"""

from __future__ import annotations

from importlib.resources import files


def explanation(code: str) -> str:
    """The page of a code of `CODES`, in Markdown."""
    return files(__name__).joinpath(f"{code}.md").read_text(encoding="utf-8")
