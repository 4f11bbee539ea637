"""The seeds of the random playbooks that tests judge, which are the same in every session by default."""

from __future__ import annotations

import os
import time

FIXED_SEED = 1_000_000


def seeds_of_chunk(chunk: int, size: int) -> range:
    """Return the seeds of one of several chunks of `size` playbooks.

    `NOETL_ORACLE_SEED` sets the first seed. With `HYPOTHESIS_PROFILE=explore` it is taken from the clock.
    """
    explores = os.environ.get("HYPOTHESIS_PROFILE") == "explore"
    default = int(time.time()) % 10**8 * 1000 if explores else FIXED_SEED
    first = int(os.environ.get("NOETL_ORACLE_SEED", default)) + chunk * size
    return range(first, first + size)
