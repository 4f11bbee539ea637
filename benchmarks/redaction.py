"""The search for secrets in large texts: `python -m benchmarks.redaction`.

Each text is made so that the search has much to do. Measured are the processor time of the search, and how
long another thread of the process waits at most meanwhile. Threads give way as in `noetl serve`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Mapping

from benchmarks import report
from benchmarks.waits import measure_wait
from noetl.api.cli.commands.serve import SWITCH_SECONDS
from noetl.executor.security.redaction import CALLBACK_TOKENS, REVEALED_SECRETS, redact_for_storage

SIZE = 8 * 1024 * 1024
TOKENS = 3000

TEXTS: Mapping[str, Callable[[], str]] = {
    "%252525...": lambda: "%" + "25" * (SIZE // 2),
    "%25%25...": lambda: "%25" * (SIZE // 3),
    "&amp;&amp;...": lambda: "&amp;" * (SIZE // 5),
    "hexadecimal digits": lambda: secrets.token_hex(SIZE // 2),
    f"{TOKENS} callback tokens": lambda: (
        " ".join(CALLBACK_TOKENS.create() for _ in range(TOKENS)) + " x" * (SIZE // 2)
    ),
}


def main() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    REVEALED_SECRETS.add("correct horse battery staple")
    CALLBACK_TOKENS.create()
    rows = [measure(name, make()) for name, make in TEXTS.items()]
    columns: list[report.Column] = [
        ("text", lambda row: row["text"]),
        ("MB", lambda row: f"{row['bytes'] / 1e6:.1f}"),
        ("processor time", lambda row: f"{row['seconds']:.2f} s"),
        ("longest wait", lambda row: f"{row['wait'] * 1e3:.0f} ms"),
    ]
    print(report.table("The search for secrets in large texts", columns, rows))


def measure(name: str, text: str) -> dict[str, object]:
    """Return how long a text is searched, and how long another thread waits at most."""
    seconds, wait = measure_wait(lambda: redact_for_storage(text))
    return {"text": name, "bytes": len(text), "seconds": seconds, "wait": wait}


if __name__ == "__main__":
    main()
