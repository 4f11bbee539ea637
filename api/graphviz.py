"""Rendering of DOT text with the installed Graphviz."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig

_TIMEOUT_SECONDS = 120


class GraphvizError(Exception):
    """Graphviz is not installed or has failed. The message names the remedy."""


def render(dot: str, format: str) -> bytes:
    """Render DOT text as `svg` or `png`.

    Raises:
        GraphvizError: neither `graphviz-pure` nor `dot` is installed, or the program has failed.
    """
    scripts = sysconfig.get_path("scripts")
    program = (
        shutil.which("graphviz-pure", path=scripts) or shutil.which("graphviz-pure") or shutil.which("dot")
    )
    if program is None:
        from noetl.executor.extras import install_command

        command = install_command("graph", sys.executable)
        raise GraphvizError(f"{format} needs Graphviz; install it with `{command}`")
    try:
        process = subprocess.run(
            [program, f"-T{format}"],
            input=dot.encode(),
            capture_output=True,
            check=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise GraphvizError(f"{program} cannot draw the plan: {error}") from error
    return process.stdout
