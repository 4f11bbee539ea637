"""Commands to child runs in a SQL store: they follow when their parent is paused, continues or is cancelled.

Problem: a run may have thousands of child runs. All writers of SQLite would wait for a transaction that
changes them all. A process may die between two transactions, and the next command may come meanwhile.

Algorithm: a durable intent, then idempotent steps: the forward recovery of a saga (Garcia-Molina and Salem
1987). The transaction of a command changes the run, and its child runs until MAX_CHANGES rows are changed.
If some are left, it writes a row of `cascades`: the command, and the child run that was changed last. Further
transactions continue there. A child run may have child runs, and then a row of its own. The request returns
when no row is left. A later command to the same run replaces the row, and begins with the first child run
again. So the last command decides. Workers complete what a process has left every few seconds, and a sweep
does it, too.

Each transaction has locked the run whose child runs it changes, so a row needs no lock of its own. A run that
is cancelled ends, or begins its finally step, after all of its child runs have the command.

Cost: nothing but a deletion without a row, if a run has few child runs. Otherwise a few statements more for
each MAX_CHANGES rows.

Limits: between two transactions, child runs that have not followed yet may begin steps. A child run with many
branches is changed with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from noetl.executor.model.run import RunStatus
from noetl.executor.stores.damage import naming_run
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import Row

MAX_CHANGES = 100
"""After how many changed rows a transaction leaves further child runs to the next one."""

CHILD_ROWS = 3
"""As how many rows a child run counts, without its visits."""

MAX_READ_CHILDREN = 50
"""How many child runs are read at once."""


class ChildCommand(StrEnum):
    """The command that the child runs of a run follow."""

    PAUSE = "pause"
    UNPAUSE = "unpause"
    CANCEL = "cancel"


class ChildSelection(NamedTuple):
    """The child runs of a run that follow a command: of one visit, of all but one, or of all visits.

    `after` is the place of the last one that has followed, or empty.
    """

    run_id: str
    command: ChildCommand
    visit_id: str = ""
    except_visit: str = ""
    after: tuple[float, str] | tuple[()] = ()

    @classmethod
    def from_row(cls, row: Row) -> ChildSelection:
        """Return the selection of a row of `cascades`."""
        after = () if row["after_id"] is None else (row["after_created_at"], row["after_id"])
        return cls(row["run_id"], ChildCommand(row["command"]), row["visit_id"], row["except_visit"], after)

    def is_current(self, stop: str | None) -> bool:
        """Return whether the `stop` of the run still is what the command has made it.

        A process of an earlier version may have changed it.
        """
        if self.command is ChildCommand.PAUSE:
            return stop == RunStatus.PAUSED
        if self.command is ChildCommand.UNPAUSE:
            return stop is None
        return bool(self.visit_id) or stop not in (None, RunStatus.PAUSED)


class Cascade:
    """The commands to child runs in one transaction, and how many rows it may still change.

    `caller` is who requests them, if known. `is_complete` is false if rows of `cascades` were written.
    Damaged runs in `skipped` follow no command.
    """

    __slots__ = ("caller", "db", "is_complete", "left", "now", "skipped")

    def __init__(self, db: Writer, now: float, caller: str | None = None) -> None:
        self.db = db
        self.now = now
        self.caller = caller
        self.left = MAX_CHANGES
        self.is_complete = True
        self.skipped = frozenset[str]()

    def spend(self, rows: int) -> None:
        """Count rows that the transaction has changed."""
        self.left -= rows

    def send(self, selection: ChildSelection, follow: Callable[[str], object]) -> bool:
        """Let child runs follow a command, in the order of their places. Return whether all have followed.

        `follow` changes the child run of an id. What earlier commands to the same run have left is replaced.
        The transaction has locked the run.
        """
        if selection.visit_id:
            self.forget(selection)
        else:
            self.db.execute("cascades.forget_of_run", run_id=selection.run_id)
        return self._advance(selection, follow)

    def resume(self, selection: ChildSelection, follow: Callable[[str], object]) -> bool:
        """Let further child runs follow a command. Return whether all have followed.

        The transaction has locked the run, and read the row of the command.
        """
        self.forget(selection)
        return self._advance(selection, follow)

    def _advance(self, selection: ChildSelection, follow: Callable[[str], object]) -> bool:
        is_last = False
        while not is_last:
            children = self._find(selection)
            is_last = len(children) < MAX_READ_CHILDREN
            for child in children:
                if self.left <= 0:
                    self._record(selection)
                    return False
                self.spend(CHILD_ROWS)
                if child["id"] not in self.skipped:
                    with naming_run(child["id"]):
                        follow(child["id"])
                selection = selection._replace(after=(child["created_at"], child["id"]))
        return True

    def forget(self, selection: ChildSelection) -> None:
        """Delete the row of a command."""
        self.db.execute("cascades.forget", run_id=selection.run_id, visit_id=selection.visit_id)

    def _find(self, selection: ChildSelection) -> Sequence[Row]:
        """Return the next child runs that are to follow."""
        options: dict[str, Any] = {f"is_{selection.command}": True}
        if selection.visit_id:
            options["visit_id"] = selection.visit_id
        if selection.except_visit:
            options["except_visit"] = selection.except_visit
        if selection.after:
            options["created_at"], options["id"] = selection.after
        return self.db.execute(
            "cascades.find_children", run_id=selection.run_id, limit=MAX_READ_CHILDREN, **options
        ).fetchall()

    def _record(self, selection: ChildSelection) -> None:
        """Record that child runs have not followed yet."""
        self.is_complete = False
        created_at, id = selection.after or (None, None)
        self.db.execute(
            "cascades.add",
            run_id=selection.run_id,
            visit_id=selection.visit_id,
            command=selection.command,
            except_visit=selection.except_visit,
            after_created_at=created_at,
            after_id=id,
            caller=self.caller,
        )
