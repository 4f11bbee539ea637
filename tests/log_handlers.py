"""The handlers of the root logger, which serve all tests of a process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Give the handlers of the root logger their filters and formatters back, and the logger its level."""
    root = logging.getLogger()
    level = root.level
    before = [(handler, handler.filters[:], handler.formatter) for handler in root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        for handler, filters, formatter in before:
            handler.filters[:] = filters
            handler.setFormatter(formatter)
