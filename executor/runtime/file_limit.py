"""The limit of the files that a process may open: connections, files of its store, pipes of commands."""

from __future__ import annotations

import logging

MAX_FILES = 65_536
RESERVED_FILES = 200
"""Files that a process needs besides the connections of its clients: the store, pipes and folders."""

logger = logging.getLogger("noetl.executor")


def raise_file_limit() -> int:
    """Raise the soft limit of open files as far as the hard limit allows, and return it.

    Log a warning if the process may open few files.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return MAX_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = MAX_FILES if soft == resource.RLIM_INFINITY else soft
    if files < 2 * RESERVED_FILES:
        logger.warning(
            "this process may open %d files only: raise its limit (`ulimit -n`, LimitNOFILE)", files
        )
    return files
