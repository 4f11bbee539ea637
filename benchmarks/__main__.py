"""`python -m benchmarks`: measures the planner and the executor, prints tables and writes `benchmarks/results.json`."""

from __future__ import annotations

from pathlib import Path

from benchmarks import executor, planner, postgres, report, start_up

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    start_up_rows = start_up.measure()
    print(report.table("Start-up", report.START_UP, start_up_rows))
    planner_rows = planner.measure()
    title = "Compiling a playbook, compared with `yaml.load(text, Loader=CSafeLoader)` of its text"
    print(report.table(title, report.PLANNER, planner_rows))
    executor_rows = executor.measure()
    title = "Walking with one thread on SQLite, compared with one committed row (WAL, synchronous=FULL)"
    print(report.table(title, report.EXECUTOR, executor_rows))
    postgres_rows = postgres.measure()
    print(report.table(report.POSTGRES_TITLE, report.POSTGRES, postgres_rows))
    results = {"start_up": start_up_rows, "planner": planner_rows, "executor": executor_rows, "postgres": postgres_rows}
    report.write(RESULTS, results)
    print(f"Written to {RESULTS}.")


if __name__ == "__main__":
    main()
