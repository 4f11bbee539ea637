"""The wait of the start of a run for further ones."""

from __future__ import annotations

from noetl.planner.frozen import frozen


@frozen
class Postponement:
    """The wait of a start for further ones. Starts with the same `key`, which is a digest, share a run."""

    key: str
    wait_seconds: float
    max_seconds: float

    def due_at(self, now: float, first_start: float) -> float:
        """Return when the run begins, which was first started at `first_start`.

        >>> [Postponement("k", 30.0, 300.0).due_at(now, 1000.0) for now in (1000.0, 1290.0)]
        [1030.0, 1300.0]
        """
        return min(now + self.wait_seconds, first_start + self.max_seconds)
