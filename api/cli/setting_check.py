"""The warning about a misspelt setting."""

from __future__ import annotations

from collections.abc import Mapping

from noetl.api.cli.display.console import print_message

_PREFIX = "NOETL_"


def warn_about_unknown_settings(environ: Mapping[str, str]) -> None:
    """Print a warning for each environment variable that resembles a setting and is none.

    Other variables that begin with `NOETL_` may belong to another program, so nothing is said about them.
    """
    names = sorted(name for name in environ if name.startswith(_PREFIX))
    if not names:
        return
    from noetl.executor.settings import SECRET_PREFIXES, SETTINGS
    from noetl.planner.diagnostics.diagnostic import closest

    settings = {setting.name.removeprefix(_PREFIX) for setting in SETTINGS}
    for name in names:
        word = name.removeprefix(_PREFIX)
        if word in settings or name.startswith(SECRET_PREFIXES):
            continue
        if meant := closest(word, settings):
            print_message(f"noetl: unknown setting `{name}`; did you mean `{_PREFIX}{meant}`?")
