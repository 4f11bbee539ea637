"""The latest visit of each step of runs in a SQL store, and how many visits of the step have started.

Problem: a run may have visited a step thousands of times. The status of a run, and a page of such runs, must
not read all visits.

Algorithm: a skip scan (Leslie et al. 1995) looks up each step in the order of an index, and its latest visit.
The number of that visit says how many there are. A run whose steps were visited at most
MANY_VISITS times is read in one scan, which is faster for many steps.

Cost: one statement for the runs of each kind, and one for those of a page with long journals. Of a run, it
reads at most MANY_VISITS visits of each step on a cycle.

Limits: in a run that continues another one, the visits of a step are counted in the index. On SQLite, so are
those of a run that was stopped, paused, has failed, or performs its branches one at a time. Visits of steps
that are on no cycle have no numbers, and are counted, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from noetl.executor.model.run_summary import MAX_READ_JOURNAL
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import Row

MANY_VISITS = 50
"""How often a step of a run may be visited if all visits of the run are read."""

MAX_READ_TOGETHER = 4 * 1024 * 1024
"""How many characters long journals of a page may have that are read together."""

_ANY_LENGTH = (1 << 31) - 1


def read_latest_of_run(database: Database, run: Row) -> list[Row]:
    """Return rows with the latest visits of a run. `run` is a row with its summary."""
    if run["visits"] <= MANY_VISITS:
        return database.fetch_all("runs.latest_visits", run_id=run["id"])
    ids = database.encode_list([run["id"]])
    return database.fetch_all("runs.latest_visits_of_long_runs", ids=ids, max_journal=_ANY_LENGTH)


def read_latest_visits(database: Database, runs: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Return rows with the latest visits of runs, by run. `runs` are rows with summaries.

    Journals of more than MAX_READ_JOURNAL characters are read up to MAX_READ_TOGETHER. The others are left
    out, and their rows say that they are long.
    """
    visits = _read_visits(database, runs, MAX_READ_JOURNAL)
    chosen, free = [], MAX_READ_TOGETHER
    for run in runs:
        length = sum(row["journal"] or 0 for row in visits.get(run["id"], ()) if row["is_long"])
        if 0 < length <= free:
            free -= length
            chosen.append(run)
    return {**visits, **_read_visits(database, chosen, MAX_READ_TOGETHER)} if chosen else visits


def _read_visits(database: Database, runs: Sequence[Row], max_journal: int) -> Mapping[str, list[Row]]:
    visits = defaultdict[str, list[Row]](list)
    for is_long, query in ((False, "runs.latest_visits_of_runs"), (True, "runs.latest_visits_of_long_runs")):
        wanted = [row["id"] for row in runs if (row["visits"] > MANY_VISITS) is is_long]
        if wanted:
            ids = database.encode_list(wanted)
            for row in database.fetch_all(query, ids=ids, max_journal=max_journal):
                visits[row["run_id"]].append(row)
    return visits
