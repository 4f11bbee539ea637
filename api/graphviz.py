"""Rendering of DOT text with the installed Graphviz."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

_FOLDERS = os.pathsep.join((sysconfig.get_path("scripts"), str(Path(__file__).parents[2] / "bin")))
"""Folders of the programs of packages: those of this Python, and that of the package of a function."""

MAX_SECONDS = 120.0
"""How long Graphviz may take for a person who waits at a terminal. A service has a lower limit."""


class GraphvizError(Exception):
    """Graphviz is not installed or has failed. The message names the remedy."""


class GraphvizTimeoutError(GraphvizError):
    """Graphviz takes too long, or was ended for the time or the memory that it took."""


def render(dot: str, format: str, seconds: float = MAX_SECONDS) -> bytes:
    """Render DOT text as `svg`, or as coordinates in the format `json0`, in at most `seconds`.

    Raises:
        GraphvizError: neither `graphviz-pure` nor `dot` can be found, or the program has failed.
    """
    program = shutil.which("graphviz-pure", path=_FOLDERS) or shutil.which("graphviz-pure")
    program = program or shutil.which("dot")
    if program is None:
        raise GraphvizError(
            "the program `graphviz-pure` of NoETL is missing, so nothing can be drawn; install NoETL again"
        )
    try:
        process = subprocess.run(
            [program, f"-T{format}"],
            input=dot.encode(),
            capture_output=True,
            check=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        message = f"Graphviz takes more than {seconds:g} s to draw the plan"
        raise GraphvizTimeoutError(message) from None
    except subprocess.CalledProcessError as error:
        if error.returncode < 0:
            raise GraphvizTimeoutError("Graphviz takes too long to draw the plan") from None
        raise GraphvizError(f"Graphviz cannot draw the plan; it ended with {error.returncode}") from None
    except OSError as error:
        raise GraphvizError(f"Graphviz cannot be started: {error.strerror}") from None
    return process.stdout
