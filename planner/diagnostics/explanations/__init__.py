"""The explanation pages of the diagnostic codes.

Each page declares a code: it has the title, the severity, the meaning, the reason, the fix, a failing and a
passing example. The tests compile the examples.
"""

from __future__ import annotations

from functools import cache


@cache
def explained_codes() -> tuple[str, ...]:
    """Return the codes that have a page, in their order."""
    from importlib.resources import files

    names = (page.name for page in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(".md") for name in names if name.endswith(".md")))


def explanation(code: str) -> str:
    """Return the page of a code of `CODES`, in Markdown."""
    from importlib.resources import files

    return files(__name__).joinpath(f"{code}.md").read_text(encoding="utf-8")
