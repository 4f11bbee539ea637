"""Cost of a new connection for a request of `http`: `python -m benchmarks.connections`.

A run opens its own connections, so its first request to a server does what a later one does not: it resolves
the name, connects, and with https exchanges keys. Pairs of requests are sent to a server in this process,
over http and https. The first one is of a new run, and the second of a run whose connection is kept. Times
are medians, and the ratio is the median of the pairs. A distant server adds a round trip to a new connection,
and two with https (TLS 1.3).
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import report
from noetl.executor.actions import handler
from tests.action_calls import create_call
from tests.certificates import write_certificate
from tests.http_server import serve

REQUESTS = 300
PAUSE_SECONDS = 0.01
"""Time between two requests, in which a kept connection settles."""

COLUMNS: tuple[report.Column, ...] = (
    ("server", lambda row: row["server"]),
    ("new connection", lambda row: f"{row['new_seconds'] * 1e3:.2f} ms"),
    ("kept", lambda row: f"{row['kept_seconds'] * 1e3:.2f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.1f}"),
)


def measure(url: str, requests: int) -> report.Row:
    """Return the times of requests to a server, on new connections and on a kept one."""
    call, perform = create_call("http", {"url": url}), handler("http")

    def time_request(run_id: str) -> float:
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        perform(replace(call, labels={**call.labels, "run": run_id}))
        return time.perf_counter() - started

    time_request("kept")
    pairs = [(time_request(f"new-{number}"), time_request("kept")) for number in range(requests)]
    return {
        "server": url.partition(":")[0],
        "new_seconds": median(new for new, _ in pairs),
        "kept_seconds": median(kept for _, kept in pairs),
        "ratio": median(new / kept for new, kept in pairs),
    }


@contextmanager
def secure_server() -> Iterator[str]:
    """Yield the URL of a server whose certificate the clients of this process trust."""
    with tempfile.TemporaryDirectory() as folder:
        certificate = write_certificate(Path(folder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        os.environ["SSL_CERT_FILE"] = str(certificate)
        with serve(lambda exchange: exchange.reply(), context) as server:
            yield server.url(host="localhost").replace("http:", "https:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="pairs of requests")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    options = parser.parse_args()
    # The trusted certificates are read when the first connection is opened.
    with secure_server() as secure_url, serve(lambda exchange: exchange.reply()) as server:
        rows = [measure(url, options.requests) for url in (server.url(host="localhost"), secure_url)]
    if options.json:
        print(json.dumps({"machine": report.machine(), "rows": rows}))
    else:
        print(report.table("A request of `http`, medians", COLUMNS, rows))


if __name__ == "__main__":
    main()
