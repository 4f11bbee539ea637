"""All benchmarks of `results.json`: `python -m benchmarks`.

Measures the planner and the executor, prints tables and writes `benchmarks/results.json`.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import planner, report, speed, start_up

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    start_up_rows = start_up.measure()
    print(report.table("Start-up", report.START_UP, start_up_rows))
    planner_rows = planner.measure()
    title = "Compiling a playbook, compared with `yaml.load(text, Loader=CSafeLoader)` of its text"
    print(report.table(title, report.PLANNER, planner_rows))
    results = {"start_up": start_up_rows, "planner": planner_rows}
    for database in ("SQLite", "Postgres"):
        rows = speed.measure(database)
        print(report.table(speed.title(database), speed.COLUMNS, rows))
        results[database.lower()] = rows
    report.write(RESULTS, results)
    print(f"Written to {RESULTS}.")


if __name__ == "__main__":
    main()
