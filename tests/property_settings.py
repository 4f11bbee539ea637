"""Settings of property tests, as multiples of the number of examples of the profile."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(factor: float, **options: Any) -> settings:
    """Return settings with `factor` times the examples of the profile (`tests/conftest.py`).

    A plain number would hold in every profile: `brief` would not be brief, and `explore` would not explore.
    """
    return settings(max_examples=round(factor * settings().max_examples), **options)
