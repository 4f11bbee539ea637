"""Pictures of DOT text, by whichever Graphviz is at hand."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig

_LIMIT_SECONDS = 120


class NoGraphvizError(Exception):
    """No Graphviz is installed. The message says how to get one."""


def image(dot: str, format: str) -> bytes:
    """The picture as `svg` or `png`.

    Raises:
        NoGraphvizError: neither `graphviz-pure` nor `dot` is there, or it did not draw.
    """
    scripts = sysconfig.get_path("scripts")
    program = (
        shutil.which("graphviz-pure", path=scripts) or shutil.which("graphviz-pure") or shutil.which("dot")
    )
    if program is None:
        raise NoGraphvizError(
            f"drawing {format} needs Graphviz, which the extra `graph` of this installation brings"
        )
    try:
        drawn = subprocess.run(
            [program, f"-T{format}"],
            input=dot.encode(),
            capture_output=True,
            check=True,
            timeout=_LIMIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGraphvizError(f"{program} could not draw the plan: {error}") from error
    return drawn.stdout
