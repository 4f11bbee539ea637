"""The kinds of bytes that are counted for a run."""

from __future__ import annotations

from typing import Literal

ByteKind = Literal["logged", "written"]
"""`logged`: by the log of its playbook. `written`: to files."""
