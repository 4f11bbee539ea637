"""Statements of every GET route, with 10 and with 200 of each thing: `python -m benchmarks.routes`.

A page has up to 200 entries. The table has the numbers of statements on SQLite and Postgres.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from noetl.infra.migrations import upgrade
from tests.api.test_route_costs import count_statements
from tests.postgres import empty_database, running_server

COUNTS = (10, 200)
COLUMNS: Sequence[report.Column] = (
    ("route", lambda row: row["route"]),
    *(
        (f"{store}: {count}", lambda row, store=store, count=count: f"{row[f'{store}: {count}']}")
        for store in ("SQLite", "Postgres")
        for count in COUNTS
    ),
)


def measure() -> list[report.Row]:
    """Return a row for each address, with its statements for each store and number of things."""
    rows: dict[str, report.Row] = {}
    with running_server() as server:
        for count in COUNTS:
            with tempfile.TemporaryDirectory() as folder, empty_database(server.dsn) as dsn:
                upgrade(dsn)
                urls = {"SQLite": f"sqlite:///{Path(folder) / 'noetl.db'}", "Postgres": dsn}
                for store, url in urls.items():
                    for address, number in asyncio.run(count_statements(url, count)).items():
                        rows.setdefault(address, {"route": address})[f"{store}: {count}"] = number
    return list(rows.values())


def main() -> None:
    print(report.table("Statements of GET routes", COLUMNS, measure()))


if __name__ == "__main__":
    main()
