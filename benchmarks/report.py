"""Results as tables for a terminal, and as JSON."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

PLANNER: Sequence[Column] = (
    ("shape", lambda row: row["shape"]),
    ("steps", lambda row: f"{row['steps']:,}"),
    ("compile", lambda row: f"{row['compile_seconds'] * 1e3:,.0f} ms"),
    ("a step", lambda row: f"{row['compile_microseconds_per_step']:,.0f} µs"),
    ("load", lambda row: f"{row['load_seconds'] * 1e3:,.0f} ms"),
    ("compile/load", lambda row: f"{row['ratio']:.1f}"),
    ("load, GC paused", lambda row: f"{row['load_without_collection_seconds'] * 1e3:,.0f} ms"),
    ("compile/that", lambda row: f"{row['ratio_without_collection']:.1f}"),
)
START_UP: Sequence[Column] = (
    ("command", lambda row: row["command"]),
    ("time", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
)
MUTANTS: Sequence[Column] = (
    ("operator", lambda row: row["operator"]),
    ("mutants", lambda row: f"{row['mutants']:,}"),
    ("the same", lambda row: f"{row['same']:,}"),
    ("another playbook", lambda row: f"{row['other']:,}"),
    ("worse", lambda row: f"{row['worse']:,}"),
    ("no playbook", lambda row: f"{row['outside']:,}"),
    ("detected", lambda row: _share(row["detected"], row["wrong"])),
    ("right place", lambda row: _share(row["placed"], row["wrong"])),
    ("refused all the same", lambda row: f"{row['refused_anyway']:,}"),
)
VALID: Sequence[Column] = (
    ("source", lambda row: row["source"]),
    ("playbooks", lambda row: f"{row['playbooks']:,}"),
    ("errors", lambda row: f"{row['error']:,}"),
    ("warnings", lambda row: f"{row['warning']:,}"),
    ("notes", lambda row: f"{row['note']:,}"),
)
AGREEMENT: Sequence[Column] = (
    ("playbooks", lambda row: row["of"]),
    ("number", lambda row: f"{row['playbooks']:,}"),
    ("without errors", lambda row: f"{row['without_errors']:,}"),
    ("runs", lambda row: f"{row['runs']:,}"),
    ("states", lambda row: f"{row['states']:,}"),
    ("confirmed", lambda row: f"{sum(row['confirmed'].values()):,}"),
    ("refuted", lambda row: f"{sum(row['refuted'].values()):,}"),
    ("unreported", lambda row: f"{sum(row['untold'].values()):,}"),
)


def _share(part: int, total: int) -> str:
    return f"{part:,} ({100 * part / total:.1f} %)" if total else "-"


def table(title: str, columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return the rows as text under a title. All columns except the first are aligned right."""
    cells = [[name for name, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return "\n".join([title, "", lines[0], "-" * len(lines[0]), *lines[1:], ""])


def machine() -> dict[str, Any]:
    """Return what the results depend on."""
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def write(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Write the results as JSON, with a description of the machine."""
    path.write_text(
        json.dumps({"machine": machine(), **results}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
