"""The cyclic garbage collector, out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """No cycles are looked for within: with much built and nothing dropped, the search would take most of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def never_collected() -> Iterator[None]:
    """What is made within is not looked through for cycles, then or ever: it stays as long as the process."""
    with collection_paused():
        yield
        gc.freeze()
