"""A finding of `noetl doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be: what was checked, a sentence, and the run that it is about."""

    check: str
    message: str
    run_id: str | None = None
