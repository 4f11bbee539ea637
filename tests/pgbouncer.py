"""A real PgBouncer for tests: `pgbouncer` of the system, which `apt-get install pgbouncer` installs.

Each process is private to a test and listens on a Unix socket. It ends with the test.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

FIRST_PORT = 6432


def find_pgbouncer() -> str:
    """Return the path of the program. Debian installs it where only root has a PATH to."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
    program = shutil.which("pgbouncer", path=path)
    assert program is not None, (
        "the tests need PgBouncer: run `apt-get install --no-install-recommends pgbouncer`"
    )
    return program


@contextmanager
def running_pgbouncer(dsn: str, mode: str, max_prepared: int, **options: str) -> Iterator[str]:
    """Start a PgBouncer in front of a server on a Unix socket, and yield the DSN of the same database."""
    target = urlsplit(dsn)
    server = parse_qs(target.query)["host"][0]
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="noetl-pooler-", dir="/tmp") as folder:
        settings = {
            "auth_type": "any",
            "ignore_startup_parameters": "extra_float_digits",
            "listen_port": str(FIRST_PORT),
            "logfile": f"{folder}/log",
            "max_prepared_statements": str(max_prepared),
            "pool_mode": mode,
            "unix_socket_dir": folder,
            **options,
        }
        lines = ["[databases]", f"* = host={server} user={target.username}", "[pgbouncer]"]
        Path(folder, "ini").write_text(
            "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items())])
        )
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        process = subprocess.Popen(
            [find_pgbouncer(), "--quiet", f"{folder}/ini"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
        )
        try:
            pooled = f"postgresql://postgres@{target.path}?host={quote(folder, safe='')}&port={FIRST_PORT}"
            pooled = f"postgresql://postgres@{target.path}?host={quote(folder, safe='')}&port={FIRST_PORT}"
            _wait_until_ready(process, f"{folder}/log", Path(folder, f".s.PGSQL.{FIRST_PORT}"))
            yield pooled
        finally:
            # SIGINT would wait for the clients.
            process.terminate()
            process.wait(10)


def _wait_until_ready(process: subprocess.Popen[bytes], log: str, listener: Path) -> None:
    deadline = time.monotonic() + 20
    while not listener.exists():
        assert process.poll() is None and time.monotonic() < deadline, Path(log).read_text()
        time.sleep(0.01)
